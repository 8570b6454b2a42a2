"""The status of an object: it agrees with its row, keeps the limits of the CRD, and is the same for every writer."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduledjob.domain.schedule.definition import Definition
from scheduledjob.domain.schedule.misfire import jitter_of
from scheduledjob.domain.schedule.plan import Plan, slots_of
from scheduledjob.domain.schedule.state import Completion, Outcome, Run, RunRecord, State, run_id
from scheduledjob.domain.time.instants import MINUTE, SECOND, Instant, rfc3339
from scheduledjob.domain.triggers.cron import CronTrigger
from scheduledjob.domain.triggers.every import EveryTrigger
from scheduledjob.domain.triggers.following import FollowingTrigger
from scheduledjob.domain.triggers.manual import ManualTrigger
from scheduledjob.domain.triggers.once import AtTrigger
from scheduledjob.engine.stored_row import Origin, Row
from scheduledjob.jobs.container.pod_names import pod_name
from scheduledjob.kube.report.status import StoredSchedule, begun_of, build_status, engine_text, since_of
from scheduledjob.manifests.status_model import HANDLED_TOKENS, RECENT_RUNS

T: Instant = 1_800_000_000 * SECOND
UID = "6f1c1f6e-8d0a-4f0e-9f6e-0123456789ab"
EVERY = Definition("cluster.curl", triggers=(EveryTrigger(MINUTE),))
INVALID = Definition("cluster.invalid", job={"problem": "spec.triggers[0].cron: write something else"})
KINDS = {"cluster.curl", "cluster.invalid", "cluster.custom.print", "cluster.pod"}


def status(
    state: State | None = None,
    definition: Definition = EVERY,
    records: list[RunRecord] | None = None,
    *,
    now: Instant = T + SECOND,
    since: dict[str, tuple[str, str]] | None = None,
    generation: int = 1,
    owner: str | None = None,
    begun: dict[str, str] | None = None,
    waiting: dict[str, tuple[str, bool]] | None = None,
) -> dict[str, Any]:
    state = State(decided_until=T, generation=1) if state is None else state
    slots = slots_of(Plan(definition), seed="n/a", created=T)
    row = Row(
        1, "n/a", UID, definition.kind, Origin.CLUSTER.value, definition.encode(), 1, T, None, None, None, T, 1, None,
        state.encode(), owner=owner, generation=generation,
    )  # fmt: skip
    stored = StoredSchedule(row, state, definition, slots, records or [])
    return build_status(stored, KINDS, since or {}, now, begun or {}, waiting or {})


def conditions(found: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {condition["type"]: (condition["status"], condition["reason"]) for condition in found["conditions"]}


def record(number: int, outcome: Outcome = Outcome.SUCCEEDED, **more: Any) -> RunRecord:
    at = T + number * MINUTE
    fields = {"keep": 100, "expires": T + 10**15, **more}
    return RunRecord(f"{UID}-{at}", UID, "n/a", at, at, at + SECOND, 1, outcome, **fields)


@pytest.mark.parametrize(
    ("state", "definition", "ready", "stalled", "suspended"),
    [
        (State(T), EVERY, ("True", "Scheduled"), "False", ("False", "NotSuspended")),
        (State(T, suspended=True), EVERY, ("True", "Suspended"), "False", ("True", "Suspended")),
        (State(T, paused=True), EVERY, ("True", "AutoPaused"), "False", ("True", "AutoPaused")),
        (State(T, completed=Completion.JOB), EVERY, ("True", "Completed"), "False", ("False", "NotSuspended")),
        (State(T, completed=Completion.NO_SLOT), INVALID, ("False", "InvalidSpec"), "True", ("False", "NotSuspended")),
        (State(T), Definition("cluster.custom.x"), ("False", "UnknownKind"), "True", ("False", "NotSuspended")),
    ],
)
def test_the_conditions_of_a_schedule(
    state: State, definition: Definition, ready: tuple[str, str], stalled: str, suspended: tuple[str, str]
) -> None:
    found = conditions(status(state, definition))
    assert found["Ready"] == ready
    assert found["Stalled"][0] == stalled
    assert found["Suspended"] == suspended
    assert found["LastRunSucceeded"] == ("Unknown", "NoRunYet")
    assert "Overdue" not in found


def test_a_failed_run_leaves_the_schedule_ready_with_a_reason() -> None:
    state = State(T, last_success=T, last_failure=T + SECOND)
    found = status(state, records=[record(1, Outcome.FAILED, reason="exit code 3")])
    assert conditions(found)["Ready"][0] == "True"
    assert conditions(found)["LastRunSucceeded"] == ("False", "Failed")
    assert (
        next(condition for condition in found["conditions"] if condition["type"] == "LastRunSucceeded")["message"]
        == "exit code 3"
    )


def test_overdue_is_reported_if_a_success_is_expected() -> None:
    expecting = msgspec.structs.replace(EVERY, expect_success_within=MINUTE)
    assert conditions(status(State(T), expecting))["Overdue"] == ("False", "InTime")
    assert conditions(status(State(T, overdue=True), expecting))["Overdue"] == ("True", "NoSuccess")


def test_a_condition_keeps_its_time_while_it_holds() -> None:
    before = status(now=T + SECOND)
    after = status(State(T, suspended=True), since=since_of(before["conditions"]), now=T + MINUTE)
    times = {condition["type"]: condition["lastTransitionTime"] for condition in after["conditions"]}
    assert times["Ready"] == "2027-01-15T08:00:01Z"
    assert times["Suspended"] == "2027-01-15T08:01:00Z"


def test_a_condition_names_the_generation_of_its_spec() -> None:
    """The spec was edited, but the owner still works with the previous one."""
    found = status(State(T, generation=1), generation=2)
    assert found["observedGeneration"] == 2
    said = {condition["type"]: condition["observedGeneration"] for condition in found["conditions"]}
    assert said == {"Ready": 2, "Stalled": 2, "Suspended": 1, "LastRunSucceeded": 1}


@pytest.mark.parametrize(
    ("state", "definition", "words"),
    [
        (State(T, next=Run(T + MINUTE, T + MINUTE + 7)), EVERY, "2027-01-15T08:01:00Z"),
        (State(T), EVERY, "2027-01-15T08:01:00Z"),
        (State(T, suspended=True), EVERY, "suspended"),
        (State(T, paused=True), EVERY, "paused"),
        (State(T, completed=Completion.JOB), EVERY, "completed"),
        (State(T), INVALID, "invalid"),
        (State(T), Definition("cluster.curl", triggers=(FollowingTrigger("up"),)), "none"),
        (State(T), Definition("cluster.curl", triggers=(ManualTrigger(),)), "none"),
        (State(T, started=1), msgspec.structs.replace(EVERY, max_runs=1), "none"),
    ],
)
def test_the_next_run_is_a_time_or_a_reason(state: State, definition: Definition, words: str) -> None:
    found = status(state, definition)
    assert found["nextRun"] == words
    assert (found.get("nextRunTime") is not None) == words.startswith("2027")


def test_the_next_run_is_not_the_one_that_is_active() -> None:
    """A due run may have begun without a write. A long run must not be shown as the next run while it lasts."""
    begins = State(T, next=Run(T, T))
    assert status(begins, owner="r")["nextRun"] == "2027-01-15T08:01:00Z"
    assert status(begins)["nextRun"] == "2027-01-15T08:00:00Z", "nothing runs without an owner"
    assert status(begins, msgspec.structs.replace(EVERY, max_runs=1), owner="r")["nextRun"] == "none"
    jittered = msgspec.structs.replace(EVERY, jitter=30 * SECOND)
    due = T + MINUTE + jitter_of(UID, T + MINUTE, 30 * SECOND)
    assert status(begins, jittered, owner="r")["nextRunTime"] == rfc3339(due)


@pytest.mark.parametrize("owner", ["r", None])
def test_the_next_run_never_lies_in_the_past_while_a_run_is_active(owner: str | None) -> None:
    """The owner has decided about the planned run, and has not written it: the status is written meanwhile."""
    active, planned = Run(slot=T, due=T, begun=T), Run(slot=T + MINUTE, due=T + MINUTE)
    state = State(T, generation=1, runs=[active], next=planned)
    found = status(state, now=T + 5 * MINUTE + SECOND, owner=owner)
    assert found["nextRunTime"] == rfc3339(T + 6 * MINUTE)


def test_a_run_that_waits_says_for_what_and_has_not_started() -> None:
    first = Run(slot=T, due=T, begun=T, detached=True)
    again, ends = (Run(slot=T, due=T, begun=T, attempt=number, token=f"t{number}") for number in (2, 1))
    words = {run_id(UID, first): ("a node", False), run_id(UID, again): ("it", False), run_id(UID, ends): ("end", True)}
    begun = {run_id(UID, run): rfc3339(T) for run in (first, ends)}
    active = status(State(T, runs=[first, again, ends]), begun=begun, waiting=words)["active"]
    shown = [(run["waitingFor"], run.get("started")) for run in active]
    assert shown == [("a node", None), ("it", rfc3339(T)), ("end", rfc3339(T))]


def test_the_triggers_are_described() -> None:
    triggers = (
        CronTrigger("@daily"),
        CronTrigger("0 12 * * *", "Europe/Lisbon"),
        EveryTrigger(90 * SECOND),
        AtTrigger(T),
        FollowingTrigger("up"),
        ManualTrigger(),
    )
    found = status(definition=Definition("cluster.curl", triggers=triggers))
    words = "@daily, 0 12 * * * Europe/Lisbon, every 1m30s, at 2027-01-15T08:00:00Z, following up, manual"
    assert found["schedule"] == words


def test_active_runs_are_listed() -> None:
    running = Run(T, T, begun=T)
    waits = Run(T + 1, T + MINUTE, attempt=2, begun=T)
    pod = Run(T + 2, T, attempt=3, detached=True, token="by-hand")
    planned = Run(T + 3, T + SECOND)
    shown = status(State(T, runs=[running, waits, pod], next=planned), owner="r")
    assert shown["activeCount"] == 4, "a due run may have begun without a write"
    assert [("due" in run, run.get("pod"), run.get("token")) for run in shown["active"]] == [
        (False, None, None),
        (True, None, None),
        (False, pod_name("a", run_id(UID, pod), 3), "by-hand"),
        (False, None, None),
    ]
    assert status(State(T, next=planned))["activeCount"] == 0, "nothing runs without an owner"


def test_the_start_of_an_active_run_is_carried_over() -> None:
    """The store learns the start of a first attempt only at its end. Until then status keeps what is known."""
    planned, again, manual = Run(T, T), Run(T - MINUTE, T, attempt=2, begun=T - MINUTE), Run(T, T, token="by-hand")
    state = State(T, runs=[again, manual], next=planned)
    since = {run_id(UID, planned): rfc3339(T + 5), run_id(UID, again): rfc3339(T - MINUTE + 7)}
    shown = status(state, owner="r", begun=since)["active"]
    assert [run.get("started") for run in shown] == [rfc3339(T - MINUTE + 7), None, rfc3339(T + 5)]
    assert begun_of(shown) == since, "the next writer continues from the status"
    assert status(state, owner="r", begun=begun_of(shown))["active"] == shown
    assert status(State(T, next=planned), begun=since)["active"] == [], "nothing runs without an owner"


def test_a_run_of_an_unknown_kind_has_no_start_time() -> None:
    lost = State(T, runs=[Run(T, T, attempt=2, lost=1, begun=T)])
    unknown = Definition("cluster.custom.x", triggers=(EveryTrigger(MINUTE),))
    assert "started" not in status(lost, unknown)["active"][0]
    assert conditions(status(lost, unknown))["Ready"] == ("False", "UnknownKind")
    known = {f"{UID}-{T}": rfc3339(T + 5)}
    assert status(lost, unknown, begun=known)["active"][0]["started"] == rfc3339(T + 5), "it began before"
    assert "started" in status(lost, unknown, owner="r")["active"][0], "another replica can run it"
    assert "started" in status(lost)["active"][0]


def test_recent_runs_are_those_that_history_keeps() -> None:
    records = [record(number, keep=2) for number in range(20, 10, -1)]
    records[5:5] = [record(15, Outcome.FAILED, keep=1, reason="no"), record(14, Outcome.CANCELLED, keep=1)]
    shown = status(records=records)["recentRuns"]
    assert [run["outcome"] for run in shown] == ["Succeeded", "Succeeded", "Failed"]
    assert status(records=[record(1, expires=T)])["recentRuns"] == []
    assert len(status(records=[record(number) for number in range(50, 0, -1)])["recentRuns"]) == RECENT_RUNS


def test_recent_runs_have_their_replica_and_the_newest_failure_its_output() -> None:
    first = record(3, Outcome.FAILED, output=b"newest \xff\0" + b"x" * 2000, replica="host-1", code=500)
    older = record(2, Outcome.FAILED, output=b"older")
    in_pod = msgspec.structs.replace(record(1, manual=True), run_id=f"{UID}-by-hand")
    in_pod.replica = pod_name("a", in_pod.run_id, 1)
    shown = status(records=[first, older, in_pod])["recentRuns"]
    assert shown[0]["output"] == "x" * 1024
    assert (shown[0]["replica"], shown[0]["code"]) == ("host-1", 500)
    assert "output" not in shown[1]
    assert (shown[2]["pod"], shown[2].get("replica"), shown[2]["token"]) == (in_pod.replica, None, "by-hand")


def test_the_last_outcome_outlives_history() -> None:
    assert status()["lastOutcome"] is None
    assert status(State(T, last_success=T))["lastOutcome"] == "Succeeded"
    assert status(State(T, last_success=T, last_failure=T + 1))["lastOutcome"] == "Failed"
    newest = [record(2, Outcome.CANCELLED), record(1)]
    assert status(State(T, last_success=T), records=newest)["lastOutcome"] == "Cancelled"


def test_handled_requests_are_listed() -> None:
    handled = [f"run-now/t{number}" for number in range(30)] + ["cancel/u-1", "resume/again/and/again"]
    shown = status(State(T, handled=tuple(handled)))["handled"]
    assert shown["runNow"] == [f"t{number}" for number in range(30)][-HANDLED_TOKENS:]
    assert (shown["cancel"], shown["resume"]) == (["u-1"], ["again/and/again"])


_INSTANTS = st.integers(T - 10**12, T + 10**12)
_RUNS = st.builds(
    Run,
    slot=_INSTANTS,
    due=_INSTANTS,
    attempt=st.integers(1, 10**6),
    begun=st.just(0) | _INSTANTS,
    token=st.text(max_size=300),
    payload=st.none() | st.just(b"the secret payload"),
    detached=st.booleans(),
)
_STATES = st.builds(
    State,
    decided_until=_INSTANTS,
    next=st.none() | _RUNS,
    runs=st.lists(_RUNS, max_size=150),
    waiting=st.lists(_RUNS, max_size=150),
    suspended=st.booleans(),
    paused=st.booleans(),
    completed=st.none() | st.sampled_from(Completion),
    started=st.integers(0, 2**40),
    last_success=st.none() | _INSTANTS,
    last_failure=st.none() | _INSTANTS,
    overdue=st.booleans(),
    generation=st.integers(0, 9),
    handled=st.lists(st.text(max_size=300).map("run-now/".__add__), max_size=32),
)
_RECORDS = st.lists(
    st.builds(
        record,
        st.integers(0, 100),
        st.sampled_from(Outcome),
        reason=st.text(max_size=3000),
        output=st.binary(max_size=5000),
        keep=st.integers(0, 20),
        code=st.none() | st.integers(-(2**31), 2**31),
    ),
    max_size=12,
)


@given(_STATES, st.sampled_from([EVERY, INVALID]), _RECORDS, st.booleans())
def test_every_row_has_a_status_that_the_api_server_accepts(
    state: State, definition: Definition, records: list[RunRecord], owned: bool
) -> None:
    before = state.encode()
    found = status(state, definition, records, owner="r" if owned else None)
    assert state.encode() == before, "the state of the row is not changed"
    text = json.dumps({key: value for key, value in found.items() if value is not None}, ensure_ascii=False)
    assert len(text.encode()) < 400_000
    assert "the secret payload" not in text
    assert found == status(state, definition, records, owner="r" if owned else None)
    ready, stalled = conditions(found)["Ready"][0], conditions(found)["Stalled"][0]
    assert (ready, stalled) in (("True", "False"), ("False", "True"))
    assert len(found["recentRuns"]) <= RECENT_RUNS
    kept = State.decode(engine_text(state))
    assert [(run.slot, run.attempt, run.token) for run in kept.runs] == [
        (run.slot, run.attempt, run.token) for run in state.runs
    ]


def test_an_unset_field_is_removed_from_the_status() -> None:
    """The status is a merge patch, which keeps fields that it does not name."""
    assert status(State(T, suspended=True)).keys() == status(State(T)).keys()
    assert status(State(T, suspended=True))["nextRunTime"] is None
