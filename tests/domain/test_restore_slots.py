"""What a store that does not know an object makes of its status: nothing is lost, and what may run twice says so."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from scheduledjob.domain.schedule import machine
from scheduledjob.domain.schedule.definition import CatchUp, Concurrency, Definition, Misfire
from scheduledjob.domain.schedule.machine import first_state
from scheduledjob.domain.schedule.plan import Plan, slots_of
from scheduledjob.domain.schedule.restore import restored_state
from scheduledjob.domain.schedule.schedule import Schedule
from scheduledjob.domain.schedule.state import Run, State
from scheduledjob.domain.time.instants import SECOND, Instant
from scheduledjob.domain.triggers.every import EveryTrigger

T = 1_800_000_000 * SECOND
"""When everything was created."""
EVERY = 10 * SECOND


def defined(catch_up: CatchUp = CatchUp.LAST, concurrency: Concurrency = Concurrency.QUEUE) -> Definition:
    misfire = Misfire(catch_up=catch_up, max_catch_up=100)
    return Definition(
        "test", triggers=(EveryTrigger(EVERY),), misfire=misfire, concurrency=concurrency, queue_depth=100
    )


def written(definition: Definition, *, detached: bool = False) -> State:
    """The state at the creation, as status says it."""
    return first_state(definition, slots(definition), "u", T, detached=detached)


def slots(definition: Definition):  # type: ignore[no-untyped-def]  # of a type that the domain keeps to itself
    return slots_of(Plan(definition), seed="s", created=T)


def restored(
    state: State, definition: Definition, now: Instant, *, clean_shutdown: bool, detached: bool = False
) -> tuple[State, Instant | None]:
    text = state.encode().decode()
    return restored_state(
        text, definition, slots(definition), "u", now, clean_shutdown=clean_shutdown, detached=detached
    )


def started(state: State, definition: Definition, now: Instant) -> list[tuple[int, int]]:
    """(slot in seconds from the creation, attempt) of everything that a new owner would start, or lets wait."""
    schedule = Schedule("s", "u", definition, slots(definition), State.decode(state.encode()), "new")
    machine.step(schedule, now)
    return [((run.slot - T) // SECOND, run.attempt) for run in [*schedule.state.runs, *schedule.state.waiting]]


def test_after_an_end_in_order_all_is_as_it_was() -> None:
    definition = defined()
    state, wake = restored(written(definition), definition, T + 5 * SECOND, clean_shutdown=True)
    assert wake == T + EVERY
    assert state.next is not None
    assert (state.next.slot, state.next.attempt) == (T + EVERY, 1)
    assert started(state, definition, T + EVERY) == [(10, 1)]


def test_after_an_end_in_order_what_came_due_since_is_a_first_attempt() -> None:
    definition = defined(CatchUp.ALL)
    now = T + 35 * SECOND
    state, wake = restored(written(definition), definition, now, clean_shutdown=True)
    assert wake == T + EVERY
    assert started(state, definition, now) == [(10, 1), (20, 1), (30, 1)]


def test_after_a_crash_what_came_due_since_may_have_begun_and_says_so() -> None:
    definition = defined(CatchUp.ALL)
    now = T + 35 * SECOND
    state, wake = restored(written(definition), definition, now, clean_shutdown=False)
    assert wake == now
    assert started(state, definition, now) == [(10, 2), (20, 2), (30, 2)]
    assert all(run.lost == 1 and run.failed == 0 for run in [*state.runs, *state.waiting])


def test_after_a_crash_what_is_not_due_yet_is_a_first_attempt() -> None:
    definition = defined()
    state, wake = restored(written(definition), definition, T + 5 * SECOND, clean_shutdown=False)
    assert wake == T + EVERY
    assert started(state, definition, T + EVERY) == [(10, 1)]


def test_after_a_crash_what_outlives_its_replica_goes_on_as_the_same_attempt() -> None:
    definition = defined()
    now = T + 15 * SECOND
    state, _ = restored(written(definition, detached=True), definition, now, clean_shutdown=False, detached=True)
    (run,) = state.runs
    assert (run.attempt, run.lost, run.adoptable) == (1, 0, True)


def test_a_run_in_flight_is_lost_once_more_and_keeps_its_failures() -> None:
    definition = defined()
    state = written(definition)
    state.next = None
    state.decided_until = T + EVERY
    state.runs = [Run(T + EVERY, T + EVERY, attempt=3, failed=2, begun=T + EVERY)]
    found, wake = restored(state, definition, T + 15 * SECOND, clean_shutdown=False)
    assert wake == T + 15 * SECOND
    (run,) = found.runs
    assert (run.attempt, run.failed, run.lost, run.begun) == (4, 2, 1, T + EVERY)


def test_an_edit_while_nobody_worked_replays_nothing_of_the_new_triggers() -> None:
    state = written(defined())
    edited = msgspec.structs.replace(defined(CatchUp.ALL), triggers=(EveryTrigger(SECOND),))
    now = T + 35 * SECOND
    found, _ = restored(state, edited, now, clean_shutdown=False)
    assert found.revision == 0, "whoever takes it goes by the object as it is now"
    schedule = Schedule("s", "u", edited, slots(edited), found, "new")
    machine.apply_revision(schedule, 1, now, None)
    # The old triggers' slot may have begun; of the new ones' nothing is due.
    assert [(run.slot, run.attempt) for run in machine.step(schedule, now).start] == [(T + EVERY, 2)]
    assert schedule.state.waiting == []
    assert schedule.state.next is not None
    assert schedule.state.next.slot > now


@given(
    behind=st.integers(0, 20),
    begun=st.integers(0, 20),
    away=st.integers(0, 60),
    catch_up=st.sampled_from([CatchUp.LAST, CatchUp.ALL]),
    clean_shutdown=st.booleans(),
)
def test_nothing_is_lost_and_nothing_runs_twice_unsaid(
    behind: int, begun: int, away: int, catch_up: CatchUp, clean_shutdown: bool
) -> None:
    """Status was written after ``behind`` slots; after an end that was none ``begun`` more had run by then."""
    definition = defined(catch_up)
    state = written(definition)
    state.decided_until = T + behind * EVERY
    state.next = Run(T + (behind + 1) * EVERY, T + (behind + 1) * EVERY)
    ran = set() if clean_shutdown else {(behind + 1 + number) * 10 for number in range(begun)}
    now = T + (behind + (0 if clean_shutdown else begun)) * EVERY + away * SECOND
    found, _ = restored(state, definition, now, clean_shutdown=clean_shutdown)
    starts = started(found, definition, now)
    due = [number * 10 for number in range(behind + 1, (now - T) // EVERY + 1)]
    if catch_up is CatchUp.ALL:
        assert [slot for slot, _ in starts] == due
    else:
        assert [slot for slot, _ in starts][-1:] == due[-1:]
    assert all(attempt > 1 for slot, attempt in starts if slot in ran)
    if clean_shutdown:
        assert all(attempt == 1 for _, attempt in starts)
