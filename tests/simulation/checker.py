"""Checks the history of a seed and reports each broken promise. It knows nothing of the engine.

Its own model of what should have happened is simple arithmetic: the slots of ``every`` are multiples of the interval
since the creation, and each of them either ran or is counted as not run, exactly once.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from scheduledjob.domain.schedule.definition import Concurrency
from scheduledjob.domain.schedule.state import Outcome, RunRecord
from scheduledjob.domain.time.instants import SECOND, Instant
from scheduledjob.domain.triggers.every import EveryTrigger
from scheduledjob.domain.triggers.following import FollowingTrigger
from scheduledjob.engine.executor import RELEASED

from .pods import NEVER_CREATED
from .restored import Lifetime, forgotten, is_lost, known, outlasted, parts, repeated, unknown
from .zone_versions import RELEASES, slots_by

if TYPE_CHECKING:
    from scheduledjob.domain.schedule.state import State

    from .history import DesiredState, History
    from .world import Event


SETTLED = 30
"""Seconds after the faults from which every lease is renewed in time."""


def check(history: History) -> list[str]:
    """Return every broken promise in a history, in words."""
    wrong = list(history.failures)
    lifetimes = _lifetimes(history.events)
    records: dict[str, RunRecord] = {}
    for record in history.records:
        if record.run_id in records:
            wrong.append(f"completed twice: {record.run_id} has two records")
        records[record.run_id] = record
    by_uid: dict[str, list[Lifetime]] = defaultdict(list)
    for lifetime in lifetimes:
        by_uid[lifetime.start.uid].append(lifetime)
    restore = history.restore
    lost = restore.lost_records if restore is not None else []
    everything = {record.run_id: record for record in lost} | records
    for desired in history.desired_rows:
        mine = sorted(by_uid[desired.uid], key=lambda lifetime: (lifetime.start.at, lifetime.start.process))
        stored = [record for record in history.records if record.uid == desired.uid]
        kept = [record for record in everything.values() if record.uid == desired.uid]
        wrong += _early(mine)
        seen = known(mine, desired, restore)
        wrong += _twice(seen, desired)
        for part in parts(mine, restore):
            wrong += _twice(part, desired) if restore is not None else []
            wrong += _attempts(part, desired)
        wrong += repeated(mine, desired, restore)
        # A deleted object's row is back until the sweep finds it, and its runs go on as the backup knows them.
        wrong += _restarted(seen, records) if restore is None or not desired.deleted else []
        wrong += _stale(mine, stored)
        wrong += _lost(mine, kept, desired, history)
        wrong += _unended(mine, seen, everything, desired, history)
        wrong += _unheard(mine, everything, desired, history)
        wrong += _uncalled(kept, desired, history)
        wrong += _fenced(mine, history)
        wrong += _unnamed(mine, desired, history)
    return wrong


def _lifetimes(events: list[Event]) -> list[Lifetime]:
    lifetimes: dict[int, Lifetime] = {}
    for event in events:
        if event.kind == "start":
            lifetimes[event.process] = Lifetime(event)
        elif event.kind in {"end", "killed"}:
            lifetimes[event.process].end = event
    return list(lifetimes.values())


def _early(lifetimes: list[Lifetime]) -> list[str]:
    return [
        f"early: {lifetime.start.run_id} started {lifetime.start.slot - lifetime.start.at} us before its slot"
        for lifetime in lifetimes
        if lifetime.start.at < lifetime.start.slot
    ]


def _twice(lifetimes: list[Lifetime], desired: DesiredState) -> list[str]:
    """Two processes of one run must not be alive at once, nor two of a schedule that does not allow it."""
    wrong = []
    exclusive = desired.definition.concurrency is not Concurrency.ALLOW
    for index, lifetime in enumerate(lifetimes):
        for later in lifetimes[index + 1 :]:
            same = later.start.run_id == lifetime.start.run_id
            if (same or exclusive) and later.start.at < lifetime.until:
                what = lifetime.start.run_id if same else desired.slug
                wrong.append(f"twice at once: {what} on {lifetime.start.replica} and {later.start.replica}")
    return wrong


def _attempts(lifetimes: list[Lifetime], desired: DesiredState) -> list[str]:
    """Each start of a run has a higher attempt number and a higher fencing token than the one before."""
    wrong = []
    last: dict[str, Event] = {}
    newest = -1
    for lifetime in lifetimes:
        start, before = lifetime.start, last.get(lifetime.start.run_id)
        if before is not None and start.attempt <= before.attempt:
            wrong.append(f"silent: {start.run_id} started again as attempt {start.attempt} after {before.attempt}")
        if before is not None and start.version <= before.version:
            wrong.append(f"token: {start.run_id} started at version {start.version} after {before.version}")
        if desired.definition.concurrency is not Concurrency.ALLOW and start.version <= newest:
            wrong.append(f"token: {desired.slug} started at version {start.version} after {newest}")
        newest = max(newest, start.version)
        last[start.run_id] = start
    return wrong


def _restarted(lifetimes: list[Lifetime], records: dict[str, RunRecord]) -> list[str]:
    """A run that has a record is not started again."""
    wrong = []
    for lifetime in lifetimes:
        record = records.get(lifetime.start.run_id)
        if record is not None and lifetime.start.attempt > record.attempt:
            wrong.append(f"completed twice: {record.run_id} was started again after its record")
    return wrong


def _stale(lifetimes: list[Lifetime], kept: list[RunRecord]) -> list[str]:
    """The record of a run says how its last process ended, and is from the replica that ran it."""
    wrong = []
    runs: dict[str, list[Lifetime]] = defaultdict(list)
    for lifetime in lifetimes:
        runs[lifetime.start.run_id].append(lifetime)
    for record in kept:
        if record.outcome not in {Outcome.SUCCEEDED, Outcome.FAILED} or record.reason.startswith("OwnerLost"):
            continue
        attempts = [
            lifetime
            for lifetime in runs[record.run_id]
            if lifetime.start.replica == record.replica and lifetime.start.attempt == record.attempt
        ]
        expected, ending = ["ok" if record.outcome is Outcome.SUCCEEDED else "failed"], "end"
        if record.outcome is Outcome.FAILED and record.reason == "deleted":
            # The owner that deleted the Pod lost its row before it wrote why. The next one finds that it was deleted.
            expected, ending = ["deleted"], "killed"
        elif record.outcome is Outcome.FAILED and record.reason == NEVER_CREATED:
            expected = []  # deleted likewise, while the request to create it was under way
        ends = [
            lifetime.end.detail for lifetime in attempts if lifetime.end is not None and lifetime.end.kind == ending
        ]
        if ends != expected and record.reason != "its owner was deleted":
            wrong.append(f"stale: {record.run_id} is {record.outcome.value} by {record.replica}, its process: {ends}")
    return wrong


def _lost(lifetimes: list[Lifetime], kept: list[RunRecord], desired: DesiredState, history: History) -> list[str]:
    """Every slot up to ``decided_until`` ran or is counted, and ``decided_until`` keeps up with the clock."""
    if desired.deleted or is_lost(desired, history):
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
    run = len(kept) + sum(not run.token for run in (*state.runs, *state.waiting))
    counted = state.skipped + state.missed + state.excluded - by_hand
    if desired.follows:
        return _unfollowed(kept, desired, history, run + counted + len(state.upcoming))
    if desired.expression:
        return _misplaced(kept, state, desired, history)
    assert isinstance(trigger, EveryTrigger)
    slots = (state.decided_until - _anchor_of(desired)) // trigger.every
    wrong = []
    exact = history.restore is None or history.restore.clean
    if state.completed is None and (slots != run + counted if exact else slots > run + counted):
        wrong.append(
            f"lost: {desired.slug} had {slots} slots, {run} runs, {state.skipped} skipped, {state.missed} missed"
        )
    behind = history.ended - 31 * SECOND - trigger.every - desired.definition.jitter - 2 * SECOND
    stopped = state.completed is not None or state.paused
    if not stopped and not state.runs and not state.waiting and state.decided_until < behind:
        wrong.append(f"lost: {desired.slug} has not moved for {(history.ended - state.decided_until) / SECOND:.1f} s")
    limit = desired.definition.max_runs
    if limit is not None and run > limit and exact:
        wrong.append(f"too many: {desired.slug} ran {run} times of {limit}")
    return wrong


def _misplaced(kept: list[RunRecord], state: State, desired: DesiredState, history: History) -> list[str]:
    """Each slot in a time zone is that of some release, and later on, every slot is one of the newest release."""
    expression, newest = desired.expression, history.zone_data
    runs = [*(record.slot for record in kept), *(run.slot for run in (*state.runs, *state.waiting) if not run.token)]
    anything = {slot for release in RELEASES for slot in slots_by(release, expression, desired.created, history.ended)}
    wrong = [f"misplaced: {desired.slug} ran at {slot}" for slot in runs if slot not in anything]
    before = history.zoned_states.get(desired.uid)
    if before is None:
        return wrong
    slots = slots_by(newest, expression, before.decided_until, state.decided_until)
    later = [slot for slot in runs if slot > before.decided_until]
    wrong += [f"misplaced: {desired.slug} ran at {slot}, not by {newest}" for slot in later if slot not in slots]
    counted = _passed_over(state) - _passed_over(before)
    if state.completed is None and len(later) + counted != len(slots):
        wrong.append(f"misplaced: {desired.slug} had {len(slots)} slots, {len(later)} runs, {counted} others")
    for waiting in (before, state):
        planned = waiting.next.slot if waiting.next is not None else 0
        if planned and not slots_by(newest, expression, planned - 1, planned):
            wrong.append(f"misplaced: {desired.slug} waits for {planned}, not by {newest}")
    overdue = slots_by(newest, expression, before.decided_until, history.ended - 35 * SECOND)
    stopped = state.completed is not None or state.paused
    if overdue and not stopped and not state.runs and not state.waiting and state.decided_until < overdue[-1]:
        wrong.append(f"misplaced: {desired.slug} did not decide {overdue[-1]}")
    return wrong


def _passed_over(state: State) -> int:
    return state.skipped + state.missed + state.excluded


def _unended(
    lifetimes: list[Lifetime],
    seen: list[Lifetime],
    records: dict[str, RunRecord],
    desired: DesiredState,
    history: History,
) -> list[str]:
    """Everything that had started when the trouble ended has ended."""
    started = {lifetime.start.run_id for lifetime in seen if lifetime.start.at <= history.trouble_ended}
    wrong = [f"never ended: {run_id}" for run_id in sorted(started - set(records))]
    wrong += [f"never ended: process of {lifetime.start.run_id}" for lifetime in lifetimes if lifetime.end is None]
    return (
        wrong
        if not desired.deleted and not is_lost(desired, history)
        else [line for line in wrong if "process" in line]
    )


def _unfollowed(kept: list[RunRecord], desired: DesiredState, history: History, decided: int) -> list[str]:
    """Every end of a followed run made a slot, and nothing else did."""
    (trigger,) = desired.definition.triggers
    assert isinstance(trigger, FollowingTrigger)
    lost = history.restore.lost_records if history.restore is not None else []
    everything = [*history.records, *lost]
    ends = [
        record.finished
        for record in everything
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
    due -= len(lost)  # a follower may not have read these
    # A run of which nobody knew after the restore was decided twice, and need not have run the second time.
    most = len(ends) + len(unknown(lost, desired, history.restore))
    if not due <= decided <= most:
        wrong.append(f"unfollowed: {desired.slug} decided {decided} of {due} to {most} ends")
    return wrong


def _unheard(
    lifetimes: list[Lifetime], records: dict[str, RunRecord], desired: DesiredState, history: History
) -> list[str]:
    """Every manual request was carried out once, and a run that was being cancelled was not started again."""
    if desired.deleted:
        return []
    wrong = []
    state = history.states.get(desired.uid)
    if state is not None and desired.requests:
        last = desired.requests[-1]
        tokens = dict.fromkeys(
            made.run for made in desired.requests if made.run and not forgotten(made, desired, history)
        )
        runs = [f"{desired.uid}-{token}" for token in tokens]
        wrong += [f"unheard: {run_id} has no record" for run_id in runs if run_id not in records]
        requested = [("run-now", last.run), ("cancel", last.cancel), ("resume", last.resume)]
        missing = [f"{act}/{token}" for act, token in requested if token and f"{act}/{token}" not in state.handled]
        wrong += [f"unheard: {desired.slug} {act}" for act in missing]
    if desired.edited or history.restore is not None:
        return wrong  # an edit may undo the cancellation, and status may not know of it
    cancelled = {event.run_id: event for event in history.events if event.kind == "cancel" and event.uid == desired.uid}
    for lifetime in lifetimes:
        cancel = cancelled.get(lifetime.start.run_id)
        if cancel is None or lifetime.start.attempt <= cancel.attempt or lifetime.start.at <= cancel.at:
            continue
        if lifetime.start.replica == cancel.replica or not _has_missed(desired, cancel.at, lifetime.start.at):
            wrong.append(f"uncancelled: {lifetime.start.run_id} was being cancelled and started again")
    return wrong


def _fenced(lifetimes: list[Lifetime], history: History) -> list[str]:
    """Between the faults and the shutdown, leases are renewed in time."""
    return [
        f"fenced: {lifetime.start.run_id} on {lifetime.start.replica} at {lifetime.end.at} without a fault"
        for lifetime in lifetimes
        if lifetime.end is not None
        and lifetime.end.kind == "killed"
        and lifetime.end.detail in {"deadline", RELEASED}
        and history.trouble_ended + SETTLED * SECOND < lifetime.end.at < history.ended - 31 * SECOND
    ]


def _uncalled(kept: list[RunRecord], desired: DesiredState, history: History) -> list[str]:
    """Each failed run called its hook, at least once, and no other run did."""
    called = {event.run_id for event in history.events if event.kind == "hook" and event.uid == desired.uid}
    failed = {record.run_id: record.finished for record in kept if record.outcome is Outcome.FAILED}
    lost = history.restore.lost_records if history.restore is not None else []
    called -= {record.run_id for record in lost}
    failed = {run_id: finished for run_id, finished in failed.items() if run_id not in {r.run_id for r in lost}}
    wrong = [f"uncalled: {run_id} called a hook and has not failed" for run_id in sorted(called - set(failed))]
    settled = history.ended - 60 * SECOND
    late = sorted(run_id for run_id, finished in failed.items() if run_id not in called and finished < settled)
    return wrong + [f"uncalled: {run_id} failed and its hook was not called" for run_id in late]


def _unnamed(lifetimes: list[Lifetime], desired: DesiredState, history: History) -> list[str]:
    """The last slot that a client named for a schedule ran, with the payload that came with it."""
    if desired.deleted or not desired.named or is_lost(desired, history):
        return []
    named = [event for event in history.events if event.kind == "named" and event.uid == desired.uid]
    if not (left := outlasted(named, history.restore)):
        return []
    last = left[-1]
    # A retry of an earlier run may have received that payload first, and left it for the next run with a "+".
    ran = [lifetime.start for lifetime in lifetimes if lifetime.start.detail.rstrip("+") == last.detail]
    if not any(start.slot == last.slot for start in ran):
        return [f"unnamed: {desired.slug} did not run the slot {last.slot} with the payload {last.detail}"]
    return []


def _anchor_of(desired: DesiredState) -> Instant:
    return desired.created - desired.created % SECOND


def _has_missed(desired: DesiredState, came: Instant, later: Instant) -> bool:
    """Return whether the slot that replaced a run at ``came`` was past its deadline at ``later``.

    If the replica died before it had stored the replacement, the next owner finds the slot missed, and the run goes on.
    """
    deadline, (trigger,) = desired.definition.misfire.deadline, desired.definition.triggers or (None,)
    if desired.definition.concurrency is not Concurrency.REPLACE or deadline is None or trigger is None:
        return False
    if not isinstance(trigger, EveryTrigger):
        return True
    due = came - (came - _anchor_of(desired)) % trigger.every
    return later - due + (trigger.every if desired.definition.jitter else 0) > deadline
