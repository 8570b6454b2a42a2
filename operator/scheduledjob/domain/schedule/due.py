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
from .actions import Actions
from .concurrency import only_newest_starts, skips_while_active
from .followed_runs import may_still_follow
from .misfire import ON_TIME, decide_slots, jitter_of, newest_due
from .state import Completion

if TYPE_CHECKING:
    from scheduledjob.domain.time.instants import Instant

    from .misfire import Slots
    from .schedule import Schedule
    from .state import Run


def start_due(schedule: Schedule, planned: Run, now: Instant, actions: Actions, *, after_outage: bool = False) -> None:
    """Decide every slot that is due: the planned one, and any later one whose time has come since.

    ``after_outage``: what is active did not run, so the slots that are caught up wait for it instead of overlapping it.
    """
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
        run.catch_up = after_outage or len(chosen) > 1
        state.last_schedule = slot
        runs.admit(schedule, run, now, actions)
    if not chosen:
        schedule.writes.changed = True


def miss_outage(schedule: Schedule, since: Instant, now: Instant) -> None:
    """Decide the slots of an outage, in which no replica could run the schedule: from ``since`` until now.
    A run that was active before counts as active until ``since``. Later slots did not overlap with it. They were
    missed, and those that the misfire rule catches up wait until it has ended.
    """
    state, slots, jitter = schedule.state, schedule.slots, schedule.definition.jitter
    if now - since < ON_TIME or slots is None or not schedule.open or schedule.max_runs_reached:
        return
    if not state.runs and not state.waiting:
        return  # nothing is active, so `step` decides these slots as any others
    newest = newest_due(slots, schedule.uid, jitter, now)
    if newest is None or newest <= state.decided_until or newest + jitter_of(schedule.uid, newest, jitter) <= since:
        return
    if state.next is None:
        _skip_until(schedule, since)
        _plan(schedule)
    planned = state.next
    if planned is not None and planned.due <= now:
        start_due(schedule, planned, now, Actions(), after_outage=True)
        plan_next(schedule, now)


def _skip_until(schedule: Schedule, since: Instant) -> None:
    """Count the slots that came due by ``since`` as overlapped, if the policy skips every slot beside an active run."""
    state, slots = schedule.state, schedule.slots
    if slots is None or not skips_while_active(schedule.definition):
        return
    newest = newest_due(slots, schedule.uid, schedule.definition.jitter, since)
    if newest is not None and newest > state.decided_until:
        skipped, excluded = slots.count(state.decided_until, newest)
        state.skipped += skipped
        state.excluded += excluded
        state.decided_until = newest
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
    if not _plan(schedule) and not active and not _by_hand(slots) and not may_still_follow(schedule, now):
        _complete(schedule, Completion.NO_SLOT)


def _plan(schedule: Schedule) -> bool:
    """Plan the next slot of the triggers. Returns False if there is none."""
    state, slots = schedule.state, schedule.slots
    slot = slots.next(state.decided_until) if slots is not None else None
    if slot is None:
        return False
    state.next = schedule.new_run(slot, slot + jitter_of(schedule.uid, slot, schedule.definition.jitter))
    if slots is not None and slots.zoned:
        state.zones = ZONE_DATA.version
    schedule.writes.add(state.next)
    return True


def _by_hand(slots: Slots | None) -> bool:
    return slots is not None and slots.by_hand


def plan_by_own_zones(schedule: Schedule, now: Instant, *, named: bool) -> str:
    """Plan the next slot anew if older zone data than this program has named it. Returns the version of those data.

    What was decided stays decided, so no slot runs twice. ``named``: a client named the first slot, which stays. A slot
    that is due stays, too: it may have started. Returns an empty text if the data are the same or not known.
    """
    state = schedule.state
    planned, version = state.next, state.zones
    if version == ZONE_DATA.version or schedule.slots is None or not schedule.slots.zoned:
        return ""
    if version < ZONE_DATA.version:
        if planned is not None and planned.due > now and not named:
            state.next = None
            plan_next(schedule, now)
        state.zones = ZONE_DATA.version
        schedule.writes.changed = True
    return version


def _complete(schedule: Schedule, why: Completion) -> None:
    schedule.state.completed = why
    schedule.writes.changed = True
