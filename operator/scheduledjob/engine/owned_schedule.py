"""An owned schedule: a row that this replica has claimed and has not released yet.

It contains the row as claimed, the schedule, the lease, and a ``RunningAttempt`` for each attempt that runs now.
``ownership.py`` decides what happens to it, and has the table of its phases.

Replicas create and drop thousands of these each second, and the garbage collector would visit each again and again.
So it does not track them (``gc=False``, and tuples instead of lists). That is safe because the end of an attempt breaks
every reference cycle that they are part of, and every attempt ends.
"""

from __future__ import annotations

import asyncio
from enum import IntEnum
from typing import TYPE_CHECKING

import msgspec

from scheduledjob.domain.schedule.actions import AttemptEnd, identities
from scheduledjob.domain.schedule.definition import Definition
from scheduledjob.domain.schedule.schedule import Schedule
from scheduledjob.domain.schedule.state import Outcome, Run, State
from scheduledjob.domain.time.instants import Instant

from .executor import Attempt
from .kinds import JobKind
from .leases import Lease
from .observer import Stats
from .stored_row import Disposition, Row, Settlement

if TYPE_CHECKING:
    from collections.abc import Collection


class Phase(IntEnum):
    """What this replica may still do with a row. ``ownership.py`` has the transitions."""

    ACTIVE = 0
    """Starts what is due."""
    DRAINING = 1
    """Starts no new attempt once nothing runs, and is released then, due or not."""
    RELEASED = 2
    """The last write is in flight: nothing starts any more."""
    LOST = 3
    """Another replica may own the row: everything is stopped. Only what had ended before is still written."""


_NEXT_PHASES: tuple[tuple[Phase, ...], ...] = (
    (Phase.DRAINING, Phase.RELEASED, Phase.LOST),
    (Phase.RELEASED, Phase.LOST),
    (Phase.LOST,),
    (),
)
"""By phase: the phases that may follow it."""


class RunningAttempt(msgspec.Struct, eq=False, gc=False):
    """One attempt that this replica runs."""

    run: Run
    run_id: str
    attempt: Attempt
    kind: JobKind
    definition: Definition
    """As it was when the attempt started; an edit applies from the next attempt on."""
    task: asyncio.Task[None] | None = None
    entered: bool = False
    """Its coroutine has started. A cancellation before that would never reach it."""
    end: AttemptEnd | None = None
    """What a cancellation by this replica means."""
    reason: str = ""
    revision: int = 0
    """The revision of the desired state with which it started."""


class PassedOver(msgspec.Struct, gc=False):
    """Slots of a schedule that did not run: (skipped, missed, excluded), counted since its creation."""

    reported: tuple[int, int, int]
    """As reported to the observer."""
    written: tuple[int, int, int]
    """As in the last write."""

    def take_unreported(self) -> list[tuple[Outcome, int]]:
        """Return how many slots of each outcome the last write has added. They count as reported from now on."""
        outcomes = (Outcome.SKIPPED_OVERLAP, Outcome.MISSED, Outcome.EXCLUDED)
        before, self.reported = self.reported, self.written
        return [
            (outcome, new - old) for outcome, old, new in zip(outcomes, before, self.written, strict=True) if new > old
        ]


class OwnedSchedule(msgspec.Struct, eq=False, gc=False):
    """One row that this replica owns."""

    row: Row
    kind: JobKind
    schedule: Schedule
    lease: Lease
    passed_over: PassedOver
    phase: Phase = Phase.ACTIVE
    attempts: tuple[RunningAttempt, ...] = ()
    timer: tuple[Instant, int] = (-1, 0)
    """When its timer fires, and the token of that timer. A timer with another token is out of date."""
    deleted: bool = False
    """The schedule is known to be deleted, so a refused write is expected."""
    payload: bytes | None = None
    """For the next write; None: unchanged, unless it is cleared. It belongs to ``row.payload_revision``."""
    payload_cleared: bool = False
    """The next write clears the payload."""
    result: bytes | None = None
    """For the next write; None: unchanged."""
    overdue_since: Instant | None = None
    """For the next write: it was noticed at this instant that the schedule is overdue."""
    tenant: str = ""
    places: int = 0
    """How many places of the replica's capacity it takes."""

    def enter(self, phase: Phase) -> None:
        """Change the phase. An edge that the table in ``ownership.py`` does not have is an AssertionError."""
        assert phase in _NEXT_PHASES[self.phase], f"{self.row.slug}: {self.phase.name} can't become {phase.name}"
        self.phase = phase

    def begin_write(self, disposition: Disposition, wake_at: Instant | None) -> Settlement:
        """Return a settlement with everything that the store does not have yet. At most one may be in flight."""
        schedule, row = self.schedule, self.row
        encoded, records = schedule.writes.begin(schedule.state)
        settlement = Settlement(
            key=row.key,
            version=row.version,
            disposition=disposition,
            state=encoded,
            wake_at=wake_at,
            revision=schedule.state.revision,
            records=records,
            payload=self.payload,
            result=self.result,
            slug=row.slug,
        )
        if self.payload is not None or self.payload_cleared:
            settlement.payload_cleared, settlement.payload_revision = self.payload_cleared, row.payload_revision
            self.payload, self.payload_cleared = None, False
        self.result = None
        state = schedule.state
        self.passed_over.written = (state.skipped, state.missed, state.excluded)
        return settlement


def own(row: Row, kind: JobKind, lease: Lease, replica: str) -> OwnedSchedule:
    """Return a claimed row with its schedule. Raises ``UnreadableRowError`` or ``ValueError`` if it can't be read."""
    definition, slots = kind.read(row)
    state = State.decode(row.state)
    schedule = Schedule(
        row.slug,
        row.uid,
        definition,
        slots,
        state,
        replica,
        detached=kind.detached,
        definition_changed_at=row.edited_at,
    )
    counts = (state.skipped, state.missed, state.excluded)
    return OwnedSchedule(row, kind, schedule, lease, PassedOver(counts, counts))


def unchanged_write(row: Row, disposition: Disposition, wake_at: Instant) -> Settlement:
    """Return a write that leaves the state of a claimed row as it is."""
    return Settlement(
        key=row.key,
        version=row.version,
        disposition=disposition,
        state=row.state,
        wake_at=wake_at,
        revision=row.revision,
        slug=row.slug,
    )


def stats_of(rows: Collection[OwnedSchedule]) -> Stats:
    """Count what a replica owns."""
    stats = Stats(len(rows))
    for owned in rows:
        state, executing = owned.schedule.state, len(owned.attempts)
        stats.ahead += not executing
        stats.executing += executing
        stats.detached += sum(running.kind.detached for running in owned.attempts)
        stats.waiting += len(state.waiting)
        if retrying := [run for run in state.runs if run.attempt > 1]:
            now_executing = identities(owned.schedule.executing)
            stats.retrying += sum(id(run) not in now_executing for run in retrying)
    return stats
