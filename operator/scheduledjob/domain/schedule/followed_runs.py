"""Follow: slots that the ends of other schedules' runs make.

They come as a level: whoever owns the row looks, now and then and when it is told to, at the newest runs of what the
schedule follows, and hands them all over. What of them is new is found here, so that a look that was lost, or done
twice, changes nothing. ``state.followed`` is for them what ``state.decided_until`` is for the slots of triggers: a run
that finished before it is decided. A record may reach history late (hooks are called before), so the floor stays
behind the clock, and what was decided above it is remembered by name.

A slot of this kind is the instant at which the other run finished. From there on it is a slot as any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scheduledjob.domain.time.instants import MINUTE, SECOND, Instant, Micros

from .definition import CatchUp, Concurrency
from .misfire import ON_TIME, jitter_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .actions import Actions
    from .runs import Runs
    from .state import RunRecord, State

LOOK_EVERY: Micros = MINUTE
"""How long a look is good for where nobody tells of a run that ended."""
LOOK_AGAIN: Micros = 5 * SECOND
"""How soon to look again where the store could not be asked."""
LATE: Micros = 5 * MINUTE
"""How long after its end a run may reach history and still be noticed."""
REMEMBERED = 100
"""Runs remembered by name; where more than these end in ``LATE``, the floor comes closer."""


def upstreams(schedule: Runs) -> dict[str, set[str]]:
    """The slugs of what it follows, in its own namespace, and the outcomes that make slots."""
    namespace, slash, _ = schedule.slug.rpartition("/")
    wanted: dict[str, set[str]] = {}
    for one in schedule.follows:
        wanted.setdefault(f"{namespace}{slash}{one.name}", set()).add(one.outcome)
    return wanted


def may_still_follow(schedule: Runs, now: Instant) -> bool:
    end_at = schedule.definition.end_at
    return bool(schedule.follows or schedule.state.upcoming) and (end_at is None or now <= end_at + LATE)


def take_ends(schedule: Runs, records: Sequence[RunRecord], now: Instant) -> None:
    """Make slots of those of the runs (any number of the newest of each upstream, in any order) that are new."""
    state, slots = schedule.state, schedule.slots
    if not schedule.open or slots is None:
        return
    wanted = upstreams(schedule)
    new = [
        record
        for record in records
        if record.finished > state.followed
        and record.run_id not in state.followed_ids
        and record.outcome.value in wanted.get(record.slug, ())
    ]
    for record in sorted(new, key=_finished):
        slot = _free(state, record.finished)
        state.followed_ids[record.run_id] = slot
        if not slots.is_within(slot):
            continue
        if slots.is_excluded(slot):
            state.excluded += 1
            continue
        jitter = jitter_of(schedule.uid, slot, schedule.definition.jitter)
        state.upcoming += (schedule.new_run(slot, slot + jitter),)
    if new:
        schedule.changed = True
    _forget(state, now)


def take_upcoming(schedule: Runs, now: Instant, actions: Actions) -> None:
    """Decide the slots whose time has come, by the misfire rule."""
    state, definition = schedule.state, schedule.definition
    due = [run for run in state.upcoming if run.due <= now]
    if not due:
        return
    schedule.changed = True
    state.upcoming = tuple(run for run in state.upcoming if run.due > now)
    rule = definition.misfire
    taken = due if rule.deadline is None else [run for run in due if now - run.due <= rule.deadline]
    late = any(now - run.due >= ON_TIME for run in due)
    if late:
        taken = taken[-(rule.max_catch_up if rule.catch_up is CatchUp.ALL else 1) :]
    if definition.concurrency is Concurrency.REPLACE:
        taken = taken[-1:]
    state.missed += len(due) - len(taken)
    if definition.max_runs is not None:
        taken = taken[: max(0, definition.max_runs - state.started)]
    for run in taken:
        run.catch_up = late and len(taken) > 1
        state.last_schedule = run.slot
        schedule.unstored += (run,)
        schedule.admit(run, now, actions)
    if schedule.used_up:
        state.next = None


def start_anew(state: State, now: Instant) -> None:
    """An edit or a resume never replays the past."""
    state.followed = max(state.followed, now)
    state.followed_ids = {}
    state.upcoming = ()


def _forget(state: State, now: Instant) -> None:
    """Move the floor as far as can be, and drop what it makes superfluous."""
    slots = sorted(state.followed_ids.values())
    crowded = slots[-REMEMBERED - 1] if len(slots) > REMEMBERED else 0
    state.followed = max(state.followed, now - LATE, crowded)
    state.followed_ids = {run_id: slot for run_id, slot in state.followed_ids.items() if slot > state.followed}


def _free(state: State, finished: Instant) -> Instant:
    """The slot of a run that finished then: one that no other run has. Triggers fire at whole seconds."""
    taken = set(state.followed_ids.values())
    slot = finished if finished % SECOND else finished + 1
    while slot in taken:
        slot += 1
    return slot


def _finished(record: RunRecord) -> tuple[Instant, str]:
    return record.finished, record.run_id
