"""Runs: those of one schedule, from the moment that their slot is due to their end.

A run that is due is admitted by the concurrency policy: it becomes active, waits, or is passed over. Active, it has
attempts, of which each ends in success, failure, cancellation, or with its replica; from that follows the next attempt
or the end of the run, with its record. Which slots there are, and when, ``Schedule`` says, which stands on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from scheduledjob.domain.time.instants import Instant, rfc3339

from .actions import Actions, AttemptEnd, has, remove, without
from .concurrency import Admission, decide, has_room
from .definition import Concurrency, Definition
from .misfire import Slots, jitter_of, newest_due
from .requests import Requests
from .state import Completion, Outcome, Run, RunRecord, State, record_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.domain.triggers.following import FollowingTrigger

MAX_LOST_IN_ROW = 5
"""After so many attempts in a row that were lost with their replica, the run has failed: its job may be what kills."""


COMPLETED = "the schedule is completed"
"""Why a run is cancelled that came too late."""


class Runs(msgspec.Struct, eq=False, gc=False):
    """The runs of one schedule in the hands of its owner. All times are instants of the store's clock."""

    slug: str
    uid: str
    definition: Definition
    slots: Slots | None
    state: State
    replica: str = ""
    detached: bool = False
    """Attempts that start now live outside the replica."""
    definition_changed_at: Instant = 0
    """When the definition was written, as the store says."""
    poll_at: Instant | None = None
    """When to look for runs of what it follows; None: never, as it is now."""
    poll_in_flight: bool = False
    """Somebody looks, and will tell ``followed``."""
    executing: tuple[Run, ...] = ()
    """Runs whose attempt this owner has started and that has not ended."""
    records: tuple[RunRecord, ...] = ()
    """Runs that ended and are not yet in history."""
    changed: bool = False
    """The state differs from what is stored."""
    unstored: tuple[Run, ...] = ()
    """Runs that the stored state does not know yet."""
    _storing: tuple[Run, ...] = ()
    _unanswered: bool = False
    _requests: Requests | None = None
    _asked_at: Instant = 0

    @property
    def follows(self) -> Sequence[FollowingTrigger]:
        return self.slots.following if self.slots is not None else ()

    # ---------------------------------------------------------------- slots

    @property
    def open(self) -> bool:
        """New slots may start."""
        state = self.state
        return state.completed is None and not state.suspended and not state.paused

    @property
    def used_up(self) -> bool:
        limit = self.definition.max_runs
        return limit is not None and self.state.started >= limit

    def look(self, at: Instant) -> None:
        """Runs of what it follows may have ended: look for them at that time, if it follows any."""
        self.poll_at = at if self.follows and self.open else None

    def new_run(self, slot: Instant, at: Instant) -> Run:
        """A run of a slot, due at ``at``."""
        return Run(slot=slot, due=at, detached=self.detached)

    # ---------------------------------------------------------------- attempts

    def began(self, run: Run, now: Instant) -> None:
        """An attempt that ``step`` gave out starts now."""
        run.begun = run.begun or now
        self.executing += (run,)

    def ended(
        self,
        run: Run,
        end: AttemptEnd,
        now: Instant,
        *,
        reason: str = "",
        code: int | None = None,
        output: bytes = b"",
        where: str = "",
    ) -> RunRecord | None:
        """An attempt ended; the record of its run if that was the run's end. ``where``: if not in this replica."""
        self.executing = without(self.executing, run)
        self.changed = True
        if end is AttemptEnd.LOST:
            return self._lose(run, now)
        run.lost = 0
        if end is AttemptEnd.CANCELLED or (run.cancel_reason and end is AttemptEnd.FAILED):
            return self.finish(run, Outcome.CANCELLED, now, run.cancel_reason or reason, code, output, where)
        if end is AttemptEnd.FAILED:
            run.failed += 1
            delay = self.definition.retry.delay(run.failed)
            total = self.definition.timeouts.total
            if delay is not None and total is not None and now + delay >= run.begun + total:
                delay = None
                reason = f"{reason}; no time for a retry within timeouts.total" if reason else "timeouts.total passed"
            if delay is not None:
                self._go_on_with_next(run, now + delay)
                return None
            return self.finish(run, Outcome.FAILED, now, reason, code, output, where)
        if end is AttemptEnd.COMPLETED:
            self._skip_overlapped(run, now)
            self.state.completed = Completion.JOB
            self.state.next = None
            self.state.upcoming = ()
            self._drop_waiting()
            for waiting in list(self.state.waiting):
                self.cancel(waiting, now, COMPLETED)
        return self.finish(run, Outcome.SUCCEEDED, now, reason, code, output, where)

    def cancel(self, run: Run, now: Instant, reason: str) -> bool:
        """End a run: True if its attempt must be stopped first, False if there is nothing of it to be stopped here."""
        if has(self.executing, run) or run.adoptable:
            self.changed = True
            run.cancel_reason = run.cancel_reason or reason
            if has(self.state.waiting, run):
                remove(self.state.waiting, run)
                self.state.runs.append(run)
            return has(self.executing, run)
        self.finish(run, Outcome.CANCELLED, now, reason)
        return False

    # ---------------------------------------------------------------- runs

    def admit(self, run: Run, now: Instant, actions: Actions) -> None:
        """Give a due run its place by the concurrency policy: active, waiting, or none."""
        state = self.state
        admission = decide(self.definition, state, run)
        if admission is Admission.SKIP:
            state.skipped += 1
            self.changed = True
            if run.token:
                self._tell_skipped(run, now)
            return
        if admission is Admission.REPLACE_ACTIVE:
            self._replace_active(run, now, actions)
            admission = Admission.WAIT if state.runs or state.waiting else Admission.START
        self._count_start(run)
        if admission is Admission.START:
            if (self.changed or self._unanswered) and not has(self.unstored, run):
                # In the store another run may still stand before it: whoever took over would not count it as begun.
                self.unstored += (run,)
                self.changed = True
            state.runs.append(run)
        else:
            state.waiting.append(run)
            self.changed = True

    def _replace_active(self, run: Run, now: Instant, actions: Actions) -> None:
        """Cancel the active runs in favour of ``run``, and drop the waiting ones."""
        newer = f"the manual run {run.token}" if run.token else f"the slot {rfc3339(run.slot)}"
        for active in list(self.state.runs):
            already_cancelled = bool(active.cancel_reason)
            if self.cancel(active, now, f"replaced by {newer}") and not already_cancelled:
                actions.cancel += (active,)
        self._drop_waiting()

    def _drop_waiting(self) -> None:
        """What waits does not start any more; a manual run still does, and what may have begun goes on."""
        state = self.state
        dropped = [run for run in state.waiting if not run.token and not run.adoptable]
        if dropped:
            state.skipped += len(dropped)
            state.started -= len(dropped)
            state.waiting = [run for run in state.waiting if run.token or run.adoptable]
            self.changed = True

    def _count_start(self, run: Run) -> None:
        if not run.token:
            self.state.started += 1

    def _promote(self) -> None:
        """Let waiting runs become active, in order, while there is room."""
        waiting = self.state.waiting
        while waiting and has_room(self.definition, self.state, waiting[0]):
            run = waiting.pop(0)
            self.state.runs.append(run)
            self.unstored += (run,)
            self.changed = True

    def _lose(self, run: Run, now: Instant) -> RunRecord | None:
        """Its owner can't go on with its attempt: another goes on, with this attempt or with the next."""
        self.changed = True
        if run.detached and self.detached:
            run.adoptable = True
            return None
        if run.cancel_reason:
            return self.finish(run, Outcome.CANCELLED, now, run.cancel_reason)
        run.lost += 1
        if run.lost >= MAX_LOST_IN_ROW:
            reason = f"OwnerLost: {run.lost} attempts in a row were lost with the replica that ran them"
            return self.finish(run, Outcome.FAILED, now, reason)
        self._go_on_with_next(run, now)
        return None

    def _go_on_with_next(self, run: Run, at: Instant) -> None:
        """Its next attempt starts at ``at``."""
        run.due = at
        run.attempt += 1
        run.detached, run.adoptable = self.detached, False
        self.unstored += (run,)
        self.changed = True

    def _change_over(self, run: Run, now: Instant) -> None:
        """Its attempt was to live outside the replica, and now within, or the reverse: an edit changed that."""
        if run.adoptable:
            self._lose(run, now)
            return
        run.detached = self.detached
        if not has(self.unstored, run):
            self.unstored += (run,)
        self.changed = True

    def finish(
        self,
        run: Run,
        outcome: Outcome,
        now: Instant,
        reason: str = "",
        code: int | None = None,
        output: bytes = b"",
        where: str = "",
    ) -> RunRecord:
        """The end of a run."""
        state = self.state
        self.changed = True
        self._skip_overlapped(run, now)
        remove(state.runs, run)
        if state.waiting:
            remove(state.waiting, run)
        self.unstored = without(self.unstored, run)
        if outcome is Outcome.SUCCEEDED:
            state.succeeded += 1
            state.failures_in_row = 0
            state.last_success = now
            state.overdue = False
        elif outcome is Outcome.FAILED:
            state.failed += 1
            state.failures_in_row += 1
            state.last_failure = now
            limit = self.definition.pause_after_failures
            if limit and state.failures_in_row >= limit:
                state.paused = True
                state.paused_under = self.definition_changed_at
                state.next = None
                state.upcoming = ()
                self._drop_waiting()
        else:
            state.cancelled += 1
        record = self._record(run, outcome, now, reason, where)
        record.code, record.output = code, output
        return record

    def _record(self, run: Run, outcome: Outcome, now: Instant, reason: str, where: str = "") -> RunRecord:
        keep, replica = self.definition.keep, where or self.replica
        record = record_of(run, outcome, now, uid=self.uid, slug=self.slug, keep=keep, replica=replica, reason=reason)
        self.records += (record,)
        return record

    def _tell_skipped(self, run: Run, now: Instant) -> None:
        """Somebody waits for what became of a manual run: that it was not let begin is said in history."""
        policy = self.definition.concurrency.value
        reason = f"another run was active, and concurrencyPolicy is {policy}"
        self._record(run, Outcome.SKIPPED_OVERLAP, now, reason)

    def _skip_overlapped(self, ending: Run, now: Instant) -> None:
        """Under Forbid the slots that came due while a run was active are consumed by that, once the last one ends."""
        state, slots = self.state, self.slots
        if slots is None or self.definition.concurrency is not Concurrency.FORBID or state.waiting:
            return
        if not self.open or any(run is not ending for run in state.runs):
            return
        slot, jitter = slots.next(state.decided_until), self.definition.jitter
        if slot is None or slot + jitter_of(self.uid, slot, jitter) > now:
            return
        if state.next is not None and state.next.slot == slot:
            # Planned before a manual run became active: nobody has taken it yet, and now it is counted.
            state.next = None
        newest = max(newest_due(slots, self.uid, jitter, now) or slot, slot)
        skipped, excluded = slots.count(state.decided_until, newest)
        state.skipped += skipped
        state.excluded += excluded
        state.decided_until = newest

    def _is_unstored(self, run: Run) -> bool:
        return (bool(self.unstored) and has(self.unstored, run)) or (bool(self._storing) and has(self._storing, run))
