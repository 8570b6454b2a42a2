"""Schedule: what follows for one schedule from time passing and from its attempts ending.

This is the state machine at the heart of the product, and it does no I/O: the owner of a row loads it, tells it
what happened (``taken_over``, ``edited``, ``ended``), asks what is to be done now (``step``) and when to ask again
(``wake``), and writes what it became (``snapshot``). Every policy that a user can set is decided here: misfire,
concurrency, retry, completion, auto-pause, overdue.

One rule carries the promise that nothing runs twice unsaid: *a run may start only if the stored state already says
so*. A row that is released names the slot that it waits for (``next``); whoever claims it may start that slot without
another write, and whoever finds it due under a dead owner counts the attempt as lost. A run that this object brings
up itself is ``fresh`` until the state with it in has been stored, and is not handed out to be started before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .concurrency import has_room, is_skipped
from .definition import Concurrency, Definition, FollowingTrigger
from .instants import rfc3339
from .misfire import Slots, decide, jitter_of, newest_due
from .moves import End, Moves, has, remove, without
from .state import Completion, Outcome, Run, RunRecord, State, record_of

if TYPE_CHECKING:
    from .instants import Instant

MAX_LOST_IN_ROW = 5
"""After so many attempts in a row that were lost with their replica, the run has failed: its job may be what kills."""


class Schedule:
    """One schedule in the hands of its owner. All times are instants of the store's clock."""

    __slots__ = (
        "_cancelling",
        "_fresh",
        "_slots",
        "_storing",
        "_unanswered",
        "changed",
        "definition",
        "executing",
        "records",
        "replica",
        "slug",
        "state",
        "uid",
    )

    def __init__(
        self, slug: str, uid: str, definition: Definition, slots: Slots | None, state: State, replica: str = ""
    ) -> None:
        self.slug = slug
        self.uid = uid
        self.definition = definition
        self._slots = slots
        self.state = state
        self.replica = replica
        self.executing: tuple[Run, ...] = ()
        """Runs whose attempt this owner has started and that has not ended."""
        self.records: tuple[RunRecord, ...] = ()
        """Runs that ended and are not yet in history."""
        self.changed = False
        """The state differs from what is stored."""
        self._fresh: tuple[Run, ...] = ()
        self._storing: tuple[Run, ...] = ()
        self._unanswered = False
        self._cancelling: tuple[Run, ...] = ()

    # ---------------------------------------------------------------- what happened

    def taken_over(self, now: Instant, *, edited: bool = False) -> None:
        """The row came from a dead owner: whatever could have begun is taken to have begun, and to be lost.

        The planned slot could not where another run stands before it: that takes a write first. With a wish that was
        ``edited`` since, the policy that the dead owner went by is not known: then it may have begun even so.
        """
        state, planned = self.state, self.state.next
        if planned is not None and planned.due <= now and self._open:
            room = not state.waiting and has_room(self.definition, state, planned)
            if room or edited:
                if self.definition.exclude and self._slots is not None:
                    state.excluded += self._slots.count(state.floor, planned.slot)[1]
                state.floor = max(state.floor, planned.slot)
                self._count_start(planned)
                state.next = None
                if room:
                    state.runs.append(planned)
                else:
                    planned.begun, planned.attempt, planned.lost = planned.due, 2, 1
                    state.waiting.append(planned)
                    self.changed = True
        for run in list(state.runs):
            if run.due <= now:
                run.begun = run.begun or run.due
                self._lose(run, now)

    def edited(self, revision: int, edited_at: Instant, first: Instant | None) -> None:
        """The wish changed: ``definition`` and slots are the new ones. An edit or a resume never replays the past."""
        state = self.state
        self.changed = True
        state.revision = revision
        when = self.definition.when_digest
        if when != state.when:
            state.when = when
            state.floor = max(state.floor, edited_at)
            if state.completed is Completion.NO_SLOT:
                state.completed = None
        if state.completed is Completion.MAX_RUNS and not self._used_up():
            state.completed = None
        if state.paused:
            state.paused = False
            state.floor = max(state.floor, edited_at)
        if state.suspended and not self.definition.suspend:
            state.floor = max(state.floor, edited_at)
            state.expect_from = edited_at
        state.suspended = self.definition.suspend
        if state.suspended:
            self._drop_waiting()
        overdue_at = self._overdue_from()
        if state.overdue and (overdue_at is None or overdue_at > edited_at):
            state.overdue = False
        state.next = None
        if first is not None and state.completed is not Completion.JOB:
            state.completed = None
            state.next = Run(slot=first, due=first)
            self._fresh += (state.next,)

    def rewish(self, definition: Definition, slots: Slots | None) -> None:
        """Go by another definition from now on; ``edited`` follows."""
        self.definition = definition
        self._slots = slots

    def began(self, run: Run, now: Instant) -> None:
        """An attempt that ``step`` gave out starts now."""
        run.begun = run.begun or now
        self.executing += (run,)

    def ended(
        self,
        run: Run,
        end: End,
        now: Instant,
        *,
        reason: str = "",
        code: int | None = None,
        output: bytes = b"",
    ) -> RunRecord | None:
        """An attempt ended; the record of its run if that was the run's end."""
        self.executing = without(self.executing, run)
        self.changed = True
        cancelled = has(self._cancelling, run)
        self._cancelling = without(self._cancelling, run)
        if end is End.LOST:
            return self._lose(run, now) if not cancelled else self._finish(run, Outcome.CANCELLED, now, reason)
        run.lost = 0
        if end is End.CANCELLED or (cancelled and end is End.FAILED):
            return self._finish(run, Outcome.CANCELLED, now, reason, code, output)
        if end is End.FAILED:
            run.failed += 1
            delay = self.definition.retry.delay(run.failed)
            total = self.definition.timeouts.total
            if delay is not None and total is not None and now + delay >= run.begun + total:
                delay = None
                reason = f"{reason}; no time for a retry within timeouts.total" if reason else "timeouts.total passed"
            if delay is not None:
                run.due = now + delay
                run.attempt += 1
                self._fresh += (run,)
                return None
            return self._finish(run, Outcome.FAILED, now, reason, code, output)
        if end is End.COMPLETED:
            self._skip_overlapped(run, now)
            self.state.completed = Completion.JOB
            self.state.next = None
            self._drop_waiting()
        return self._finish(run, Outcome.SUCCEEDED, now, reason, code, output)

    def cancel(self, run: Run, now: Instant, reason: str) -> bool:
        """End a run: True if its attempt must be stopped first, False if that was all."""
        if has(self.executing, run):
            if not has(self._cancelling, run):
                self._cancelling += (run,)
            return True
        self._finish(run, Outcome.CANCELLED, now, reason)
        return False

    # ---------------------------------------------------------------- what is to be done

    def step(self, now: Instant) -> Moves:
        """Everything that is due at ``now``: what to start, what to cancel. Asking twice gives nothing twice only
        after ``began`` was told of what was given."""
        moves = Moves()
        state = self.state
        while state.next is not None and state.next.due <= now and self._open:
            self._take(state.next, now, moves)
            self._promote()
            self._plan(now)
        self._promote()
        total = self.definition.timeouts.total
        for run in list(state.runs):
            if run.due <= now and not has(self.executing, run):
                if total is not None and run.begun and now >= run.begun + total:
                    self._finish(run, Outcome.FAILED, now, "timeouts.total passed before the next attempt")
                elif not self._is_fresh(run):
                    moves.start += (run,)
        self._promote()
        self._plan(now)
        overdue_at = self._overdue_at()
        if overdue_at is not None and overdue_at <= now:
            state.overdue = True
            self.changed = True
            moves.became_overdue = True
        return moves

    def leave(self, now: Instant) -> None:
        """Make the state one that can be handed over: what comes next is named, and nothing is begun."""
        self._promote()
        self._plan(now)

    def wake(self) -> Instant | None:
        """When ``step`` will next have something to do, if no attempt ends before; None: never."""
        state = self.state
        wake = self._overdue_at()
        if state.next is not None and self._open and (wake is None or state.next.due < wake):
            wake = state.next.due
        for run in state.runs:
            if (wake is None or run.due < wake) and not has(self.executing, run):
                wake = run.due
        return wake

    def blocked(self, now: Instant) -> bool:
        """A run is due that may start as soon as the state has been stored."""
        return bool(self._fresh) and any(run.due <= now and self._is_fresh(run) for run in self.state.runs)

    @property
    def done(self) -> bool:
        """Completed, and nothing of it is active."""
        return self.state.completed is not None and not self.state.runs and not self.state.waiting

    # ---------------------------------------------------------------- what is stored

    def snapshot(self) -> bytes:
        """The state to store now. Once it is stored, call ``stored``."""
        self._storing += self._fresh
        self._fresh = ()
        self.changed = False
        self._unanswered = True
        return self.state.encode()

    def stored(self) -> None:
        """The last snapshot is in the store: what was fresh in it may start."""
        self._storing = ()
        self._unanswered = False

    # ---------------------------------------------------------------- slots

    @property
    def _open(self) -> bool:
        """New slots may start."""
        state = self.state
        return state.completed is None and not state.suspended and not state.paused

    def _take(self, planned: Run, now: Instant, moves: Moves) -> None:
        """Decide every slot that is due: ``planned`` and any later one whose time has come since."""
        state, definition = self.state, self.definition
        state.next = None
        decided = decide(definition, self._slots, self.uid, planned.slot, planned.due, state.floor, now)
        state.floor = decided.floor
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
                run = Run(slot=slot, due=slot + jitter_of(self.uid, slot, definition.jitter))
                self._fresh += (run,)
                self.changed = True
            run.catch_up = len(taken) > 1
            state.last_schedule = slot
            self._admit(run, now, moves)
        if not taken:
            self.changed = True

    def _plan(self, now: Instant) -> None:
        """Name the slot to wait for, if there is to be one."""
        state = self.state
        if state.next is not None or not self._open:
            return
        active = bool(state.runs or state.waiting)
        if active and self.definition.concurrency is Concurrency.FORBID:
            return
        if self._used_up():
            if not active:
                state.completed = Completion.MAX_RUNS
                self.changed = True
            return
        slot = self._slots.next(state.floor) if self._slots is not None else None
        if slot is None:
            if not active and not any(isinstance(one, FollowingTrigger) for one in self.definition.triggers):
                state.completed = Completion.NO_SLOT
                self.changed = True
            return
        state.next = Run(slot=slot, due=slot + jitter_of(self.uid, slot, self.definition.jitter))
        self._fresh += (state.next,)
        self.changed = True

    def _used_up(self) -> bool:
        limit = self.definition.max_runs
        return limit is not None and self.state.started >= limit

    # ---------------------------------------------------------------- runs

    def _admit(self, run: Run, now: Instant, moves: Moves) -> None:
        """Give a due run its place by the concurrency policy: active, waiting, or none."""
        state = self.state
        if self.definition.concurrency is Concurrency.REPLACE:
            for active in list(state.runs):
                if self.cancel(active, now, f"replaced by the slot {rfc3339(run.slot)}"):
                    moves.cancel += (active,)
            self._drop_waiting()
        elif is_skipped(self.definition, state, run):
            state.skipped += 1
            self.changed = True
            return
        self._count_start(run)
        if not state.waiting and has_room(self.definition, state, run):
            if (self.changed or self._unanswered) and not has(self._fresh, run):
                # In the store another run may still stand before it: whoever took over would not count it as begun.
                self._fresh += (run,)
                self.changed = True
            state.runs.append(run)
        else:
            state.waiting.append(run)
            self.changed = True

    def _drop_waiting(self) -> None:
        """What waits does not start any more; a manual run still does."""
        state = self.state
        dropped = [run for run in state.waiting if not run.token]
        if dropped:
            state.skipped += len(dropped)
            state.started -= len(dropped)
            state.waiting = [run for run in state.waiting if run.token]
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
            self._fresh += (run,)
            self.changed = True

    def _lose(self, run: Run, now: Instant) -> RunRecord | None:
        self.changed = True
        run.lost += 1
        if run.lost >= MAX_LOST_IN_ROW:
            reason = f"OwnerLost: {run.lost} attempts in a row were lost with the replica that ran them"
            return self._finish(run, Outcome.FAILED, now, reason)
        run.attempt += 1
        run.due = now
        self._fresh += (run,)
        return None

    def _finish(
        self, run: Run, outcome: Outcome, now: Instant, reason: str = "", code: int | None = None, output: bytes = b""
    ) -> RunRecord:
        state, keep = self.state, self.definition.keep
        self.changed = True
        self._skip_overlapped(run, now)
        remove(state.runs, run)
        self._fresh = without(self._fresh, run)
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
                state.next = None
                self._drop_waiting()
        else:
            state.cancelled += 1
        record = record_of(
            run, outcome, now, uid=self.uid, slug=self.slug, keep=keep, replica=self.replica, reason=reason
        )
        record.code, record.output = code, output
        self.records += (record,)
        return record

    def _skip_overlapped(self, ending: Run, now: Instant) -> None:
        """Under Forbid the slots that came due while a run was active are consumed by that, once the last one ends."""
        state = self.state
        if self.definition.concurrency is not Concurrency.FORBID or state.waiting:
            return
        if self._slots is None or not self._open or any(run is not ending for run in state.runs):
            return
        slot = self._slots.next(state.floor)
        if slot is None or slot + jitter_of(self.uid, slot, self.definition.jitter) > now:
            return
        newest = max(newest_due(self._slots, self.uid, self.definition.jitter, now) or slot, slot)
        skipped, excluded = self._slots.count(state.floor, newest)
        state.skipped += skipped
        state.excluded += excluded
        state.floor = newest

    def _overdue_at(self) -> Instant | None:
        return None if self.state.overdue else self._overdue_from()

    def _overdue_from(self) -> Instant | None:
        within, state = self.definition.expect_success_within, self.state
        if within is None or state.suspended or state.completed is not None:
            return None
        return max(state.last_success or 0, state.expect_from) + within

    def _is_fresh(self, run: Run) -> bool:
        return (bool(self._fresh) and has(self._fresh, run)) or (bool(self._storing) and has(self._storing, run))


def first_state(
    definition: Definition, slots: Slots | None, uid: str, created: Instant, first: Instant | None = None
) -> State:
    """The state of a schedule that nobody has run yet; ``first`` names its first slot in place of its triggers."""
    state = State(floor=created, expect_from=created, suspended=definition.suspend, when=definition.when_digest)
    schedule = Schedule("", uid, definition, slots, state)
    if first is not None and not definition.suspend:
        state.next = Run(slot=first, due=first)
    else:
        schedule._plan(created)
    return state
