"""The judge: reads the history of a seed and says which promise was broken. It knows nothing of the engine.

Its own idea of what should have happened is simple arithmetic: slots of ``every`` are multiples counted from the
creation, and each of them was run, or is counted as not run, exactly once.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scheduledjob.domain.schedule.definition import Concurrency
from scheduledjob.domain.schedule.state import Outcome, RunRecord
from scheduledjob.domain.time.instants import SECOND, Instant
from scheduledjob.domain.triggers.every import EveryTrigger
from scheduledjob.domain.triggers.following import FollowingTrigger

if TYPE_CHECKING:
    from .scenario import DesiredState, History
    from .world import Event


@dataclass(slots=True)
class Life:
    """One process, from start to end."""

    start: Event
    end: Event | None = None

    @property
    def until(self) -> Instant:
        return self.end.at if self.end is not None else 1 << 62


def check(history: History) -> list[str]:
    """What is wrong with a history, in words; empty if nothing is."""
    wrong = list(history.failures)
    lives = _lives(history.events)
    records: dict[str, RunRecord] = {}
    for record in history.records:
        if record.run_id in records:
            wrong.append(f"completed twice: {record.run_id} has two records")
        records[record.run_id] = record
    by_uid: dict[str, list[Life]] = defaultdict(list)
    for life in lives:
        by_uid[life.start.uid].append(life)
    for desired in history.desired_rows:
        mine = sorted(by_uid[desired.uid], key=lambda life: (life.start.at, life.start.process))
        kept = [record for record in history.records if record.uid == desired.uid]
        wrong += _early(mine)
        wrong += _twice(mine, desired)
        wrong += _attempts(mine, desired)
        wrong += _stale(mine, kept, records)
        wrong += _lost(mine, kept, desired, history)
        wrong += _unended(mine, records, desired, history)
        wrong += _unheard(mine, records, desired, history)
    return wrong


def _lives(events: list[Event]) -> list[Life]:
    lives: dict[int, Life] = {}
    for event in events:
        if event.kind == "start":
            lives[event.process] = Life(event)
        elif event.kind in {"end", "killed"}:
            lives[event.process].end = event
    return list(lives.values())


def _early(lives: list[Life]) -> list[str]:
    return [
        f"early: {life.start.run_id} started {life.start.slot - life.start.at} us before its slot"
        for life in lives
        if life.start.at < life.start.slot
    ]


def _twice(lives: list[Life], desired: DesiredState) -> list[str]:
    """Two processes of one run, or of one schedule that forbids it, must not be alive at once."""
    wrong = []
    exclusive = desired.definition.concurrency is not Concurrency.ALLOW
    for index, life in enumerate(lives):
        for later in lives[index + 1 :]:
            same = later.start.run_id == life.start.run_id
            if (same or exclusive) and later.start.at < life.until:
                what = life.start.run_id if same else desired.slug
                wrong.append(f"twice at once: {what} on {life.start.replica} and {later.start.replica}")
    return wrong


def _attempts(lives: list[Life], desired: DesiredState) -> list[str]:
    """Each start of a run has a higher attempt and a higher fencing token than those before."""
    wrong = []
    last: dict[str, Event] = {}
    newest = -1
    for life in lives:
        start, before = life.start, last.get(life.start.run_id)
        if before is not None and start.attempt <= before.attempt:
            wrong.append(f"unsaid: {start.run_id} started again as attempt {start.attempt} after {before.attempt}")
        if before is not None and start.version <= before.version:
            wrong.append(f"token: {start.run_id} started at version {start.version} after {before.version}")
        if desired.definition.concurrency is not Concurrency.ALLOW and start.version <= newest:
            wrong.append(f"token: {desired.slug} started at version {start.version} after {newest}")
        newest = max(newest, start.version)
        last[start.run_id] = start
    return wrong


def _stale(lives: list[Life], kept: list[RunRecord], records: dict[str, RunRecord]) -> list[str]:
    """What history says of a run is how its last process ended, told by the replica that had it."""
    wrong = []
    runs: dict[str, list[Life]] = defaultdict(list)
    for life in lives:
        runs[life.start.run_id].append(life)
        record = records.get(life.start.run_id)
        if record is not None and life.start.attempt > record.attempt:
            wrong.append(f"completed twice: {record.run_id} was started again after its record")
    for record in kept:
        if record.outcome not in {Outcome.SUCCEEDED, Outcome.FAILED} or record.reason.startswith("OwnerLost"):
            continue
        tries = [
            life
            for life in runs[record.run_id]
            if life.start.replica == record.replica and life.start.attempt == record.attempt
        ]
        expected, ending = "ok" if record.outcome is Outcome.SUCCEEDED else "failed", "end"
        if record.outcome is Outcome.FAILED and record.reason == "deleted":
            # Who had told the Pod to end was gone before he had written why: the next owner finds no more than that.
            expected, ending = "deleted", "killed"
        ends = [life.end.detail for life in tries if life.end is not None and life.end.kind == ending]
        if ends != [expected]:
            wrong.append(f"stale: {record.run_id} is {record.outcome.value} by {record.replica}, its process: {ends}")
    return wrong


def _lost(lives: list[Life], kept: list[RunRecord], desired: DesiredState, history: History) -> list[str]:
    """Every slot up to the floor was run or is counted, and the floor is where it should be."""
    if desired.deleted:
        return []
    state = history.states.get(desired.uid)
    (trigger,) = desired.definition.triggers or (None,)
    if trigger is None:
        return [] if kept else [f"lost: {desired.slug} never ran"]
    if state is None:
        return [f"lost: {desired.slug} is gone"]
    if desired.edited or desired.resumed:
        return []
    by_hand = sum(record.outcome is Outcome.SKIPPED_OVERLAP for record in kept)
    kept = [record for record in kept if not record.manual]
    run = len(kept) + sum(not one.token for one in (*state.runs, *state.waiting))
    counted = state.skipped + state.missed + state.excluded - by_hand
    if desired.follows:
        return _unfollowed(kept, desired, history, run + counted + len(state.upcoming))
    assert isinstance(trigger, EveryTrigger)
    slots = (state.decided_until - _anchor_of(desired)) // trigger.every
    wrong = []
    if state.completed is None and slots != run + counted:
        wrong.append(
            f"lost: {desired.slug} had {slots} slots, {run} runs, {state.skipped} skipped, {state.missed} missed"
        )
    behind = history.ended - 31 * SECOND - trigger.every - desired.definition.jitter - 2 * SECOND
    stopped = state.completed is not None or state.paused
    if not stopped and not state.runs and not state.waiting and state.decided_until < behind:
        wrong.append(f"lost: {desired.slug} stands still since {(history.ended - state.decided_until) / SECOND:.1f} s")
    limit = desired.definition.max_runs
    if limit is not None and run > limit:
        wrong.append(f"too many: {desired.slug} ran {run} times of {limit}")
    return wrong


def _unended(lives: list[Life], records: dict[str, RunRecord], desired: DesiredState, history: History) -> list[str]:
    """Whatever had begun when the trouble ended has ended."""
    started = {life.start.run_id for life in lives if life.start.at <= history.trouble_ended}
    wrong = [f"never ended: {run_id}" for run_id in sorted(started - set(records))]
    wrong += [f"never ended: process of {life.start.run_id}" for life in lives if life.end is None]
    return wrong if not desired.deleted else [line for line in wrong if "process" in line]


def _unfollowed(kept: list[RunRecord], desired: DesiredState, history: History, decided: int) -> list[str]:
    """Each end of a run that it follows made a slot, and nothing else did."""
    (trigger,) = desired.definition.triggers
    assert isinstance(trigger, FollowingTrigger)
    ends = [
        record.finished
        for record in history.records
        if record.slug == desired.follows
        and record.outcome.value == trigger.outcome
        and record.finished > desired.created
    ]
    wrong = [
        f"unfollowed: {record.run_id} follows nothing"
        for record in kept
        if not any(0 <= record.slot - finished < 10 for finished in ends)
    ]
    if history.states[desired.uid].paused:
        return wrong
    due = sum(finished + desired.definition.jitter < history.ended - 33 * SECOND for finished in ends)
    if not due <= decided <= len(ends):
        wrong.append(f"unfollowed: {desired.slug} decided {decided} of {due} to {len(ends)} ends")
    return wrong


def _unheard(lives: list[Life], records: dict[str, RunRecord], desired: DesiredState, history: History) -> list[str]:
    """What was asked for by hand was done once, and a run that was told to end was not started again."""
    if desired.deleted:
        return []
    wrong = []
    state = history.states.get(desired.uid)
    if state is not None and desired.requests:
        last = desired.requests[-1]
        if last.run and f"{desired.uid}-{last.run}" not in records:
            wrong.append(f"unheard: {desired.uid}-{last.run} has no record")
        asked = [("run-now", last.run), ("cancel", last.cancel), ("resume", last.resume)]
        missing = [f"{act}/{token}" for act, token in asked if token and f"{act}/{token}" not in state.handled]
        wrong += [f"unheard: {desired.slug} {act}" for act in missing]
    if desired.edited:
        return wrong  # an edit may take back what told it to end
    told = {event.run_id: event for event in history.events if event.kind == "told" and event.uid == desired.uid}
    for life in lives:
        cancel = told.get(life.start.run_id)
        if cancel is None or life.start.attempt <= cancel.attempt or life.start.at <= cancel.at:
            continue
        if life.start.replica == cancel.replica or not _has_missed(desired, cancel.at, life.start.at):
            wrong.append(f"uncancelled: {life.start.run_id} was told to end and started again")
    return wrong


def _anchor_of(desired: DesiredState) -> Instant:
    return desired.created - desired.created % SECOND


def _has_missed(desired: DesiredState, came: Instant, later: Instant) -> bool:
    """Whether the slot that was the newest when it ``came``, and replaced a run, was past its deadline ``later``.

    Where the replica was lost before it had stored that, the next one finds that slot missed, and the run goes on.
    """
    deadline, (trigger,) = desired.definition.misfire.deadline, desired.definition.triggers or (None,)
    if desired.definition.concurrency is not Concurrency.REPLACE or deadline is None or trigger is None:
        return False
    if not isinstance(trigger, EveryTrigger):
        return True
    due = came - (came - _anchor_of(desired)) % trigger.every
    return later - due + (trigger.every if desired.definition.jitter else 0) > deadline
