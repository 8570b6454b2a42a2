"""State: what has happened to a schedule so far, as its row in the store has it.

The desired state (``Definition``) and the state are separate and have separate writers. Clients write the first. Only
the replica that owns the row writes the second, under its version. All times are of the store's clock.
"""

from __future__ import annotations

import re
from enum import StrEnum
from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec

from scheduledjob.domain.time.instants import Instant

if TYPE_CHECKING:
    from .definition import Keep


class Outcome(StrEnum):
    """How a run ended, or why a slot did not run."""

    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"
    SKIPPED_OVERLAP = "SkippedOverlap"
    MISSED = "Missed"
    EXCLUDED = "Excluded"


class Completion(StrEnum):
    """Why a schedule is done."""

    JOB = "Job"
    """Its job said so (``completeOn``, or a Python job that returned None), for good."""
    MAX_RUNS = "MaxRuns"
    NO_SLOT = "NoSlot"
    """It has no future slot. An edit of its triggers may add one."""


class Run(msgspec.Struct, omit_defaults=True, gc=False):
    """The execution of one slot. ``machine.py`` has the phases of a run, which follow from where it is."""

    slot: Instant
    due: Instant
    """Its next (or current) attempt does not start before this: the slot plus jitter, or the end of a backoff."""
    attempt: int = 1
    """Number of the next (or current) attempt."""
    failed: int = 0
    """Attempts that failed, as ``maxRetries`` counts them."""
    lost: int = 0
    """Attempts in a row that were lost with their replica."""
    begun: Instant = 0
    """When its first attempt started, if that is known; 0 before."""
    token: str = ""
    """Identifies a manual run, in place of the slot."""
    catch_up: bool = False
    """It is one of several slots caught up by ``All``. These never overlap each other."""
    payload: bytes | None = None
    """The payload of a manual run, in place of the schedule's own."""
    detached: bool = msgspec.field(default=False, name="outlives")
    """Its next (or current) attempt runs outside the replica that starts it, and the next owner continues it."""
    adoptable: bool = msgspec.field(default=False, name="handed_on")
    """It is detached, and an earlier owner may have started its current attempt."""
    cancel_reason: str = msgspec.field(default="", name="cancelling")
    """Why it is being cancelled. It stays active until its end is confirmed."""
    chain: str = ""
    """If it follows a run: the names of the jobs whose runs led to it, each following the one before, joined by ``/``.
    """
    named: bool = False
    """A client named its slot (``at=``, ``delay=``) for a schedule that existed. It waits where another run would be
    skipped."""
    revision: int = 0
    """The revision of the desired state with which its current attempt started, if that is detached."""
    repeat: int = 0
    """The revision that named its slot, if the slot had been decided before: part of its identity. Otherwise 0."""


class State(msgspec.Struct, omit_defaults=True, gc=False):
    """What the row of a schedule stores. Stored fields keep their names."""

    decided_until: Instant = msgspec.field(name="floor")
    """Slots at or before this instant are decided."""
    next: Run | None = None
    """The slot that the row waits for. It may start without another write, so whoever finds it due under a dead owner
    counts an attempt as lost."""
    runs: list[Run] = []
    """Active runs: executing or in backoff. Each may have started."""
    waiting: list[Run] = []
    """Runs that are due and wait for another run of the same schedule."""
    revision: int = 1
    """The revision of the desired state that this state takes into account."""
    when: str = ""
    """A digest of the triggers that ``next`` and ``decided_until`` depend on. It shows whether they were edited."""
    suspended: bool = False
    paused: bool = False
    """Paused by ``pauseAfterFailures``, until an edit or a resume."""
    paused_under: Instant = 0
    """When the definition was written under which it was paused. Another definition ends the pause."""
    completed: Completion | None = None
    started: int = 0
    """Runs that ``maxRuns`` counts."""
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    skipped: int = 0
    missed: int = 0
    excluded: int = 0
    failures_in_row: int = 0
    last_schedule: Instant | None = None
    last_success: Instant | None = None
    last_failure: Instant | None = None
    expect_from: Instant = 0
    """From when ``expectSuccessWithin`` counts if there is no success: creation or resume."""
    overdue: bool = False
    generation: int = 0
    """The generation of the object in a cluster that this state takes into account; 0 outside a cluster."""
    handled: tuple[str, ...] = ()
    """Requests that were carried out (``run-now/<token>``, ``cancel/<run id>``, ``resume/<token>``), newest last."""
    followed: Instant = 0
    """Followed runs that finished at or before this instant are decided."""
    followed_ids: dict[str, Instant] = {}
    """Decided runs that finished later than ``followed``, and the slot that each became."""
    upcoming: tuple[Run, ...] = ()
    """Slots made by followed runs, whose jitter has not passed yet."""
    zones: str = ""
    """The version of the zone data by which ``next`` was planned; empty if it depends on no time zone."""
    first_named_at: Instant = 0
    """When the client wrote the desired state that named its first slot, if this state takes that one into account."""
    unrecorded: tuple[RunRecord, ...] = ()
    """Runs that ended when the row was made from status. Its first owner adds them to history."""

    def encode(self) -> bytes:
        return _encoder.encode(self)

    @staticmethod
    def decode(data: bytes | str) -> State:
        return _decoder.decode(data)


class RunRecord(msgspec.Struct, omit_defaults=True, gc=False):
    """One run that ended, as history keeps it; or a manual run that was skipped."""

    run_id: str
    uid: str
    slug: str
    slot: Instant
    started: Instant | None
    """None: it ended before it started."""
    finished: Instant
    attempt: int
    """The number of its last attempt."""
    outcome: Outcome
    reason: str = ""
    code: int | None = None
    """Exit code or HTTP status of the last attempt."""
    replica: str = ""
    """Where its last attempt ran: a replica or a Pod."""
    output: bytes = b""
    keep: int = 3
    """How many runs of this schedule with this kind of outcome history keeps."""
    expires: Instant = 0
    """When history drops it at the latest."""
    manual: bool = False
    chain: str = ""
    """As in ``Run``."""


def run_id(uid: str, run: Run) -> str:
    """Return the identity of a run: the same for each attempt, and safe as a label, a file name and a header."""
    if run.repeat:
        return f"{uid}-{run.slot}.{run.repeat}"
    return f"{uid}-{_safe(run.token) if run.token else run.slot}"


def _safe(token: str) -> str:
    """Return the token if it is safe and looks neither like a slot nor like the hash of a token; otherwise its hash."""
    if _SAFE.fullmatch(token) and not _TAKEN.fullmatch(token):
        return token
    return f"token-{blake2b(token.encode(errors='surrogatepass'), digest_size=8).hexdigest()}"


_SAFE = re.compile(r"[A-Za-z0-9._-]{0,62}[A-Za-z0-9]")
_TAKEN = re.compile(r"-?[0-9]+|token-[0-9a-f]{16}")
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(State)


def record_of(
    run: Run, outcome: Outcome, now: Instant, *, uid: str, slug: str, keep: Keep, replica: str = "", reason: str = ""
) -> RunRecord:
    """Return the record of a run that ends at ``now``."""
    return RunRecord(
        run_id=run_id(uid, run),
        uid=uid,
        slug=slug,
        slot=run.slot,
        started=run.begun or None,
        finished=now,
        attempt=run.attempt,
        outcome=outcome,
        reason=reason,
        replica=replica,
        keep=keep.succeeded if outcome is Outcome.SUCCEEDED else keep.failed,
        expires=now + keep.ttl,
        manual=bool(run.token),
        chain=run.chain,
    )


def cut_off(state: State, *, uid: str, slug: str, now: Instant, owned: bool, keep: Keep) -> list[RunRecord]:
    """Return the records of a schedule that is deleted at ``now``: each run that is or may be active was cancelled.

    ``owned``: a replica owns the row, so a planned slot that is due may have started.
    """
    runs = list(state.runs)
    if owned and state.next is not None and state.next.due <= now:
        runs.append(state.next)
    reason = "its schedule was deleted"
    return [record_of(run, Outcome.CANCELLED, now, uid=uid, slug=slug, keep=keep, reason=reason) for run in runs]
