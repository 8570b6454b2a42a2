"""``Schedule`` under everything that can happen to it, checked by rules that do not depend on how it works.

A state machine of Hypothesis acts as the owner: it steps the schedule, ends attempts in every way, writes snapshots of
which any may be lost, dies and is replaced, edits the definition, and turns the clock. The rules are simple: slots are
listed one by one, and each must run or be counted exactly once; what starts must be in the store already, so that a
successor would count it; and ``wake_at`` must not be later than there is something to do.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from scheduledjob.domain.schedule import machine, runs
from scheduledjob.domain.schedule.actions import Actions, AttemptEnd, EndDetails
from scheduledjob.domain.schedule.backoff import WITHOUT_END, Backoff, Exponential, Fixed
from scheduledjob.domain.schedule.definition import CatchUp, Concurrency, Definition, ExcludeWindow, Misfire, Timeouts
from scheduledjob.domain.schedule.machine import first_state
from scheduledjob.domain.schedule.plan import Plan, slots_of
from scheduledjob.domain.schedule.requests import Requests
from scheduledjob.domain.schedule.runs import MAX_LOST_IN_ROW
from scheduledjob.domain.schedule.schedule import Schedule
from scheduledjob.domain.schedule.state import Completion, Outcome, Run, RunRecord, State, run_id
from scheduledjob.domain.time.instants import SECOND, Instant
from scheduledjob.domain.triggers.every import EveryTrigger
from scheduledjob.domain.triggers.once import AtTrigger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.domain.schedule.misfire import Slots
    from scheduledjob.domain.triggers.registry import Trigger

CREATED: Instant = 1_790_000_000 * SECOND
UID = "8c5f"
SHORT = 40 * SECOND

lengths = st.integers(0, SHORT)
instants = st.integers(CREATED - SHORT, CREATED + 6 * SHORT)
triggers: st.SearchStrategy[Trigger] = st.one_of(
    st.builds(
        EveryTrigger,
        every=st.sampled_from([1, 2, 3, 5, 7, 20]).map(lambda n: n * SECOND),
        anchor=st.none() | st.integers(-30, 30).map(lambda n: CREATED + n * SECOND),
    ),
    st.builds(AtTrigger, at=instants),
)
backoffs: st.SearchStrategy[Backoff] = st.one_of(
    st.builds(Exponential, initial=st.just(1.0), max=st.just(9.0), max_retries=st.integers(-1, 4)),
    st.builds(Fixed, intervals=st.lists(st.sampled_from([0.5, 2.0, 9.0]), min_size=1, max_size=3)),
)
definitions = st.builds(
    Definition,
    kind=st.just("k"),
    triggers=st.lists(triggers, min_size=1, max_size=3).map(tuple),
    exclude=st.lists(
        st.builds(lambda start, length: ExcludeWindow(start, start + length), instants, lengths), max_size=2
    ).map(tuple),
    start_at=st.none() | instants,
    end_at=st.none() | instants,
    max_runs=st.none() | st.integers(1, 6),
    jitter=st.sampled_from([0, 0, 0, SECOND // 2, 5 * SECOND]),
    suspend=st.sampled_from([False, False, False, True]),
    concurrency=st.sampled_from(Concurrency),
    max_concurrent=st.none() | st.integers(1, 3),
    queue_depth=st.integers(0, 3),
    misfire=st.builds(
        Misfire,
        st.sampled_from(CatchUp),
        st.integers(1, 4),
        st.none() | st.integers(0, SHORT),
    ),
    retry=backoffs,
    timeouts=st.builds(Timeouts, total=st.none() | st.integers(SECOND, SHORT)),
    pause_after_failures=st.integers(0, 3),
    expect_success_within=st.none() | st.integers(5 * SECOND, 2 * SHORT),
)


def slots_between(definition: Definition, after: Instant, until: Instant) -> tuple[list[Instant], int]:
    """The slots of ``(after, until]``, found one by one, and how many of them are excluded."""
    found: set[Instant] = set()
    for trigger in definition.triggers:
        if isinstance(trigger, AtTrigger):
            found.add(trigger.at)
        else:
            assert isinstance(trigger, EveryTrigger)
            slot = CREATED if trigger.anchor is None else trigger.anchor
            while slot <= until:
                found.add(slot)
                slot += trigger.every
    start, end = definition.start_at, definition.end_at
    within = [
        slot
        for slot in sorted(found)
        if after < slot <= until and (start is None or slot >= start) and (end is None or slot <= end)
    ]
    windows = [one for one in definition.exclude if isinstance(one, ExcludeWindow)]
    kept = [slot for slot in within if not any(one.start <= slot < one.end for one in windows)]
    return kept, len(within) - len(kept)


def most_at_once(definition: Definition) -> int:
    if definition.concurrency is Concurrency.ALLOW:
        return definition.max_concurrent or 10**9
    return (definition.max_concurrent or 1) if definition.concurrency is Concurrency.QUEUE else 1


def caught_up(runs: Sequence[Run]) -> int:
    return sum(run.catch_up for run in runs)


def accounted(state: State) -> int:
    """Slots that were run, are to be run, or are counted as not run."""
    ended = state.succeeded + state.failed + state.cancelled
    return ended + len(state.runs) + len(state.waiting) + state.skipped + state.missed


def open_for_slots(state: State) -> bool:
    return state.completed is None and not state.suspended and not state.paused


@dataclass
class InStore:
    """The row, as the store has it."""

    state: bytes
    owned: bool = True


class ScheduleMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = CREATED
        self.revision = 1
        self.edited_at = CREATED
        self.started: dict[str, int] = {}
        """The newest attempt of each run that was started."""
        self.requests = Requests()
        """What people ask for now."""
        self.recorded: dict[str, RunRecord] = {}
        self.pending: tuple[bytes, Sequence[RunRecord], bool] | None = None
        """A snapshot on its way to the store, with its records; the flag says whether it gives the row back."""
        self.closed_since: set[Instant] | None = None
        """While no slot may start: the slots of the runs that had been admitted before."""

    @initialize(definition=definitions, first=st.none() | instants, detached=st.booleans())
    def create(self, definition: Definition, first: Instant | None, detached: bool) -> None:
        self.detached = detached
        self.take_definition(definition)
        state = first_state(definition, self.slots, UID, self.now, first, detached=detached)
        self.first = self.given_first = first if state.next is not None and state.next.slot == first else None
        self.store = InStore(state.encode())
        self.schedule = self.schedule_of(State.decode(self.store.state))
        self.check_completion()

    def schedule_of(self, state: State) -> Schedule:
        return Schedule(
            "s", UID, self.definition, self.slots, state, detached=self.detached, definition_changed_at=self.edited_at
        )

    def take_definition(self, definition: Definition) -> None:
        self.definition = definition
        self.slots: Slots | None = slots_of(Plan(definition), seed="s", created=CREATED)

    # ---------------------------------------------------------------- what the owner does

    @rule()
    def step(self) -> None:
        actions = self.watched_step()
        for run in actions.cancel:
            assert any(run is one for one in self.schedule.executing)
        for run in actions.start:
            self.start(run)
        again = self.watched_step()
        assert not again.start
        assert not again.cancel
        assert not again.became_overdue

    @rule()
    def settle(self) -> None:
        """Write what has changed, without letting go of the row."""
        if self.pending is None and (self.schedule.writes.changed or self.schedule.writes.records):
            self.pending = (*self.schedule.writes.begin(self.schedule.state), False)

    @rule()
    def stored(self) -> None:
        if self.pending is not None and not self.pending[2]:
            self.carry_out()
            self.schedule.writes.answered()

    @precondition(lambda self: not self.schedule.executing and self.pending is None)
    @rule(leave=st.booleans(), arrives=st.booleans())
    def give_back(self, leave: bool, arrives: bool) -> None:
        """Release the row, and claim it again, or die meanwhile: then another owner recovers or claims it."""
        if leave:
            before = self.before()
            machine.prepare_release(self.schedule, self.now)
            self.check_slots(before)
        elif self.watched_step().start:
            return  # what was given out is to be started, not given back
        other = copy_of(self.schedule)
        self.pending = (*self.schedule.writes.begin(self.schedule.state), True)
        if arrives:
            self.carry_out()
            # Whoever reads it knows all there is to know: nothing but the encoded state goes on.
            other.writes.begin(other.state)
            other.writes.answered()
            self.load(recovered=False)
            if leave:
                assert seen(other, self.now) == seen(self.schedule, self.now)
        else:
            self.die(arrives=False)

    @rule(arrives=st.booleans())
    def die(self, arrives: bool) -> None:
        """The owner dies; what it was about to write may have arrived."""
        if self.pending is not None and arrives:
            self.carry_out()
        self.pending = None
        self.load(recovered=self.store.owned)

    @precondition(lambda self: self.schedule.executing)
    @rule(data=st.data(), end=st.sampled_from(AttemptEnd))
    def end(self, data: st.DataObject, end: AttemptEnd) -> None:
        run = data.draw(st.sampled_from(self.schedule.executing))
        before, failed, lost, attempt = self.before(), run.failed, run.lost, run.attempt
        record = runs.attempt_ended(self.schedule, run, end, self.now, EndDetails("because"))
        if not open_for_slots(self.schedule.state):
            self.first = None  # planned beside a manual run: that has closed the schedule
        self.check_slots(before)
        assert not any(run is one for one in self.schedule.executing)
        retried = any(run is one for one in self.schedule.state.runs)
        assert retried == (record is None)
        if end is AttemptEnd.FAILED and retried:
            limit = self.retries()
            assert run.failed == failed + 1
            assert run.lost == 0
            assert limit == WITHOUT_END or run.failed <= limit
            assert run.due > self.now
            total = self.definition.timeouts.total
            assert total is None or run.due < run.begun + total
        elif end is AttemptEnd.LOST and self.detached:
            assert (run.attempt, run.lost, run.adoptable) == (attempt, lost, True)
        elif end is AttemptEnd.LOST and retried:
            assert run.failed == failed  # it uses up no retry
            assert run.lost == lost + 1 < MAX_LOST_IN_ROW
        elif end is AttemptEnd.LOST:
            assert record is not None
            assert record.outcome is Outcome.CANCELLED or "OwnerLost" in record.reason
        elif record is not None and end in {AttemptEnd.SUCCEEDED, AttemptEnd.COMPLETED}:
            assert record.outcome is Outcome.SUCCEEDED
        if end is AttemptEnd.COMPLETED:
            assert self.schedule.state.completed is Completion.JOB
        self.check_completion()

    @precondition(lambda self: self.schedule.state.runs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        before = self.before()
        run = data.draw(st.sampled_from(self.schedule.state.runs))
        running = any(run is one for one in self.schedule.executing)
        assert runs.cancel(self.schedule, run, self.now, "cancelled by hand") == running
        self.check_slots(before)
        self.check_completion()

    @rule(what=st.sampled_from(["run", "run", "cancel", "resume"]), token=st.sampled_from("abc"), data=st.data())
    def ask(self, what: str, token: str, data: st.DataObject) -> None:
        """People ask for something by hand; the tokens are few, so that some come again."""
        state = self.schedule.state
        if what == "cancel":
            active = [run_id(UID, run) for run in (*state.runs, *state.waiting)]
            token = data.draw(st.sampled_from(active)) if active else "nothing"
        self.requests = msgspec.structs.replace(self.requests, **{what: token})
        machine.request(self.schedule, self.requests, self.now)

    def retries(self) -> int:
        retry = self.definition.retry
        if isinstance(retry, Fixed) and retry.max_retries is None:
            return len(retry.intervals)
        return retry.max_retries or 0

    # ---------------------------------------------------------------- what happens around it

    @rule(seconds=st.sampled_from([0.2, 1.0, 1.5, 7.0, 45.0]))
    def wait(self, seconds: float) -> None:
        self.now += round(seconds * SECOND)

    @rule(beyond=st.sampled_from([0, 0, 1, SECOND * 3 // 2]))
    def wait_until_wake(self, beyond: int) -> None:
        wake = machine.wake_at(self.schedule)
        if wake is not None:
            self.now = max(self.now, wake + beyond)

    @rule(new=definitions, what=st.sets(st.sampled_from(Definition.__struct_fields__)), suspend=st.booleans())
    def edit(self, new: Definition, what: set[str], suspend: bool) -> None:
        """Change some fields of the definition, which the owned schedule follows from now on."""
        old, state = self.definition, self.schedule.state
        changes = {name: getattr(new, name) for name in what} | {"suspend": suspend}
        self.take_definition(msgspec.structs.replace(old, **changes))
        self.revision += 1
        self.now += 1
        self.edited_at = self.now
        before = self.before()
        decided_until, was_paused, was_suspended = state.decided_until, state.paused, state.suspended
        planned_first = self.first is not None and state.next is not None
        self.most_started = state.started
        machine.replace_definition(self.schedule, self.definition, self.slots, detached=self.detached)
        machine.apply_revision(self.schedule, self.revision, self.now, None)
        assert accounted(state) == before.accounted
        assert state.decided_until >= decided_until
        if self.definition.when != old.when or was_paused or (was_suspended and not suspend):
            assert state.decided_until >= self.now  # an edit or a resume never replays the past
        else:
            assert state.decided_until == decided_until
        assert not state.paused
        assert state.suspended == suspend
        if planned_first:
            self.first = None
        self.check_completion()

    # ---------------------------------------------------------------- the rules

    @invariant()
    def nobody_wakes_too_late(self) -> None:
        """Before ``wake`` there is nothing to do, and when everything is done that can be, ``wake`` lies ahead."""
        done = copy_of(self.schedule)
        if self.pending is not None:
            done.writes.answered()
        for _ in range(4):
            for run in machine.step(done, self.now).start:
                runs.attempt_started(done, run, self.now)
            waits = not done.executing and machine.awaits_write(done, self.now)
            if done.writes.changed or done.writes.records or waits:
                done.writes.begin(done.state)
                done.writes.answered()
        wake = machine.wake_at(done)
        assert wake is None or wake > self.now, "it would be asked for ever"
        until = self.now + 3 * SHORT if wake is None else wake - 1
        before = done.state.encode()
        actions = machine.step(done, until)
        assert not actions.start
        assert not actions.cancel
        assert not actions.became_overdue
        assert done.state.encode() == before
        if wake is not None:
            actions = machine.step(done, wake)
            assert actions.start or actions.became_overdue or done.writes.changed or machine.awaits_write(done, wake)

    @invariant()
    def active_and_waiting_are_apart(self) -> None:
        state = self.schedule.state
        runs = [*state.runs, *state.waiting, *([state.next] if state.next else [])]
        assert len({run_id(UID, run) for run in runs}) == len(runs)
        for run in self.schedule.executing:
            assert any(run is one for one in state.runs)
        assert all(not run.begun for run in state.waiting)
        assert all(run.failed <= run.attempt for run in runs)
        assert state.next is None or state.next.slot > state.decided_until or state.next.slot == self.first
        assert not (self.schedule.done and self.schedule.executing)
        if not open_for_slots(state):
            assert all(run.token for run in state.waiting)
        assert len(set(state.handled)) == len(state.handled)
        limit = self.definition.max_runs
        assert limit is None or state.started <= max(limit, self.most_started)

    # ---------------------------------------------------------------- how the rules see

    @dataclass
    class Before:
        state: State
        accounted: int

    most_started = 0
    """Runs that had been counted when ``maxRuns`` was last changed."""

    def before(self) -> Before:
        return self.Before(State.decode(self.schedule.state.encode()), accounted(self.schedule.state))

    def watched_step(self) -> Actions:
        before = self.before()
        actions = machine.step(self.schedule, self.now)
        self.check_slots(before)
        return actions

    def check_slots(self, before: Before) -> None:
        """Check that each decided slot was run or counted, exactly once."""
        old, state = before.state, self.schedule.state
        assert state.decided_until >= old.decided_until
        after, taken_first = old.decided_until, 0
        if self.first is not None and self.first > self.now and not open_for_slots(state):
            self.first = None  # it was to come, and a run that failed has closed the schedule before
        if self.first is not None and (state.next is None or state.next.slot != self.first):
            taken_first, after, self.first = 1, max(after, self.first), None
        kept, excluded = slots_between(self.definition, after, state.decided_until)
        by_hand = len(run_now(state) - run_now(old))
        decided = accounted(state) - before.accounted - by_hand
        used_up = self.definition.max_runs is not None and state.started >= self.definition.max_runs
        if not old.paused or state.paused:  # a resume replays nothing, and counts nothing
            assert decided == len(kept) + taken_first or (used_up and decided < len(kept) + taken_first)
            assert taken_first or state.excluded - old.excluded == excluded
        assert len(state.runs) <= max(len(old.runs), most_at_once(self.definition))
        assert caught_up(state.runs) <= max(caught_up(old.runs), 1), "slots caught up together overlap"
        known = {run_id(UID, run) for run in [*old.runs, *old.waiting]}
        for run in [*state.runs, *state.waiting]:
            if run.token:
                assert f"run-now/{run.token}" in state.handled
            elif run_id(UID, run) not in known:
                assert open_for_slots(old)
                assert run.slot in kept or taken_first
        self.check_completion()

    def check_completion(self) -> None:
        state = self.schedule.state
        if open_for_slots(state):
            self.closed_since = None
        elif self.closed_since is None:
            self.closed_since = {run.slot for run in state.runs}

    def start(self, run: Run) -> None:
        """Start an attempt, if no rule forbids it."""
        assert run.slot <= self.now, "before its time"
        assert run.due <= self.now
        name = run_id(UID, run)
        if run.adoptable:
            assert run.attempt >= self.started.get(name, 0), "went on as an attempt before"
        else:
            assert run.attempt > self.started.get(name, 0), "started again as the same attempt"
        assert self.closed_since is None or run.slot in self.closed_since or run.token
        self.started[name] = run.attempt
        runs.attempt_started(self.schedule, run, self.now)
        self.must_be_counted_after_a_crash(run)

    def must_be_counted_after_a_crash(self, run: Run) -> None:
        """Whatever the store has now: if this owner died at once, its successor would know of this attempt."""
        contents = [(self.store.state, self.store.owned)]
        if self.pending is not None:
            contents.append((self.pending[0], True))
        for data, _ in contents:
            successor = self.schedule_of(State.decode(data))
            machine.recover(successor, self.now)
            name = run_id(UID, run)
            ((attempt),) = [
                *(one.attempt for one in successor.state.runs if run_id(UID, one) == name),
                *(one.attempt + 1 for one in successor.writes.records if one.run_id == name),
            ]
            assert attempt == run.attempt + (not self.detached)
            if self.detached:
                again = machine.step(successor, self.now).start
                assert any(one.adoptable and run_id(UID, one) == name for one in again), "no owner continues it"

    # ---------------------------------------------------------------- the store

    def carry_out(self) -> None:
        assert self.pending is not None
        state, records, gives_back = self.pending
        for record in records:
            assert record.run_id not in self.recorded, "ended twice"
            self.recorded[record.run_id] = record
        self.store = InStore(state, owned=not gives_back)
        self.pending = None

    def load(self, *, recovered: bool) -> None:
        state = State.decode(self.store.state)
        self.schedule = self.schedule_of(state)
        self.store.owned = True
        self.closed_since = None
        self.check_completion()
        if state.revision == 1 and state.next is not None and state.next.slot == self.given_first:
            self.first = self.given_first
        if recovered:
            before = self.before()
            machine.recover(self.schedule, self.now)
            if state.revision == self.revision:  # else what was planned was planned by another definition
                self.check_slots(before)
        if state.revision != self.revision:
            # What has or may have started under the previous definition also counts under the new one.
            self.most_started = max(self.most_started, state.started)
            machine.apply_revision(self.schedule, self.revision, self.edited_at, None)
            self.first = None
        machine.request(self.schedule, self.requests, self.now)
        self.check_completion()


def run_now(state: State) -> set[str]:
    return {entry for entry in state.handled if entry.startswith("run-now/")}


def copy_of(schedule: Schedule) -> Schedule:
    shared = {id(one): one for one in (schedule.slots, schedule.definition)}
    return copy.deepcopy(schedule, shared)


def seen(schedule: Schedule, now: Instant) -> tuple[object, ...]:
    """What a schedule wants done now and next, and what it would write."""
    schedule = copy_of(schedule)
    actions = machine.step(schedule, now)
    wants = [msgspec.to_builtins(run) for run in (*actions.start, *actions.cancel)]
    return (
        wants,
        actions.became_overdue,
        machine.wake_at(schedule),
        machine.awaits_write(schedule, now),
        schedule.state.encode(),
    )


TestSchedule = ScheduleMachine.TestCase
TestSchedule.settings = settings(
    max_examples=400,
    stateful_step_count=40,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
