"""State and records: what is written is what is read, and what a deletion says of what was under way."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from scheduledjob.domain.schedule.definition import Keep
from scheduledjob.domain.schedule.state import Completion, Outcome, Run, State, cut_off, record_of, run_id

instants = st.integers(-(2**53), 2**53)
counts = st.integers(0, 2**53)
runs = st.builds(
    Run,
    slot=instants,
    due=instants,
    attempt=counts,
    failed=counts,
    lost=counts,
    begun=instants,
    token=st.text(max_size=5),
    catch_up=st.booleans(),
)
states = st.builds(
    State,
    decided_until=instants,
    next=st.none() | runs,
    runs=st.lists(runs, max_size=3),
    waiting=st.lists(runs, max_size=3),
    completed=st.none() | st.sampled_from(Completion),
    when=st.text(max_size=5),
    suspended=st.booleans(),
    last_success=st.none() | instants,
    overdue=st.booleans(),
    started=counts,
)


@given(states)
def test_a_state_survives_being_stored(state: State) -> None:
    assert State.decode(state.encode()) == state


def test_a_state_of_a_later_version_is_read_as_far_as_it_is_understood() -> None:
    assert State.decode(b'{"floor":7,"invented":[1]}') == State(decided_until=7)


def test_two_states_share_nothing() -> None:
    one, other = State(decided_until=0), State(decided_until=0)
    one.runs.append(Run(slot=1, due=1))
    assert other.runs == []


def test_what_a_deletion_says() -> None:
    active, waiting, planned = (Run(slot=n, due=n, attempt=n) for n in (1, 2, 3))
    state = State(decided_until=0, next=planned, runs=[active], waiting=[waiting])

    def slots(now: int, owned: bool) -> list[int]:
        records = cut_off(state, uid="u", slug="s", now=now, owned=owned, keep=Keep(failed=9))
        assert all((one.outcome, one.finished, one.keep) == (Outcome.CANCELLED, now, 9) for one in records)
        assert all("deleted" in one.reason for one in records)
        return [one.slot for one in records]

    assert slots(10, owned=True) == [1, 3]
    assert slots(10, owned=False) == [1]
    assert slots(2, owned=True) == [1]


def test_a_record_of_a_run() -> None:
    run = Run(slot=5, due=9, attempt=3, begun=6)
    record = record_of(run, Outcome.SUCCEEDED, 20, uid="u", slug="s", keep=Keep(1, 2, 100), replica="me", reason="r")
    assert msgspec.to_builtins(record) == {
        "run_id": "u-5",
        "uid": "u",
        "slug": "s",
        "slot": 5,
        "started": 6,
        "finished": 20,
        "attempt": 3,
        "outcome": "Succeeded",
        "reason": "r",
        "replica": "me",
        "keep": 1,
        "expires": 120,
    }
    never = record_of(Run(slot=5, due=9, token="t"), Outcome.FAILED, 20, uid="u", slug="s", keep=Keep(1, 2, 100))
    assert (never.run_id, never.started, never.keep, never.manual) == ("u-t", None, 2, True)
    assert run_id("u", run) == "u-5"
