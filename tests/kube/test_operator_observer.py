"""What the observer reports as metrics, as status and as Events."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from structlog.testing import capture_logs

from scheduledjob.domain.schedule.definition import Definition
from scheduledjob.domain.schedule.plan import Plan
from scheduledjob.domain.schedule.requests import Requests
from scheduledjob.domain.schedule.state import Completion, Outcome, RunRecord, State
from scheduledjob.domain.time.instants import SECOND, rfc3339
from scheduledjob.engine.executor import Attempt
from scheduledjob.engine.stored_row import Disposition, Origin, Row, Settlement
from scheduledjob.kube.reconcile.desired_state import DesiredState
from scheduledjob.kube.reconcile.known_objects import KnownObjects
from scheduledjob.kube.report.events import Reason, Regarding
from scheduledjob.kube.report.operator_observer import OperatorObserver
from scheduledjob.kube.report.status_queue import START_DELAY
from scheduledjob.web.metrics import Metrics

T = 1_800_000_000 * SECOND


class RecordedEvent(NamedTuple):
    regarding: Regarding
    type: str
    reason: Reason
    message: str
    action: str


class World:
    """The observer, and what it passes on."""

    def __init__(self) -> None:
        self.recorded: list[RecordedEvent] = []
        self.changes: list[tuple[str, float | None]] = []
        self.forgotten: list[str] = []
        self.objects = KnownObjects()
        self.metrics = Metrics()
        self.seconds = 0.0
        fake: Any = self  # stands in for the recorder of Events and the queue of statuses
        self.observer = OperatorObserver(self.metrics, self.objects, fake, fake, monotonic=lambda: self.seconds)

    def record(self, *event: Any) -> None:
        self.recorded.append(RecordedEvent(*event))

    def changed(self, uid: str, after: float | None = None) -> None:
        self.changes.append((uid, after))

    def forget(self, uid: str) -> None:
        self.forgotten.append(uid)

    def add_object(self, uid: str = "u", **status: Any) -> None:
        metadata = {"namespace": "n", "name": "a", "uid": uid, "resourceVersion": "1", "generation": 1}
        self.objects.update({"metadata": metadata, "status": status})

    @property
    def reasons(self) -> list[tuple[str, str]]:
        return [(event.reason.value, event.type) for event in self.recorded]


@pytest.fixture
def world() -> World:
    return World()


def record(outcome: Outcome, reason: str = "") -> RunRecord:
    return RunRecord("u-1", "u", "n/a", T, T, T, 2, outcome, reason=reason, expires=T)


def row(origin: Origin = Origin.CLUSTER) -> Row:
    return Row(1, "n/a", "u", "cluster.curl", origin.value, "", 1, T, None, None, None, T, 1, None, b"")


def attempt() -> Attempt:
    return Attempt(run_id="u-1", uid="u", namespace="n", name="a", slot=T, attempt=1, version=1, deadline=0.0, begun=T)


def test_what_an_attempt_waits_for_is_told_until_it_goes_on(world: World) -> None:
    world.observer.waiting(attempt(), "capacity for Pods", False)
    assert world.reasons == [("Waiting", "Warning")]
    assert world.recorded[0].message == "Attempt 1 of the run of 2027-01-15T08:00:00Z waits for capacity for Pods"
    assert world.observer.waits_for("n/a") == {"u-1": ("capacity for Pods", False)}
    world.observer.waiting(attempt(), "", False)
    assert world.observer.waits_for("n/a") == {}
    assert world.changes == [("u", START_DELAY)] * 2


def test_each_outcome_has_an_event_with_its_own_reason(world: World) -> None:
    world.observer.recorded(
        [
            record(Outcome.SUCCEEDED),
            record(Outcome.FAILED, "exit code 3"),
            record(Outcome.CANCELLED, "cancelled by hand"),
            record(Outcome.SKIPPED_OVERLAP, "another run was active"),
        ]
    )
    assert world.reasons == [
        ("Succeeded", "Normal"),
        ("Failed", "Warning"),
        ("Cancelled", "Normal"),
        ("SkippedOverlap", "Normal"),
    ]
    failed = world.recorded[1]
    assert failed.regarding == Regarding("n", "a", "u")
    assert failed.message == "The run of 2027-01-15T08:00:00Z failed at attempt 2: exit code 3"


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_has_a_reason(world: World, outcome: Outcome) -> None:
    if outcome is not Outcome.EXCLUDED:  # which is counted but never recorded
        world.observer.recorded([record(outcome)])
        assert len(world.recorded) == 1


def test_failed_runs_are_logged_at_once_and_then_once_a_minute_with_a_count(world: World) -> None:
    failed = record(Outcome.FAILED, "exit code 3" + "x" * 5000)
    with capture_logs() as logs:
        for second in range(121):
            world.seconds = float(second)
            world.observer.recorded([failed, record(Outcome.SUCCEEDED), record(Outcome.CANCELLED, "by hand")])
        world.observer.recorded([msgspec.structs.replace(failed, uid="other", slug="n/b", run_id="other-1")])
        world.observer.tombstoned("u")
        world.observer.recorded([failed])
    assert [(line["slug"], line.get("failed_since_last_line")) for line in logs] == [
        ("n/a", None),
        ("n/a", 59),
        ("n/a", 59),
        ("n/b", None),
        ("n/a", None),
    ]
    line = logs[0]
    assert (line["event"], line["log_level"], line["run_id"], line["attempt"]) == ("a run failed", "warning", "u-1", 2)
    assert line["reason"].startswith("exit code 3x")
    assert len(line["reason"]) == 1024


def test_the_replica_that_started_a_run_knows_when_it_began(world: World) -> None:
    world.observer.started(attempt(), T, 0)
    assert world.observer.begun("n/a") == {"u-1": rfc3339(T)}
    world.observer.recorded([record(Outcome.SUCCEEDED)])
    assert world.observer.begun("n/a") == {}
    world.observer.started(attempt(), T, 0)
    world.observer.released("n/a", None)
    assert world.observer.begun("n/a") == {}
    world.observer.started(attempt(), T, 0)
    world.observer.fenced("n/a", "its lease could not be renewed in time")
    assert world.observer.begun("n/a") == {}


def test_the_start_of_a_later_attempt_is_left_to_the_store(world: World) -> None:
    """The first attempt may have been lost on another replica."""
    world.observer.started(msgspec.structs.replace(attempt(), attempt=2), T, 0)
    assert world.observer.begun("n/a") == {}


def test_status_is_written_at_once_after_a_settlement_and_a_little_later_after_a_start(world: World) -> None:
    world.observer.settled(row(), Settlement(1, 1, Disposition.KEEP, b"", None, 1))
    world.observer.settled(row(Origin.MANIFEST), Settlement(1, 1, Disposition.KEEP, b"", None, 1))
    world.observer.started(attempt(), T, 0)
    assert world.changes == [("u", None), ("u", START_DELAY)]
    assert world.recorded == []
    world.observer.tombstoned("u")
    assert world.forgotten == ["u"]


def test_a_retry_a_loss_and_an_overdue_schedule_are_warnings(world: World) -> None:
    world.observer.retrying(attempt(), "status 500", T)
    world.observer.claimed(row())
    world.observer.fenced("n/a", "its lease passed")
    world.observer.overdue("n/a")
    assert world.reasons == [("Retrying", "Warning")], "there are no Events about unknown objects"
    world.add_object()
    world.observer.claimed(row())
    world.observer.fenced("n/a", "its lease passed")
    world.observer.overdue("n/a")
    assert world.reasons[1:] == [("OwnerLost", "Warning"), ("Overdue", "Warning")]
    assert "its lease passed" in world.recorded[1].message
    assert world.metrics.lease_losses.value() == 1


def test_the_deletion_of_an_object_is_not_a_loss_of_its_successor(world: World) -> None:
    world.observer.claimed(row())
    world.add_object(uid="next")
    world.observer.fenced("n/a", "its schedule was deleted")
    assert world.recorded == []
    assert world.metrics.lease_losses.value() == 0


def test_slots_that_did_not_run_are_events_unless_excluded(world: World) -> None:
    world.observer.passed_over("n/a", Outcome.MISSED, 1)
    world.observer.claimed(row(Origin.MANIFEST))
    world.observer.passed_over("n/a", Outcome.MISSED, 1)
    assert world.recorded == []
    world.observer.claimed(row())
    world.observer.passed_over("n/a", Outcome.MISSED, 1)
    world.observer.passed_over("n/a", Outcome.SKIPPED_OVERLAP, 2)
    world.observer.passed_over("n/a", Outcome.EXCLUDED, 3)
    assert world.reasons == [("Missed", "Warning"), ("SkippedOverlap", "Normal")]
    assert world.recorded[0].regarding == Regarding("n", "a", "u")
    assert [event.message.partition(":")[0] for event in world.recorded] == [
        "1 slot did not run",
        "2 slots did not run",
    ]
    world.observer.released("n/a", None)
    world.observer.passed_over("n/a", Outcome.MISSED, 1)
    assert len(world.recorded) == 2


def test_the_documentation_lists_every_reason() -> None:
    page = (Path(__file__).parents[2] / "docs" / "watch-over-it.md").read_text()
    table = page.partition("| Reason | Means |")[2].partition("\n\n")[0]
    assert sorted(re.findall("`([A-Z][A-Za-z]+)`", table)) == sorted(Reason)


def reasons_of(world: World, state: State, before: State | None = None) -> list[str]:
    """Return the reasons of the Events that a written status causes."""
    world.add_object(engine="" if before is None else before.encode().decode())
    observed = world.objects.get("u")
    assert observed is not None
    count = len(world.recorded)
    world.observer.written(observed, state)
    return [event.reason.value for event in world.recorded[count:]]


def test_a_pause_and_a_completion_are_reported_once(world: World) -> None:
    plain = State(decided_until=T)
    paused = State(decided_until=T, paused=True, failures_in_row=3)
    done = State(decided_until=T, completed=Completion.MAX_RUNS)
    assert reasons_of(world, plain) == []
    assert reasons_of(world, paused, plain) == ["AutoPaused"]
    assert reasons_of(world, paused, paused) == []
    assert reasons_of(world, done, plain) == ["Completed"]
    assert world.recorded[-1].message == "The schedule is completed: maxRuns is reached"
    assert reasons_of(world, done, done) == []
    assert reasons_of(world, done) == ["Completed"], "a status without a state shows no completion yet"


def test_an_invalid_schedule_is_not_completed(world: World) -> None:
    world.add_object()
    world.objects.set_reconciled("u", "n/a", (1, ""), [], valid=False)
    assert reasons_of(world, State(decided_until=T, completed=Completion.NO_SLOT)) == []


def test_an_invalid_spec_and_an_unknown_kind_are_warnings(world: World) -> None:
    desired = DesiredState("n/a", "u", 1, T, "cluster.curl", Plan(Definition("cluster.curl")), None, Requests())
    world.observer.reconciled(desired)
    assert world.recorded == []
    world.observer.reconciled(replace(desired, problem="spec.triggers: write one"))
    world.observer.reconciled(replace(desired, unknown_kind="no job of that name"))
    assert world.reasons == [("InvalidSpec", "Warning"), ("UnknownKind", "Warning")]
    assert world.recorded[1].message == "no job of that name"


def test_a_refused_request_is_an_event_of_the_object(world: World) -> None:
    world.add_object()
    body = {"metadata": {"namespace": "n", "name": "a", "uid": "u"}}
    world.observer.request_refused(body, "write a shorter one")
    assert world.recorded == [
        RecordedEvent(Regarding("n", "a", "u"), "Warning", Reason.ACT_REFUSED, "write a shorter one", "Reconcile")
    ]


def test_an_unreadable_engine_counts_as_none(world: World) -> None:
    world.add_object(engine="{broken")
    observed = world.objects.get("u")
    assert observed is not None
    world.observer.written(observed, msgspec.structs.replace(State(decided_until=T), completed=Completion.JOB))
    assert world.reasons == [("Completed", "Normal")]
