"""Events on a real API server: a series for repeated Events, shared by replicas, within a budget."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from scheduledjob.domain.time.instants import SECOND
from scheduledjob.kube.client.api import Api
from scheduledjob.kube.client.budget import Budget
from scheduledjob.kube.report import events as module
from scheduledjob.kube.report.events import EventRecorder, Reason, Regarding, _Key, name_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.cluster.harness import Cluster, ControlPlane

pytestmark = pytest.mark.cluster

PATIENCE = 60.0
BEGUN = 1_800_000_000 * SECOND


class RecordingReplica:
    """A replica that records Events, and its requests."""

    def __init__(self, cluster: Cluster, namespace: str, *, every: float, rate: float, kubeconfig: str = "") -> None:
        self.cluster = cluster
        self.job = Regarding(namespace, "report", "11111111-2222-3333-4444-555555555555")
        self.requests: list[tuple[str, str, int]] = []
        self.now = BEGUN
        config = kubeconfig or str(cluster.kubeconfig)
        self.api = Api.from_config(config, on_request=lambda *call: self.requests.append(call[:3]))
        self.events = EventRecorder(self.api, Budget(rate), instance="replica-1", now=lambda: self.now, every=every)

    def fail(self, message: str = "exit code 3", reason: Reason = Reason.FAILED) -> None:
        self.events.record(self.job, "Warning", reason, message, "Run")

    async def written(self) -> list[dict[str, Any]]:
        async with self.cluster.client() as api:
            return await api.list(f"/apis/events.k8s.io/v1/namespaces/{self.job.namespace}/events")

    async def until(self, condition: Callable[[list[dict[str, Any]]], object]) -> list[dict[str, Any]]:
        while not condition(found := await self.written()):  # noqa: ASYNC110  # it waits for the server
            await asyncio.sleep(0.02)
        return found

    async def requested(self, count: int) -> None:
        while len(self.requests) < count:  # noqa: ASYNC110  # there is no event for it
            await asyncio.sleep(0.005)


@asynccontextmanager
async def recording(
    cluster: Cluster, namespace: str, *, every: float = 0.0, rate: float = 4000.0, kubeconfig: str = ""
) -> AsyncIterator[RecordingReplica]:
    """Run a replica for at most PATIENCE seconds."""
    made = RecordingReplica(cluster, namespace, every=every, rate=rate, kubeconfig=kubeconfig)
    async with made.api, asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        running = group.create_task(made.events.run())
        yield made
        running.cancel()


def count_of(event: dict[str, Any]) -> int:
    return int((event.get("series") or {"count": 1})["count"])


async def test_an_event_is_about_its_object(cluster: Cluster, namespace: str) -> None:
    async with recording(cluster, namespace) as replica:
        replica.fail("exit code 3")
        [event] = await replica.until(bool)
        assert {name: event[name] for name in ("reason", "note", "type", "action")} == {
            "reason": "Failed",
            "note": "exit code 3",
            "type": "Warning",
            "action": "Run",
        }
        assert event["regarding"] == {
            "apiVersion": "scheduledjobs.dev/v1beta1",
            "kind": "ScheduledJob",
            "namespace": namespace,
            "name": "report",
            "uid": replica.job.uid,
        }
        assert (event["reportingController"], event["reportingInstance"]) == ("scheduledjobs.dev/operator", "replica-1")
        assert event["eventTime"] == "2027-01-15T08:00:00.000000Z"
        shown = await cluster.kubectl("events", "--for", "scheduledjob/report", "-n", namespace, check=False)
        listed = await cluster.kubectl("get", "events", "-n", namespace)
        assert "exit code 3" in listed.stdout, shown


async def test_a_job_that_fails_every_second_has_one_series_with_its_last_message(
    cluster: Cluster, namespace: str
) -> None:
    async with recording(cluster, namespace) as replica:
        for number in range(1, 51):
            replica.now += SECOND
            replica.fail(f"exit code {number}")
            await replica.until(lambda found, number=number: sum(map(count_of, found)) == number)  # type: ignore[misc]
        [event] = await replica.written()
        assert (event["note"], event["series"]["count"]) == ("exit code 50", 50)
        assert event["series"]["lastObservedTime"] == "2027-01-15T08:00:50.000000Z"
        assert event["eventTime"] == "2027-01-15T08:00:01.000000Z"
        assert len(replica.requests) == 50, "each write is one request"


async def test_a_burst_is_written_at_once_and_once_later(cluster: Cluster, namespace: str) -> None:
    async with recording(cluster, namespace, every=1.0) as replica:
        replica.fail()
        await replica.requested(1)
        for _ in range(10_000):
            replica.fail()
            replica.fail("in 10s", Reason.RETRYING)
        found = await replica.until(lambda found: sum(map(count_of, found)) == 20_001)
        assert {(event["reason"], count_of(event)) for event in found} == {("Failed", 10_001), ("Retrying", 10_000)}
        assert len(replica.requests) == 3


async def test_replicas_and_restarts_share_a_series(cluster: Cluster, namespace: str) -> None:
    async with (
        recording(cluster, namespace) as first,
        recording(cluster, namespace) as second,
        recording(cluster, namespace) as third,
    ):
        for total in range(1, 11):
            for replica in (first, second, third):
                replica.fail()
            await first.until(lambda found, total=total: sum(map(count_of, found)) == 3 * total)  # type: ignore[misc]
        assert len(await first.written()) == 1
        assert (first.events.dropped, second.events.dropped, third.events.dropped) == (0, 0, 0)
    async with recording(cluster, namespace) as restarted:
        restarted.fail()
        await restarted.until(lambda found: list(map(count_of, found)) == [31])


async def test_a_deleted_series_starts_again(cluster: Cluster, namespace: str) -> None:
    async with recording(cluster, namespace) as replica, cluster.client() as api:
        replica.fail()
        [event] = await replica.until(bool)
        await api.delete(f"/apis/events.k8s.io/v1/namespaces/{namespace}/events/{event['metadata']['name']}")
        replica.fail()
        [again] = await replica.until(bool)
        assert count_of(again) == 1
        assert again["metadata"]["uid"] != event["metadata"]["uid"]


async def test_an_event_about_another_object_is_left_alone(cluster: Cluster, namespace: str) -> None:
    """It has the name that the operator's Event has."""
    async with recording(cluster, namespace) as replica, cluster.client() as api:
        name = name_of(_Key(replica.job.uid, Reason.FAILED), replica.job)
        other = {"kind": "Pod", "namespace": namespace, "name": "other", "uid": "x"}
        forged = {"metadata": {"name": name}, "involvedObject": other, "message": "precious", "type": "Normal"}
        await api.post(f"/api/v1/namespaces/{namespace}/events", forged)
        replica.fail()
        replica.fail(reason=Reason.MISSED)
        found = await replica.until(lambda found: len(found) == 2)
        assert {event["note"] for event in found if event["metadata"]["name"] == name} == {"precious"}
        assert replica.events.dropped == 1


async def test_long_notes_are_cut_and_odd_characters_are_kept(cluster: Cluster, namespace: str) -> None:
    async with recording(cluster, namespace) as replica:
        replica.fail("ß" * 10_000)
        replica.fail("a\nb\x00\t\x1b[0m", Reason.MISSED)
        found = await replica.until(lambda found: len(found) == 2)
        notes = {event["reason"]: event["note"] for event in found}
        assert len(notes["Failed"].encode()) <= 1024
        assert notes["Failed"].endswith("ß…")
        assert notes["Missed"] == "a\nb\x00\t\x1b[0m"


async def test_events_beyond_the_capacity_are_dropped_and_counted(
    cluster: Cluster, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PENDING", 20)  # half of it for one namespace
    async with recording(cluster, namespace, rate=0.001) as replica:
        for number in range(30):
            for _ in range(2):
                job = replica.job._replace(uid=f"uid-{number}")
                replica.events.record(job, "Normal", Reason.COMPLETED, "done", "Complete")
        assert replica.events.dropped == 40
        assert len(replica.requests) <= 1


async def test_events_stay_within_the_budget(cluster: Cluster, namespace: str) -> None:
    async with recording(cluster, namespace, rate=8.0) as replica:
        for number in range(200):
            replica.events.record(
                replica.job._replace(uid=f"uid-{number}"), "Normal", Reason.COMPLETED, "done", "Complete"
            )
        begun = asyncio.get_running_loop().time()
        await replica.requested(5)
        seconds = asyncio.get_running_loop().time() - begun
        assert len(replica.requests) <= 2 + seconds * 8.0 / 4 + 1


async def test_refused_events_are_dropped_and_others_are_written(own_cluster: ControlPlane) -> None:
    ours, forbidden = await own_cluster.new_namespace(), await own_cluster.new_namespace()
    job = ("--resource=events.events.k8s.io", "-n", ours)
    await own_cluster.kubectl("create", "role", "recorder", "--verb=create", *job)
    await own_cluster.kubectl("create", "rolebinding", "recorder", "--role=recorder", "--user=recorder", "-n", ours)
    kubeconfig = str(own_cluster.kubeconfig_for("recorder"))
    async with recording(own_cluster, ours, kubeconfig=kubeconfig) as replica:
        refused = replica.job._replace(namespace=forbidden)
        replica.events.record(refused, "Normal", Reason.COMPLETED, "done", "Complete")
        replica.events.record(replica.job._replace(namespace="not-there"), "Normal", Reason.OVERDUE, "late", "Watch")
        replica.fail()
        await replica.until(bool)
        assert replica.events.dropped == 2


async def test_events_are_written_after_an_outage_of_the_server(
    own_cluster: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_DELAY", 0.05)
    namespace = await own_cluster.new_namespace()
    async with recording(own_cluster, namespace) as replica:
        replica.fail()
        await replica.until(bool)
        own_cluster.apiserver.kill()
        replica.fail()
        await replica.requested(4)
        replica.fail()
        await own_cluster.apiserver.start()
        [event] = await replica.until(lambda found: sum(map(count_of, found)) == 3)
        assert event["series"]["count"] == 3
