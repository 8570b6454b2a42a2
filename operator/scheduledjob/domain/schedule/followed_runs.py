"""Followed runs: slots that come from the ends of other schedules' runs.

The owner of the row reads the newest runs of the schedules that this one follows, periodically and whenever a replica
reports an end, and passes all of them on. What is new among them is decided here, so a read that fails or is repeated
changes nothing. ``state.followed`` is for them what ``state.decided_until`` is for the slots of triggers: a run that
finished before it is decided. A record can reach history late (writes are repeated), so that limit stays behind the
clock, and the decided runs after it are remembered by their ids.

A slot of this kind is the instant at which the other run finished. From there on it is a slot like any other.

Jobs that follow each other in a circle would run for ever. So each run carries the *chain* of the jobs that led to it.
A run with a chain of more than ``MAX_CHAIN`` jobs is cancelled before it starts, and nothing follows it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scheduledjob.domain.time.instants import MINUTE, SECOND, Instant, Micros

from . import runs
from .concurrency import only_newest_starts
from .definition import CatchUp
from .misfire import ON_TIME, jitter_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .actions import Actions
    from .schedule import Schedule
    from .state import Run, RunRecord, State

POLL_INTERVAL: Micros = MINUTE
"""How often the followed runs are read if no replica reports an end."""
POLL_RETRY_DELAY: Micros = 5 * SECOND
"""How soon they are read again if the store did not answer."""
MAX_RECORD_DELAY: Micros = 5 * MINUTE
"""How long after its end a run may reach history and still be noticed."""
_NAME_SHOWN = 63
"""Characters of a name in a chain."""
MAX_CHAIN = 16
"""How many runs may follow each other."""
MAX_ENDS = 200
"""How many runs are followed at once. The rest is read again at once, so that it does not hold the event loop."""
MAX_REMEMBERED_RUNS = 100
"""How many decided runs are remembered. If more end within ``MAX_RECORD_DELAY``, ``state.followed`` moves closer."""


def upstreams(schedule: Schedule) -> dict[str, set[str]]:
    """Return the slugs of the schedules that it follows, in its own namespace, and the outcomes that make slots."""
    namespace, slash, _ = schedule.slug.rpartition("/")
    wanted: dict[str, set[str]] = {}
    for trigger in schedule.follows:
        wanted.setdefault(f"{namespace}{slash}{trigger.name}", set()).add(trigger.outcome)
    return wanted


def may_still_follow(schedule: Schedule, now: Instant) -> bool:
    """Return whether an upstream run may still make a slot."""
    end_at = schedule.definition.end_at
    return bool(schedule.follows or schedule.state.upcoming) and (end_at is None or now <= end_at + MAX_RECORD_DELAY)


# ---------------------------------------------------------------- reading them


def plan_poll(schedule: Schedule, at: Instant) -> None:
    """Read the followed runs at that time, if the schedule follows any."""
    schedule.poll_at = at if schedule.follows and schedule.open else None


def begin_poll(schedule: Schedule, now: Instant) -> bool:
    """Return whether to read the followed runs now. Then pass what was read to ``poll_ended``."""
    if schedule.poll_at is None or schedule.poll_at > now or schedule.poll_in_flight:
        return False
    schedule.poll_at, schedule.poll_in_flight = None, True
    return True


def poll_ended(schedule: Schedule, records: Sequence[RunRecord] | None, now: Instant) -> None:
    """These are the newest runs of each upstream; None if the store did not answer."""
    schedule.poll_in_flight = False
    if records is not None and take_ends(schedule, records, now):
        plan_poll(schedule, now)
    if schedule.poll_at is None:  # otherwise another poll was planned in the meantime
        plan_poll(schedule, now + (POLL_RETRY_DELAY if records is None else POLL_INTERVAL))


# ---------------------------------------------------------------- their slots


def take_ends(schedule: Schedule, records: Sequence[RunRecord], now: Instant) -> bool:
    """Make a slot of each run that is new, of the oldest ``MAX_ENDS``. Returns whether there are more.

    ``records``: the newest runs of each upstream, in any order.
    """
    state, slots = schedule.state, schedule.slots
    if not schedule.open or slots is None:
        return False
    wanted = upstreams(schedule)
    new = [
        record
        for record in records
        if record.finished > state.followed
        and record.run_id not in state.followed_ids
        and record.outcome.value in wanted.get(record.slug, ())
        and _length(record.chain) <= MAX_CHAIN
    ]
    used = set(state.followed_ids.values())
    upcoming = list(state.upcoming)
    new.sort(key=_finished)
    for record in new[:MAX_ENDS]:
        slot = _free_slot(used, record.finished)
        used.add(slot)
        state.followed_ids[record.run_id] = slot
        if not slots.is_within(slot):
            continue
        if slots.is_excluded(slot):
            state.excluded += 1
            continue
        run = schedule.new_run(slot, slot + jitter_of(schedule.uid, slot, schedule.definition.jitter))
        run.chain = _extended(record)
        if _length(run.chain) > MAX_CHAIN:
            runs.cancel_unadmitted(schedule, run, now, _why_cut(schedule, run))
        else:
            upcoming.append(run)
    if new:
        state.upcoming = tuple(upcoming)
        schedule.writes.changed = True
    left = new[MAX_ENDS:]
    _forget_decided(state, now, left[0].finished if left else None)
    return bool(left)


def start_upcoming(schedule: Schedule, now: Instant, actions: Actions) -> None:
    """Decide the slots that are due, as the misfire rule says."""
    state, definition = schedule.state, schedule.definition
    due = [run for run in state.upcoming if run.due <= now]
    if not due:
        return
    schedule.writes.changed = True
    state.upcoming = tuple(run for run in state.upcoming if run.due > now)
    rule = definition.misfire
    chosen = due if rule.deadline is None else [run for run in due if now - run.due <= rule.deadline]
    late = any(now - run.due >= ON_TIME for run in due)
    if late:
        chosen = chosen[-(rule.max_catch_up if rule.catch_up is CatchUp.ALL else 1) :]
    if only_newest_starts(definition):
        chosen = chosen[-1:]
    state.missed += len(due) - len(chosen)
    if definition.max_runs is not None:
        chosen = chosen[: max(0, definition.max_runs - state.started)]
    for run in chosen:
        run.catch_up = late and len(chosen) > 1
        state.last_schedule = run.slot
        schedule.writes.add(run)
        runs.admit(schedule, run, now, actions)
    if schedule.max_runs_reached:
        state.next = None


def start_anew(state: State, now: Instant) -> None:
    """Regard every run that finished by now as decided: an edit or a resume never replays the past."""
    state.followed = max(state.followed, now)
    state.followed_ids = {}
    state.upcoming = ()


def _forget_decided(state: State, now: Instant, undecided: Instant | None) -> None:
    """Move ``state.followed`` as far as possible, and forget the decided runs that it covers.

    ``undecided``: when the oldest run finished that is known and not decided.
    """
    slots = sorted(state.followed_ids.values())
    crowded = slots[-MAX_REMEMBERED_RUNS - 1] if len(slots) > MAX_REMEMBERED_RUNS else 0
    followed = max(now - MAX_RECORD_DELAY, crowded)
    state.followed = max(state.followed, followed if undecided is None else min(followed, undecided - 1))
    state.followed_ids = {run_id: slot for run_id, slot in state.followed_ids.items() if slot > state.followed}


def _extended(record: RunRecord) -> str:
    """Return the chain of a run that follows the recorded one."""
    name = record.slug.rpartition("/")[2][:_NAME_SHOWN]
    return f"{record.chain}/{name}" if record.chain else name


def _length(chain: str) -> int:
    return chain.count("/") + 1 if chain else 0


def _why_cut(schedule: Schedule, run: Run) -> str:
    """Return why a run is the end of its chain, with the circle if there is one."""
    names = [*run.chain.split("/"), schedule.slug.rpartition("/")[2][:_NAME_SHOWN]]
    earlier = [place for place, name in enumerate(names[:-1]) if name == names[-1]]
    shown = names[earlier[-1] if earlier else -5 :]
    return (
        f"{MAX_CHAIN} runs have followed each other ({' -> '.join(shown)}), and no more are allowed: "
        "if the jobs follow each other in a circle, remove the trigger `following` from one of them; "
        "if the chain is meant to be so long, combine some of its jobs"
    )


def _free_slot(used: set[Instant], finished: Instant) -> Instant:
    """Return the slot of a run that finished then: one that no other run has. Triggers fire at whole seconds."""
    slot = finished if finished % SECOND else finished + 1
    while slot in used:
        slot += 1
    return slot


def _finished(record: RunRecord) -> tuple[Instant, str]:
    return record.finished, record.run_id
