"""A state that comes back from status: what had begun is not forgotten, and nonsense is refused."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduledjob.domain.schedule import machine, runs
from scheduledjob.domain.schedule.definition import Concurrency, Definition, Keep
from scheduledjob.domain.schedule.machine import first_state
from scheduledjob.domain.schedule.plan import Plan, slots_of
from scheduledjob.domain.schedule.restore import restored_state
from scheduledjob.domain.schedule.schedule import Schedule
from scheduledjob.domain.schedule.state import Outcome, Run, State, record_of
from scheduledjob.domain.time.instants import MINUTE, SECOND, Instant
from scheduledjob.domain.triggers.every import EveryTrigger

NOW: Instant = 1_796_119_200 * SECOND
EVERY = Definition(kind="job", triggers=(EveryTrigger(MINUTE),))
OTHER = Definition(kind="job", triggers=(EveryTrigger(7 * MINUTE),))


def restored(
    state: State, definition: Definition = EVERY, *, clean_shutdown: bool = False, detached: bool = False
) -> tuple[State, Instant | None]:
    slots = slots_of(Plan(definition), seed="ns/a", created=NOW - 60 * MINUTE)
    return restored_state(
        state.encode().decode(), definition, slots, "u", NOW, clean_shutdown=clean_shutdown, detached=detached
    )


def a_state(definition: Definition = EVERY, *runs: Run) -> State:
    return State(decided_until=NOW - MINUTE, when=definition.when_digest, generation=1, runs=list(runs))


@pytest.mark.parametrize("definition", [EVERY, OTHER], ids=["as it was", "triggers edited meanwhile"])
def test_an_inline_run_that_had_begun_goes_on_as_the_next_attempt(definition: Definition) -> None:
    began = Run(slot=NOW - MINUTE, due=NOW - MINUTE, begun=NOW - MINUTE)
    state, wake = restored(a_state(EVERY, began), definition)
    (run,) = state.runs
    assert (run.attempt, run.lost, wake) == (2, 1, NOW)


@pytest.mark.parametrize("definition", [EVERY, OTHER], ids=["as it was", "triggers edited meanwhile"])
def test_a_run_in_a_pod_is_adopted(definition: Definition) -> None:
    began = Run(slot=NOW - MINUTE, due=NOW - MINUTE, begun=NOW - MINUTE, detached=True)
    state, wake = restored(a_state(EVERY, began), definition, detached=True)
    (run,) = state.runs
    assert (run.attempt, run.adoptable, wake) == (1, True, NOW)


def test_a_pod_that_may_run_is_ended_before_what_replaces_it_starts() -> None:
    replace = msgspec.structs.replace(OTHER, concurrency=Concurrency.REPLACE)
    state, _ = restored(
        a_state(EVERY, Run(slot=NOW - MINUTE, due=NOW - MINUTE, begun=NOW - MINUTE, detached=True)),
        replace,
        detached=True,
    )
    slots = slots_of(Plan(replace), seed="ns/a", created=NOW - 60 * MINUTE)
    schedule = Schedule("ns/a", "u", replace, slots, state, detached=True)
    (run,) = state.runs
    runs.cancel(schedule, run, NOW, "replaced")
    assert state.runs == [run], "its end is not confirmed"


def test_what_ends_in_the_restore_is_left_for_history() -> None:
    replace = msgspec.structs.replace(EVERY, concurrency=Concurrency.REPLACE)
    before = a_state(replace, Run(slot=NOW - 2 * MINUTE, due=NOW - 2 * MINUTE, begun=NOW - 2 * MINUTE))
    before.next = Run(slot=NOW - MINUTE // 2, due=NOW - MINUTE // 2)
    before.unrecorded = (record_of(before.next, Outcome.FAILED, NOW, uid="other", slug="other", keep=Keep()),)
    state, wake = restored(before, replace)
    (record,) = state.unrecorded
    assert (record.run_id, record.outcome, wake) == (f"u-{NOW - 2 * MINUTE}", Outcome.CANCELLED, NOW)
    assert (state.cancelled, len(state.runs)) == (1, 1)


def test_a_run_that_fails_in_the_restore_is_left_for_history() -> None:
    often_lost = Run(slot=NOW - MINUTE, due=NOW - MINUTE, attempt=5, begun=NOW - MINUTE, lost=runs.MAX_LOST_IN_ROW - 1)
    state, wake = restored(a_state(EVERY, often_lost))
    assert [record.outcome for record in state.unrecorded] == [Outcome.FAILED]
    assert wake == NOW


def test_an_edit_replays_nothing() -> None:
    planned = Run(slot=NOW + MINUTE, due=NOW + MINUTE)
    before = a_state()
    before.next = planned
    state, _ = restored(before, OTHER)
    assert not state.runs
    assert not state.waiting


def test_a_state_that_plans_nothing_is_looked_at() -> None:
    assert restored(a_state(), clean_shutdown=True)[1] == NOW


def test_what_is_suspended_is_left_alone() -> None:
    state = a_state()
    state.suspended = True
    assert restored(state, clean_shutdown=True)[1] is None


@pytest.mark.parametrize(
    "text",
    [
        '{"floor": 99999999999999999999999}',
        '{"floor": -1}',
        '{"floor": 1, "last_success": 99999999999999999999}',
        '{"floor": 1, "handled": ["x/y"]}',
        '{"floor": 1, "started": -5}',
        '{"floor": 1, "failed": 99999999999}',
        '{"floor": 1, "next": {"slot": 5, "due": 99999999999999999999999}}',
        '{"floor": 1, "runs": [{"slot": 1, "due": 1, "attempt": 0}]}',
        '{"floor": 1, "runs": [{"slot": 1, "due": 1, "attempt": 99999999999}]}',
        '{"floor": 1, "runs": [{"slot": 1, "due": 1}, {"slot": 1, "due": 1}]}',
        '{"floor": 1, "waiting": [{"slot": 1, "due": 1, "token": "%s"}]}' % ("x" * 2000),
        '{"floor": 1, "upcoming": [{"slot": -1, "due": 1}]}',
        '{"floor": 1, "followed_ids": {"a": -7}}',
        "null",
        "{",
    ],
)
@pytest.mark.parametrize("clean_shutdown", [True, False])
def test_nonsense_is_refused(text: str, clean_shutdown: bool) -> None:
    slots = slots_of(Plan(EVERY), seed="ns/a", created=NOW)
    with pytest.raises(msgspec.MsgspecError):
        restored_state(text, EVERY, slots, "u", NOW, clean_shutdown=clean_shutdown, detached=False)


_INSTANTS = st.integers(-(2**70), 2**70) | st.integers(NOW - 10**10, NOW + 10**10)
_COUNTS = st.integers(-3, 10) | st.integers(-(2**70), 2**70)
_RUNS = st.builds(
    Run, slot=_INSTANTS, due=_INSTANTS, attempt=_COUNTS, failed=_COUNTS, lost=_COUNTS, begun=_INSTANTS,
    token=st.text(max_size=3), detached=st.booleans(), adoptable=st.booleans(), cancel_reason=st.text(max_size=3),
)  # fmt: skip
_STATES = st.builds(
    State, decided_until=_INSTANTS, next=st.none() | _RUNS, runs=st.lists(_RUNS, max_size=3),
    waiting=st.lists(_RUNS, max_size=3), started=_COUNTS, last_success=st.none() | _INSTANTS, paused=st.booleans(),
    when=st.sampled_from(["", EVERY.when_digest]),
    handled=st.lists(st.sampled_from(["run-now/x", "x"]), max_size=2).map(tuple),
)  # fmt: skip


@given(_STATES, st.booleans(), st.booleans())
def test_whatever_is_taken_can_be_worked_with(state: State, clean_shutdown: bool, detached: bool) -> None:
    try:
        found, _ = restored(state, clean_shutdown=clean_shutdown, detached=detached)
    except msgspec.MsgspecError:
        return
    slots = slots_of(Plan(EVERY), seed="ns/a", created=NOW - 60 * MINUTE)
    schedule = Schedule("ns/a", "u", EVERY, slots, found, detached=detached)
    machine.apply_revision(schedule, 1, NOW, None, 1)
    machine.step(schedule, NOW)
    machine.wake_at(schedule)
    State.decode(schedule.writes.begin(schedule.state)[0])


def test_the_first_state_comes_back_as_it_was() -> None:
    slots = slots_of(Plan(EVERY), seed="ns/a", created=NOW)
    state = first_state(EVERY, slots, "u", NOW)
    found, wake = restored(state, clean_shutdown=True)
    assert found.next is not None
    assert wake == found.next.due
