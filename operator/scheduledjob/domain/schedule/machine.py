"""Schedule: what follows for one schedule from time passing and from its attempts ending.

This is the state machine at the heart of the product, and it does no I/O: the owner of a row loads it, tells it
what happened (``recovered``, ``edited``, ``asked``, ``followed``, ``ended``), asks what is to be done now (``step``)
and when to ask again (``wake``), and writes what it became (``snapshot``). Every policy that a user can set is decided
here or in a module beside it: what becomes of runs in ``runs.py``, slots of triggers in ``due.py``, slots that follow
other runs in ``followed_runs.py``, acts of people in ``handle_requests.py``.

One rule carries the promise that nothing runs twice unsaid: *a run may start only if the stored state already says
so*. A row that is released names the slot that it waits for (``next``); whoever claims it may start that slot without
another write, and whoever finds it due under a dead owner counts the attempt as lost. A run that this object brings
up itself is ``unstored`` until the state with it in has been stored, and is not handed out to be started before.

An attempt that *outlives* its replica (a Pod) is not lost with it. Whoever has the row next hands the same attempt out
again at once, and its executor goes on with what it finds of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import due, followed_runs, handle_requests
from .actions import Actions, has
from .concurrency import has_room
from .runs import Runs
from .state import Completion, Outcome, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.domain.time.instants import Instant

    from .definition import Definition
    from .misfire import Slots
    from .requests import Requests
    from .state import RunRecord


class Schedule(Runs, eq=False, gc=False):
    """One schedule in the hands of its owner. All times are instants of the store's clock."""

    # ---------------------------------------------------------------- what happened

    def recovered(self, now: Instant, *, edited: bool = False) -> None:
        """The row came from a dead owner: whatever could have begun is taken to have begun, and to be lost.

        Unless it outlives its owner: then it goes on. The planned slot could not have begun where another run stands
        before it: that takes a write first. With a wish that was ``edited`` since, the policy that the dead owner went
        by is not known: then it may have begun even so.
        """
        state, planned = self.state, self.state.next
        if planned is not None and planned.due <= now and self.open:
            room = not state.waiting and has_room(self.definition, state, planned)
            if room or edited:
                if self.definition.exclude and self.slots is not None:
                    state.excluded += self.slots.count(state.decided_until, planned.slot)[1]
                state.decided_until = max(state.decided_until, planned.slot)
                self._count_start(planned)
                state.next = None
                if room:
                    state.runs.append(planned)
                else:
                    planned.begun = planned.due
                    if planned.detached and self.detached:
                        planned.adoptable = True
                    else:
                        planned.attempt, planned.lost = 2, 1
                    state.waiting.append(planned)
                    self.changed = True
        for run in list(state.runs):
            if run.due <= now:
                run.begun = run.begun or run.due
                self._lose(run, now)
        # A slot that has come due meanwhile may replace what is active before that is given out to go on.
        due.plan(self, now)

    def edited(self, revision: int, edited_at: Instant, first: Instant | None, generation: int = 0) -> None:
        """The wish is another revision: ``definition`` and slots are the new ones, written at ``edited_at``.

        An edit or a resume never replays the past. Not each revision is an edit: acts and nudges make one too, and
        those leave a pause as it is. ``generation``: of the object in a cluster, where there is one.
        """
        state = self.state
        self.changed = True
        state.revision = revision
        self.definition_changed_at = edited_at
        when = self.definition.when_digest
        replays = False
        if when != state.when:
            state.when = when
            replays = True
            if state.completed is Completion.NO_SLOT:
                state.completed = None
        if state.completed is Completion.MAX_RUNS and not self.used_up:
            state.completed = None
        if state.paused and (generation != state.generation if generation else edited_at != state.paused_under):
            state.paused = False
            state.paused_under = state.failures_in_row = 0
            replays = True
        state.generation = generation
        if state.suspended and not self.definition.suspend:
            state.expect_from = edited_at
            replays = True
        if replays:
            state.decided_until = max(state.decided_until, edited_at)
            followed_runs.start_anew(state, edited_at)
        state.suspended = self.definition.suspend
        if state.suspended:
            self._drop_waiting()
        overdue_at = self._overdue_from()
        if state.overdue and (overdue_at is None or overdue_at > edited_at):
            state.overdue = False
        state.next = None
        if first is not None and state.completed is not Completion.JOB:
            state.completed = None
            state.next = self.new_run(first, first)
            self.unstored += (state.next,)

    def replace_definition(self, definition: Definition, slots: Slots | None, *, detached: bool = False) -> None:
        """Go by another definition from now on; ``edited`` follows."""
        self.definition = definition
        self.slots = slots
        self.detached = detached

    def asked(self, requests: Requests, at: Instant) -> None:
        """This is what people ask for, and has been since ``at``; what is new of it is carried out by ``step``."""
        self._requests = None if handle_requests.is_handled(requests, self.state) else requests
        self._asked_at = at

    def should_poll(self, now: Instant) -> bool:
        """Whether to look now; ``followed`` is told what was found."""
        if self.poll_at is None or self.poll_at > now or self.poll_in_flight:
            return False
        self.poll_at, self.poll_in_flight = None, True
        return True

    def followed(self, records: Sequence[RunRecord] | None, now: Instant) -> None:
        """These are the newest runs of what it follows: what is new among them makes slots. None: nobody could say."""
        self.poll_in_flight = False
        if records is not None:
            followed_runs.take_ends(self, records, now)
        if self.poll_at is None:  # else there was a reason to look again meanwhile
            self.look(now + (followed_runs.LOOK_AGAIN if records is None else followed_runs.LOOK_EVERY))

    # ---------------------------------------------------------------- what is to be done

    def step(self, now: Instant) -> Actions:
        """Everything that is due at ``now``: what to start, what to cancel. Asking twice gives nothing twice only
        after ``began`` was told of what was given."""
        actions, state = Actions(), self.state
        while (planned := state.next) is not None and planned.due <= now and self.open:
            due.take(self, planned, now, actions)
            self._promote()
            due.plan(self, now)
        if state.upcoming and self.open:
            followed_runs.take_upcoming(self, now, actions)
        if self._requests is not None:
            requests, self._requests = self._requests, None
            handle_requests.carry_out(self, requests, now, actions)
        self._promote()
        if state.runs:
            self._go_on(now, actions)
            self._promote()
        due.plan(self, now)
        overdue_at = self._overdue_at()
        if overdue_at is not None and overdue_at <= now:
            state.overdue = True
            self.changed = True
            actions.became_overdue = True
        return actions

    def _go_on(self, now: Instant, actions: Actions) -> None:
        """What of the active runs is due for an attempt."""
        total = self.definition.timeouts.total
        for run in list(self.state.runs):
            if run.due <= now and not has(self.executing, run):
                if run.detached is not self.detached:
                    self._change_over(run, now)
                elif total is not None and run.begun and now >= run.begun + total and not run.adoptable:
                    self.finish(run, Outcome.FAILED, now, "timeouts.total passed before the next attempt")
                elif not self._is_unstored(run):
                    actions.start += (run,)

    def leave(self, now: Instant) -> None:
        """Make the state one that can be handed over: what comes next is named, and nothing is begun."""
        self._promote()
        due.plan(self, now)
        if self.poll_in_flight:
            self.poll_in_flight = False
            self.look(now)

    def wake(self) -> Instant | None:
        """When ``step`` will next have something to do, if no attempt ends before; None: never."""
        state = self.state
        wake = self._overdue_at()
        if (state.next is not None or self.poll_at is not None or state.upcoming) and self.open:
            if state.next is not None and (wake is None or state.next.due < wake):
                wake = state.next.due
            if self.poll_at is not None and not self.poll_in_flight and (wake is None or self.poll_at < wake):
                wake = self.poll_at
            for run in state.upcoming:
                if wake is None or run.due < wake:
                    wake = run.due
        for run in state.runs:
            if (wake is None or run.due < wake) and not has(self.executing, run):
                wake = run.due
        if self._requests is not None and (wake is None or self._asked_at < wake):
            wake = self._asked_at
        return wake

    def blocked(self, now: Instant) -> bool:
        """A run is due that may start as soon as the state has been stored."""
        return bool(self.unstored) and any(run.due <= now and self._is_unstored(run) for run in self.state.runs)

    @property
    def done(self) -> bool:
        """Completed, and nothing of it is active."""
        return self.state.completed is not None and not self.state.runs and not self.state.waiting

    # ---------------------------------------------------------------- what is stored

    def snapshot(self) -> bytes:
        """The state to store now. Once it is stored, call ``stored``."""
        self._storing += self.unstored
        self.unstored = ()
        self.changed = False
        self._unanswered = True
        return self.state.encode()

    def stored(self) -> None:
        """The last snapshot is in the store: what was fresh in it may start."""
        self._storing = ()
        self._unanswered = False

    def _overdue_at(self) -> Instant | None:
        if self.definition.expect_success_within is None or self.state.overdue:
            return None
        return self._overdue_from()

    def _overdue_from(self) -> Instant | None:
        within, state = self.definition.expect_success_within, self.state
        if within is None or state.suspended or state.completed is not None:
            return None
        return max(state.last_success or 0, state.expect_from) + within


def first_state(
    definition: Definition,
    slots: Slots | None,
    uid: str,
    created: Instant,
    first: Instant | None = None,
    *,
    detached: bool = False,
) -> State:
    """The state of a schedule that nobody has run yet; ``first`` names its first slot in place of its triggers."""
    state = State(decided_until=created, expect_from=created, suspended=definition.suspend, when=definition.when_digest)
    schedule = Schedule("", uid, definition, slots, state, detached=detached)
    if schedule.follows:
        state.followed = created
    if first is not None and not definition.suspend:
        state.next = schedule.new_run(first, first)
    else:
        due.plan(schedule, created)
    return state


def first_wake(definition: Definition, state: State, now: Instant) -> Instant:
    """When somebody has to look at a schedule with its first state: for its first slot, or for it being overdue."""
    wake = state.next.due if state.next is not None else now
    within = definition.expect_success_within
    return wake if within is None else min(wake, state.expect_from + within)
