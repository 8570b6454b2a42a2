"""Due: how a schedule goes from one slot of its triggers to the next.

The next slot is planned, so that the stored row names it. Slots that have come due are started or counted, as the
misfire rule says. (Slots that came due while a run was active may be skipped when it ends, see ``runs.py``.)
``state.decided_until`` says up to where slots are decided. Slots that follow other runs are not planned, and have a
limit of their own (``followed_runs.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scheduledjob.domain.time.zone_data import ZONE_DATA

from . import runs
from .concurrency import only_newest_starts, skips_while_active
from .followed_runs import may_still_follow
from .misfire import decide_slots, jitter_of
from .state import Completion

if TYPE_CHECKING:
    from scheduledjob.domain.time.instants import Instant

    from .actions import Actions
    from .schedule import Schedule
    from .state import Run


def start_due(schedule: Schedule, planned: Run, now: Instant, actions: Actions) -> None:
    """Decide every slot that is due: the planned one, and any later one whose time has come since."""
    state, definition = schedule.state, schedule.definition
    state.next = None
    decision = decide_slots(definition, schedule.slots, schedule.uid, planned, state.decided_until, now)
    state.decided_until = decision.decided_until
    state.missed += decision.missed
    state.excluded += decision.excluded
    chosen = decision.start
    if len(chosen) > 1 and only_newest_starts(definition):
        state.missed += len(chosen) - 1
        chosen = chosen[-1:]
    if definition.max_runs is not None:
        chosen = chosen[: max(0, definition.max_runs - state.started)]
    for slot in chosen:
        run = planned
        if slot != planned.slot:
            run = schedule.new_run(slot, slot + jitter_of(schedule.uid, slot, definition.jitter))
            schedule.writes.add(run)
        run.catch_up = len(chosen) > 1
        state.last_schedule = slot
        runs.admit(schedule, run, now, actions)
    if not chosen:
        schedule.writes.changed = True


def plan_next(schedule: Schedule, now: Instant) -> None:
    """Name the slot to wait for, or complete the schedule if there is none."""
    state, slots = schedule.state, schedule.slots
    if state.next is not None or not schedule.open:
        return
    active = bool(state.runs or state.waiting)
    if active and skips_while_active(schedule.definition):
        return
    if schedule.max_runs_reached:
        if not active:
            _complete(schedule, Completion.MAX_RUNS)
        return
    slot = slots.next(state.decided_until) if slots is not None else None
    if slot is None:
        by_hand = slots is not None and slots.by_hand
        if not active and not by_hand and not may_still_follow(schedule, now):
            _complete(schedule, Completion.NO_SLOT)
        return
    state.next = schedule.new_run(slot, slot + jitter_of(schedule.uid, slot, schedule.definition.jitter))
    if slots is not None and slots.zoned:
        state.zones = ZONE_DATA.version
    schedule.writes.add(state.next)


def plan_by_own_zones(schedule: Schedule, now: Instant, *, named: bool) -> str:
    """Plan the next slot anew if older zone data than this program has named it. Returns the version of others' data.

    What was decided stays decided, so no slot runs twice. ``named``: a client named the first slot, which stays. A slot
    that is due stays, too: it may have started. Returns an empty text if the data are the same.
    """
    state = schedule.state
    planned, version = state.next, state.zones
    if not version or version == ZONE_DATA.version or schedule.slots is None or not schedule.slots.zoned:
        return ""
    if version < ZONE_DATA.version and planned is not None and planned.due > now and not named:
        state.next = None
        schedule.writes.changed = True
        plan_next(schedule, now)
    return version


def _complete(schedule: Schedule, why: Completion) -> None:
    schedule.state.completed = why
    schedule.writes.changed = True
