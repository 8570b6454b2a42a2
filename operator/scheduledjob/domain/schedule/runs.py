"""Runs: what happens to the runs of one schedule, from when they are due to their end.

The concurrency policy admits a run that is due: the run becomes active, waits, or is skipped. An active run has
attempts. Each attempt ends in success, failure or cancellation, or is lost with its replica, and from that follows the
next attempt or the end of the run with its record. ``machine.py`` has the table of what moves a run on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from scheduledjob.domain.time.instants import Instant, rfc3339

from .actions import (
    MAX_ASSERTED,
    NO_DETAILS,
    Actions,
    AttemptEnd,
    EndDetails,
    has,
    identities,
    may_lack,
    remove,
    without,
)
from .concurrency import Admission, decide, has_room, lacks_capacity, skips_while_active
from .misfire import jitter_of, newest_due
from .state import Completion, Outcome, Run, RunRecord, record_of

if TYPE_CHECKING:
    from .schedule import Schedule

MAX_LOST_IN_ROW = 5
"""After this many attempts in a row that were lost with their replica, the run fails: its job may be what kills it."""

COMPLETED_REASON = "the schedule is completed"
"""Why a run of a completed schedule is cancelled."""

START, WAIT, SKIP, REPLACE_ACTIVE = Admission  # looked up for every run, see `ownership.py`

# ---------------------------------------------------------------- a run that is due


def admit(schedule: Schedule, run: Run, now: Instant, actions: Actions) -> None:
    """Let a run that is due become active, wait, or be skipped, as the concurrency policy decides."""
    state, writes = schedule.state, schedule.writes
    assert not state.runs or may_lack(state.runs, run), f"{schedule.slug}: {run.slot} is admitted twice"
    admission = decide(schedule.definition, state, run, schedule.most_active)
    if admission is SKIP:
        state.skipped += 1
        schedule.lacked_capacity = lacks_capacity(schedule.definition, state, schedule.most_active)
        writes.changed = True
        if run.token:
            _record_skipped(schedule, run, now)
        return
    if admission is REPLACE_ACTIVE:
        _replace_active(schedule, run, now, actions)
        admission = WAIT if state.runs or state.waiting else START
    if not run.token:  # a manual run does not count for maxRuns
        state.started += 1
    if admission is START:
        if writes.changed or writes.in_flight:
            # In the stored state, another run may still be before it. A new owner would not count it as started then.
            writes.add(run)
        state.runs.append(run)
    else:
        state.waiting.append(run)
        writes.changed = True


def _record_skipped(schedule: Schedule, run: Run, now: Instant) -> None:
    """Write to history that a manual run did not start: whoever requested it waits for an answer."""
    policy = schedule.definition.concurrency.value
    if schedule.lacked_capacity:
        reason = capacity_reason(len(schedule.state.runs))
    else:
        reason = f"another run was active, and concurrencyPolicy is {policy}"
    _record(schedule, run, Outcome.SKIPPED_OVERLAP, now, EndDetails(reason))


def capacity_reason(active: int) -> str:
    """Return why a slot is skipped although its policy would let it start."""
    runs_are = "one run of the schedule is" if active == 1 else f"{active} runs of the schedule are"
    return f"{runs_are} active, which is its share of the replica's capacity"


def _replace_active(schedule: Schedule, run: Run, now: Instant, actions: Actions) -> None:
    """Cancel the active runs in favour of ``run``, and drop the waiting ones."""
    newer = f"the manual run {run.token}" if run.token else f"the slot {rfc3339(run.slot)}"
    executing = identities(schedule.executing)
    stopping: list[Run] = []
    for active in list(schedule.state.runs):
        already_cancelled = bool(active.cancel_reason)
        to_stop = cancel(schedule, active, now, f"replaced by {newer}", executing=id(active) in executing)
        if to_stop and not already_cancelled:
            stopping.append(active)
    actions.cancel += tuple(stopping)
    drop_waiting(schedule)


def drop_waiting(schedule: Schedule) -> None:
    """Drop waiting runs, except manual ones and those that may have started already."""
    state = schedule.state
    dropped = [run for run in state.waiting if not run.token and not run.adoptable]
    if dropped:
        state.skipped += len(dropped)
        state.started -= len(dropped)
        state.waiting = [run for run in state.waiting if run.token or run.adoptable]
        schedule.writes.changed = True


def drop_named(schedule: Schedule) -> None:
    """Drop a waiting run whose slot a client named, because a client has named another one since."""
    state = schedule.state
    kept = [run for run in state.waiting if not run.named or run.adoptable or run.attempt > 1]
    dropped = len(state.waiting) - len(kept)
    if dropped:
        state.skipped += dropped
        state.started -= dropped
        state.waiting = kept
        schedule.writes.changed = True


def promote(schedule: Schedule) -> None:
    """Let waiting runs become active, in order, while there is room."""
    state = schedule.state
    while state.waiting and has_room(schedule.definition, state, state.waiting[0], schedule.most_active):
        run = state.waiting.pop(0)
        state.runs.append(run)
        schedule.writes.add(run)


# ---------------------------------------------------------------- attempts


def attempt_started(schedule: Schedule, run: Run, now: Instant) -> None:
    """Note that the owner starts an attempt that ``step`` returned."""
    active, executing = schedule.state.runs, schedule.executing
    assert len(active) > MAX_ASSERTED or has(active, run), f"{schedule.slug}: {run.slot} starts, and is not active"
    assert not schedule.writes.is_unstored(run), f"{schedule.slug}: the run of {run.slot} starts before it is stored"
    run.begun = run.begun or now
    if run.detached and not run.adoptable:
        run.revision = schedule.state.revision
    assert not executing or may_lack(executing, run), f"{schedule.slug}: {run.slot} is executing already"
    schedule.executing = (*executing, run)


def attempt_ended(
    schedule: Schedule, run: Run, end: AttemptEnd, now: Instant, details: EndDetails = NO_DETAILS
) -> RunRecord | None:
    """Note that an attempt ended. Return the record of its run if the run has ended with it."""
    assert has(schedule.executing, run), f"{schedule.slug}: an attempt of {run.slot} ends, and was not executing"
    schedule.executing = without(schedule.executing, run)
    schedule.writes.changed = True
    if end is AttemptEnd.LOST:
        return lose_attempt(schedule, run, now)
    run.lost = 0
    if end is AttemptEnd.CANCELLED or (run.cancel_reason and end is AttemptEnd.FAILED):
        reason = run.cancel_reason or details.reason
        return finish(schedule, run, Outcome.CANCELLED, now, replace(details, reason=reason))
    if end is AttemptEnd.FAILED:
        return _fail_attempt(schedule, run, now, details)
    if end is AttemptEnd.COMPLETED and not _has_named(schedule):
        _complete(schedule, run, now)
    return finish(schedule, run, Outcome.SUCCEEDED, now, details)


def _fail_attempt(schedule: Schedule, run: Run, now: Instant, details: EndDetails) -> RunRecord | None:
    """Plan the next attempt after the backoff, or end the run if no retry or no time is left."""
    run.failed += 1
    retry = schedule.definition.retry
    delay = retry.delay(run.failed)
    if details.code is not None and details.code in retry.not_on:
        delay, details = None, replace(details, reason=f"{details.reason}; not retried, because of retry.notOn")
    elif delay is not None and details.retry_after is not None:
        delay = max(delay, min(details.retry_after, retry.longest))
    total = schedule.definition.timeouts.total
    if delay is not None and total is not None and now + delay >= run.begun + total:
        delay, reason = None, details.reason
        reason = f"{reason}; no time for a retry within timeouts.total" if reason else "timeouts.total passed"
        details = replace(details, reason=reason)
    if delay is None:
        return finish(schedule, run, Outcome.FAILED, now, details)
    _plan_next_attempt(schedule, run, now + delay)
    return None


def _has_named(schedule: Schedule) -> bool:
    """Return whether a client has named a slot that has not started: the schedule goes on, whatever its job says."""
    state = schedule.state
    return (state.next is not None and state.next.named) or any(run.named for run in state.waiting)


def _complete(schedule: Schedule, run: Run, now: Instant) -> None:
    """Complete the schedule for good, because the job of this run said so."""
    state = schedule.state
    _skip_overlapped(schedule, run, now)
    state.completed = Completion.JOB
    state.next = None
    state.upcoming = ()
    drop_waiting(schedule)
    for waiting in list(state.waiting):
        cancel(schedule, waiting, now, COMPLETED_REASON)


def lose_attempt(schedule: Schedule, run: Run, now: Instant) -> RunRecord | None:
    """Note that the owner can't continue an attempt. The next owner continues a detached one, or starts the next."""
    schedule.writes.changed = True
    if run.detached and schedule.detached:
        run.adoptable = True
        run.revision = run.revision or schedule.state.revision
        return None
    if run.cancel_reason:
        return finish(schedule, run, Outcome.CANCELLED, now, EndDetails(run.cancel_reason))
    run.lost += 1
    if run.lost >= MAX_LOST_IN_ROW:
        reason = f"OwnerLost: {run.lost} attempts in a row were lost with the replica that ran them"
        return finish(schedule, run, Outcome.FAILED, now, EndDetails(reason))
    _plan_next_attempt(schedule, run, now)
    return None


def _plan_next_attempt(schedule: Schedule, run: Run, due: Instant) -> None:
    run.due = due
    run.attempt += 1
    run.detached, run.adoptable = schedule.detached, False
    schedule.writes.add(run)


def move_attempt(schedule: Schedule, run: Run, now: Instant) -> None:
    """Let the next attempt of this run run where an edit has moved the job: inside the replica, or outside of it."""
    if run.adoptable:
        lose_attempt(schedule, run, now)
        return
    run.detached = schedule.detached
    schedule.writes.add(run)


# ---------------------------------------------------------------- the end of a run


def cancel(schedule: Schedule, run: Run, now: Instant, reason: str, *, executing: bool | None = None) -> bool:
    """Cancel a run. Return whether its attempt has to be stopped first, which is up to the owner.

    Whoever cancels many runs says whether each is ``executing``.
    """
    state = schedule.state
    if executing is None:
        executing = has(schedule.executing, run)
    if executing or run.adoptable:
        schedule.writes.changed = True
        run.cancel_reason = run.cancel_reason or reason
        if state.waiting and has(state.waiting, run):
            remove(state.waiting, run)
            state.runs.append(run)
        return executing
    finish(schedule, run, Outcome.CANCELLED, now, EndDetails(reason))
    return False


def cancel_unadmitted(schedule: Schedule, run: Run, now: Instant, reason: str) -> None:
    """End a run that was neither started nor made to wait, with a record."""
    schedule.state.cancelled += 1
    schedule.writes.changed = True
    _record(schedule, run, Outcome.CANCELLED, now, EndDetails(reason))


def finish(schedule: Schedule, run: Run, outcome: Outcome, now: Instant, details: EndDetails = NO_DETAILS) -> RunRecord:
    """End a run with this outcome, and return its record for history."""
    state = schedule.state
    executing = schedule.executing
    assert not executing or may_lack(executing, run), f"{schedule.slug}: {run.slot} ends while executing"
    schedule.writes.changed = True
    _skip_overlapped(schedule, run, now)
    remove(state.runs, run)
    if state.waiting:
        remove(state.waiting, run)
    schedule.writes.drop(run)
    if outcome is Outcome.SUCCEEDED:
        state.succeeded += 1
        state.failures_in_row = 0
        state.last_success = now
        state.overdue = False
    elif outcome is Outcome.FAILED:
        state.failed += 1
        state.failures_in_row += 1
        state.last_failure = now
        limit = schedule.definition.pause_after_failures
        if limit and state.failures_in_row >= limit:
            _pause(schedule)
    else:
        state.cancelled += 1
    return _record(schedule, run, outcome, now, details)


def _pause(schedule: Schedule) -> None:
    """Pause the schedule, as ``pauseAfterFailures`` says: no slot starts until an edit or a resume."""
    state = schedule.state
    state.paused = True
    state.paused_under = schedule.definition_changed_at
    state.next = None
    state.upcoming = ()
    drop_waiting(schedule)


def _record(schedule: Schedule, run: Run, outcome: Outcome, now: Instant, details: EndDetails) -> RunRecord:
    record = record_of(
        run,
        outcome,
        now,
        uid=schedule.uid,
        slug=schedule.slug,
        keep=schedule.definition.keep,
        replica=details.where or schedule.replica,
        reason=details.reason,
    )
    record.code, record.output = details.code, details.output
    schedule.writes.records += (record,)
    return record


def record_unrecorded(schedule: Schedule, now: Instant) -> None:
    """Record the runs that ended when the row was made from status, as if they had ended now."""
    state = schedule.state
    schedule.writes.records += tuple(
        replace(record, slug=schedule.slug, replica=schedule.replica, finished=now) for record in state.unrecorded
    )
    state.unrecorded = ()
    schedule.writes.changed = True


def _skip_overlapped(schedule: Schedule, ending: Run, now: Instant) -> None:
    """When the last run ends, count the slots that came due in the meantime, if the policy skips them all."""
    state, slots, uid = schedule.state, schedule.slots, schedule.uid
    if slots is None or not skips_while_active(schedule.definition) or state.waiting:
        return
    if not schedule.open or any(run is not ending for run in state.runs):
        return
    slot, jitter = slots.next(state.decided_until), schedule.definition.jitter
    if slot is None or slot + jitter_of(uid, slot, jitter) > now:
        return
    if state.next is not None and state.next.slot == slot and not state.next.named:
        # It was planned before a manual run became active and has not started. It is counted here.
        state.next = None
    newest = max(newest_due(slots, uid, jitter, now) or slot, slot)
    skipped, excluded = slots.count(state.decided_until, newest)
    state.skipped += skipped
    state.excluded += excluded
    state.decided_until = newest
