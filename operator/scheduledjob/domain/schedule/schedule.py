"""A schedule as its owner has it in memory, from the claim of its row to the release.

This is data. ``machine.py`` says what happens to it, and ``write_tracker.py`` which part of it is stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from scheduledjob.domain.time.instants import Instant

from .definition import Definition
from .misfire import Slots
from .requests import PendingRequests
from .state import Run, State
from .write_tracker import WriteTracker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.domain.triggers.following import FollowingTrigger


class Schedule(msgspec.Struct, eq=False, gc=False):
    """One schedule. All times are instants of the store's clock."""

    slug: str
    uid: str
    definition: Definition
    slots: Slots | None
    state: State
    replica: str = ""
    """The owner, for the records of runs that end here."""
    detached: bool = False
    """Attempts that start now run outside the replica and survive it."""
    definition_changed_at: Instant = 0
    """When the store received the definition."""
    executing: tuple[Run, ...] = ()
    """Runs whose attempt this owner has started and that has not ended."""
    pending: PendingRequests | None = None
    """Manual requests that ``step`` has not handled yet."""
    poll_at: Instant | None = None
    """When to read the runs of the schedules that this one follows; None: not planned."""
    poll_in_flight: bool = False
    """Those runs are being read."""
    most_active: int | None = None
    """How many runs the owner has room for, the active ones included; None: not bounded."""
    lacked_capacity: bool = False
    """The slot that was skipped last would have started if the owner had room for it."""
    writes: WriteTracker = msgspec.field(default_factory=WriteTracker)

    @property
    def follows(self) -> Sequence[FollowingTrigger]:
        return self.slots.following if self.slots is not None else ()

    @property
    def open(self) -> bool:
        """Whether new slots may start."""
        state = self.state
        return state.completed is None and not state.suspended and not state.paused

    @property
    def max_runs_reached(self) -> bool:
        limit = self.definition.max_runs
        return limit is not None and self.state.started >= limit

    @property
    def done(self) -> bool:
        """Whether the schedule is complete and none of its runs is active."""
        return self.state.completed is not None and not self.state.runs and not self.state.waiting

    def new_run(self, slot: Instant, due: Instant, *, named: bool = False, repeat: int = 0) -> Run:
        """Return a run of a slot. ``named`` and ``repeat`` as in ``Run``."""
        return Run(slot=slot, due=due, detached=self.detached, named=named, repeat=repeat)
