"""Due: how a schedule goes from one slot of its triggers to the next.

Two things happen to such slots: the next one is planned, so that the stored row names it; and those that have come due
are taken, by the misfire rule. (Those that came due while a run was active may be passed over when it ends, see
``runs.py``.) ``state.decided_until`` says up to where slots are decided. Slots that follow other runs are not planned,
and have a limit of their own (``followed_runs.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .definition import Concurrency
from .followed_runs import may_still_follow
from .misfire import decide, jitter_of
from .state import Completion

if TYPE_CHECKING:
    from scheduledjob.domain.time.instants import Instant

    from .actions import Actions
    from .runs import Runs
    from .state import Run


def take(schedule: Runs, planned: Run, now: Instant, actions: Actions) -> None:
    """Decide every slot that is due: ``planned`` and any later one whose time has come since."""
    state, definition = schedule.state, schedule.definition
    state.next = None
    decided = decide(definition, schedule.slots, schedule.uid, planned.slot, planned.due, state.decided_until, now)
    state.decided_until = decided.decided_until
    state.missed += decided.missed
    state.excluded += decided.excluded
    taken = decided.taken
    if len(taken) > 1 and definition.concurrency is Concurrency.REPLACE:
        state.missed += len(taken) - 1
        taken = taken[-1:]
    if definition.max_runs is not None:
        taken = taken[: max(0, definition.max_runs - state.started)]
    for slot in taken:
        run = planned
        if slot != planned.slot:
            run = schedule.new_run(slot, slot + jitter_of(schedule.uid, slot, definition.jitter))
            schedule.unstored += (run,)
            schedule.changed = True
        run.catch_up = len(taken) > 1
        state.last_schedule = slot
        schedule.admit(run, now, actions)
    if not taken:
        schedule.changed = True


def plan(schedule: Runs, now: Instant) -> None:
    """Name the slot to wait for, if there is to be one."""
    state, slots = schedule.state, schedule.slots
    if state.next is not None or not schedule.open:
        return
    active = bool(state.runs or state.waiting)
    if active and schedule.definition.concurrency is Concurrency.FORBID:
        return
    if schedule.used_up:
        if not active:
            state.completed = Completion.MAX_RUNS
            schedule.changed = True
        return
    slot = slots.next(state.decided_until) if slots is not None else None
    if slot is None:
        by_hand = slots is not None and slots.by_hand
        if not active and not by_hand and not may_still_follow(schedule, now):
            state.completed = Completion.NO_SLOT
            schedule.changed = True
        return
    state.next = schedule.new_run(slot, slot + jitter_of(schedule.uid, slot, schedule.definition.jitter))
    schedule.unstored += (state.next,)
    schedule.changed = True
