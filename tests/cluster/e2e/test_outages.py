"""The API server goes away in the middle of things: runs go on, and what happened meanwhile is seen afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.cluster.crd.install import install
from tests.cluster.e2e.operators import (
    PATIENCE,
    OperatorProcess,
    Sink,
    change,
    condition,
    curl,
    granted,
    manifest,
    until,
)
from tests.cluster.e2e.records import Records, anchored, bounded, create, seconds_from_now, slots
from tests.cluster.erring_line import ErringLine, error_status
from tests.cluster.harness import SCHEDULED_JOBS
from tests.cluster.line import Line
from tests.cluster.pods_support import began, exited

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.cluster.harness import ApiClient, ControlPlane
    from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.cluster

PRINT = "{custom: {kind: print, params: {text: x}}}"
CONTAINER = "{container: {image: localhost/x, command: [x]}}"
OUTAGE = 30.0
"""Seconds."""


class Place(NamedTuple):
    """A namespace of a control plane that is the test's own."""

    cluster: ControlPlane
    api: ApiClient
    namespace: str
    kubeconfig: Path
    """Of the operator."""

    def operator(self, dsn: str, *flags: str, kubeconfig: Path | None = None) -> OperatorProcess:
        return OperatorProcess(
            kubeconfig or self.kubeconfig,
            self.namespace,
            f"--namespaces={self.namespace}",
            f"--store={dsn}",
            "--inline-http-allow=127.0.0.1",
            "--sweep-interval=5s",
            *flags,
        )


@pytest.fixture
async def place(own_cluster: ControlPlane) -> AsyncIterator[Place]:
    await install(own_cluster)
    namespace = await own_cluster.new_namespace()
    kubeconfig = await granted(own_cluster, "operator", namespace, [namespace])
    async with own_cluster.client() as api:
        yield Place(own_cluster, api, namespace, kubeconfig)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "paused"])
async def test_runs_go_on_without_the_api_server(how: str, place: Place, postgres_dsn: str, sink: Sink) -> None:
    """500 runs and more, 20 a second."""
    names, every, count = [f"job-{number}" for number in range(40)], 2, 19
    async with place.operator(postgres_dsn) as operator, Records(postgres_dsn, place.namespace) as records:
        begin = seconds_from_now(5)
        more = bounded(begin, every, count)
        jobs = [manifest(name, anchored(begin, every), curl(sink.url), more) for name in names]
        await create(place.api, place.namespace, jobs)
        await sink.reached(lambda calls: len(calls) >= 2 * len(names))
        _break(place.cluster, how)
        before = len(sink.calls)
        await asyncio.sleep(OUTAGE)  # the length of the outage is the point
        during = len(sink.calls) - before
        assert (await operator.fetch("/healthz"))[0] == 200
        if how == "killed":  # of a server that is silent the watch learns when its patience ends, after 50 s
            status, why = await operator.fetch("/readyz")
            assert status == 503
            assert "watch:" in why
        await _mend(place.cluster, how)
        assert during >= 20 * (OUTAGE - 6)
        states = await records.complete(names)
        for name in names:
            body = await until(place.api, place.namespace, name, lambda one: _succeeded(one) == count, "the last run")
            assert not body["status"].get("active")
            assert condition(body, "Ready")["status"] == "True"
        await operator.ready()
        runs = await records.ended()
    assert [call.attempt for call in sink.calls] == [1] * len(names) * count
    assert {call.run_id for call in sink.calls} == {run.run_id for run in runs}
    for name in names:
        assert [run.slot for run in runs if run.name == name] == slots(begin, every, count)
        assert states[name].succeeded == count
        assert states[name].missed == states[name].skipped == 0


@pytest.mark.slow
async def test_how_pods_ended_is_recorded_after_an_outage(place: Place, postgres_dsn: str) -> None:
    """Some of 50 Pods end before the outage, some during it, and one of the two replicas dies meanwhile."""
    names = [f"pod-{number}" for number in range(50)]
    more = "  retry: {maxRetries: 0}\n"
    flags = ["--lease=5s"]
    async with (
        place.operator(postgres_dsn, *flags) as first,
        place.operator(postgres_dsn, *flags),
        Records(postgres_dsn, place.namespace) as records,
    ):
        await create(place.api, place.namespace, [manifest(name, "after: 1s", CONTAINER, more) for name in names])
        pods = await _pods(place, len(names))
        for pod in pods.values():
            await _report(place, pod, began())
        for name in names[:5]:
            await _report(place, pods[name], exited(0))
        await records.until_ended(5)
        place.cluster.apiserver.kill()
        await first.kill()
        await asyncio.sleep(OUTAGE / 2)  # the length of the outage is the point: longer than the lease
        await place.cluster.apiserver.start()
        for number, name in enumerate(names[5:]):
            await _report(place, pods[name], exited(number % 3))
        runs = {run.name: run for run in await records.until_ended(len(names))}
        for number, name in enumerate(names):
            run, code = runs[name], 0 if number < 5 else (number - 5) % 3
            assert (run.attempt, run.replica) == (1, pods[name]["metadata"]["name"])
            assert (run.outcome, run.reason) == ("Failed", f"exit code {code}") if code else ("Succeeded", "")
            body = await until(place.api, place.namespace, name, _last_outcome)
            assert _last_outcome(body) == run.outcome
        assert len(await _pods(place, len(names))) == len(names)


@pytest.mark.slow
@pytest.mark.parametrize("sweep", ["5s", "1h"])
async def test_what_watches_forgot_is_seen_all_the_same(
    sweep: str, place: Place, postgres_dsn: str, sink: Sink, tmp_path: Path
) -> None:
    """Objects are created, edited and deleted while a watch is broken, and it can't continue where it was (410).

    The next list has the objects that exist, without a sweep. Only a sweep finds those that are gone.
    """
    sink.gate.clear()
    objects = f"{SCHEDULED_JOBS}/namespaces/{place.namespace}/scheduledjobs"
    async with (
        Line(place.cluster, tmp_path, place.kubeconfig) as line,
        place.operator(postgres_dsn, f"--sweep-interval={sweep}", kubeconfig=line.kubeconfig) as operator,
        Records(postgres_dsn, place.namespace) as records,
    ):
        old = [manifest(name, "after: 1s", curl(sink.url)) for name in ("kept", "deleted", "renewed")]
        await create(place.api, place.namespace, [*old, manifest("edited", "every: 1d", curl(sink.url))])
        await records.until_locked("sweep")  # the first sweep is over
        await sink.reached(lambda calls: len(calls) == 3)
        await until(place.api, place.namespace, "edited", lambda one: condition(one, "Ready"))
        line.cut()
        await create(place.api, place.namespace, [manifest("created", "after: 1s", curl(sink.url))])
        await place.api.patch(f"{objects}/edited", {"spec": {"triggers": [{"every": "1s"}]}})
        await place.api.delete(f"{objects}/deleted")
        await place.api.delete(f"{objects}/renewed")
        renewed = await create(place.api, place.namespace, [manifest("renewed", "after: 1s", curl(sink.url))])
        await place.cluster.compact_etcd()
        await place.cluster.apiserver.restart()
        line.mend()
        uid = renewed[0]["metadata"]["uid"]
        await sink.reached(
            lambda calls: (
                {"created", "edited"} <= {call.name for call in calls}
                and any(call.run_id.startswith(uid) for call in calls)
            ),
            "the runs of what is new",
        )
        gone = {"renewed", "deleted"} if sweep == "5s" else {"renewed"}
        await sink.reached(lambda _: {call.name for call in sink.dropped} >= gone, "their end")
        sink.gate.set()
        await until(place.api, place.namespace, "kept", lambda one: _succeeded(one) == 1)
        await operator.ready()
        ended = {run.name: run.outcome for run in await records.ended() if not run.run_id.startswith(uid)}
        assert ended["kept"] == "Succeeded"
        assert {ended[name] for name in gone} == {"Cancelled"}
        assert ("deleted" in await records.states()) == ("deleted" not in gone)
    assert [call.name for call in sink.calls].count("kept") == 1


async def test_watches_that_end_with_an_error_lose_nothing(place: Place, postgres_dsn: str, tmp_path: Path) -> None:
    """Their events are withheld before: a job is created, one is edited, a Pod ends, and one is deleted."""
    pods = f"/api/v1/namespaces/{place.namespace}/pods"
    more = "  retry: {maxRetries: 0}\n"
    async with (
        ErringLine(place.cluster, tmp_path, place.kubeconfig) as line,
        place.operator(postgres_dsn, "--sweep-interval=1h", kubeconfig=line.kubeconfig) as operator,
        Records(postgres_dsn, place.namespace) as records,
    ):
        jobs = [manifest(name, "after: 0s", CONTAINER, more) for name in ("ends", "deleted")]
        await create(place.api, place.namespace, [*jobs, manifest("edited", "every: 1d", PRINT)])
        found = await _pods(place, 2)
        for pod in found.values():
            await _report(place, pod, began())
        await until(place.api, place.namespace, "edited", lambda one: condition(one, "Ready"))
        for resource in ("pods", "scheduledjobs"):
            line.withhold_events(resource)
        await _report(place, found["ends"], exited(3))
        await place.api.delete(f"{pods}/{found['deleted']['metadata']['name']}", gracePeriodSeconds=0)
        await create(place.api, place.namespace, [manifest("made", "after: 0s", PRINT)])
        await change(place.api, place.namespace, "edited", {"triggers": [{"every": "1s"}]})
        for resource, code in (("pods", 500), ("scheduledjobs", 504)):
            await line.fail(resource, error_status(code))
        for name in ("edited", "made"):
            await until(place.api, place.namespace, name, _succeeded)
        await records.complete(["ends", "deleted"])
        reasons = {run.name: run.reason for run in await records.ended()}
        assert reasons == {"ends": "exit code 3", "deleted": "its Pod was deleted", "made": "", "edited": ""}
        for resource in ("pods", "scheduledjobs"):
            await operator.until_metric(
                "scheduledjob_watch_restarts_total", lambda count: count == 1, resource=resource
            )
        await operator.ready()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=["ended", "killed"])
async def test_what_was_deleted_while_no_operator_ran_ends(
    end: signal.Signals, place: Place, postgres_dsn: str, sink: Sink
) -> None:
    """A replica finds it when it begins: sweeps are an hour apart here."""
    objects = f"{SCHEDULED_JOBS}/namespaces/{place.namespace}/scheduledjobs"
    flags = ["--sweep-interval=1h", "--lease=3s", "--grace=1s"]
    async with Records(postgres_dsn, place.namespace) as records:
        sink.gate.clear()
        async with place.operator(postgres_dsn, *flags) as operator:
            await create(place.api, place.namespace, [manifest("gone", "every: 1s", curl(sink.url))])
            await create(place.api, place.namespace, [manifest("there", "every: 1s", PRINT)])
            await sink.reached(lambda calls: len(calls) >= 1)
            await records.until_locked("sweep")
            operator.send(end)
            await operator.ended()
        await place.api.delete(f"{objects}/gone")
        await place.cluster.compact_etcd()
        async with place.operator(postgres_dsn, *flags):
            await records.until_gone("gone")
            await sink.reached(lambda calls: len(sink.dropped) == len(calls), "the end of its run")
            (ended,) = await records.ended_of("gone")
            assert ended.outcome == "Cancelled"
            before = (await records.states())["there"].succeeded
            await until(place.api, place.namespace, "there", lambda one: _succeeded(one) > before + 2)
            assert await records.ended_of("gone") == [ended]
        assert len(sink.dropped) == len(sink.calls)


@pytest.mark.slow
@pytest.mark.parametrize("away", ["API server", "store", "both"])
async def test_an_outage_does_not_hold_up_the_end(
    away: str, place: Place, own_postgres: PostgresServer, sink: Sink
) -> None:
    grace = 2
    jobs = {"inline": curl(sink.url), "quick": PRINT, "pod": CONTAINER}
    async with place.operator(own_postgres.new_database(), f"--grace={grace}s") as operator:
        sink.gate.clear()
        await create(place.api, place.namespace, [manifest(name, "every: 1s", job) for name, job in jobs.items()])
        await sink.reached(lambda calls: len(calls) >= 1)
        await _pods(place, 1)
        with own_postgres.pause() if away != "API server" else contextlib.nullcontext():
            if away != "store":
                place.cluster.apiserver.pause()
            operator.send(signal.SIGTERM)
            try:
                async with asyncio.timeout(grace + 8):  # then it would be killed: it is what a Pod is given
                    assert await operator.ended() == 0
            except TimeoutError:
                raise AssertionError(f"the end takes too long: {operator.tail()}") from None
        await operator.said("shut down cleanly")
        if away != "store":
            place.cluster.apiserver.resume()


def _break(cluster: ControlPlane, how: str) -> None:
    if how == "killed":
        cluster.apiserver.kill()
    else:
        cluster.apiserver.pause()


async def _mend(cluster: ControlPlane, how: str) -> None:
    if how == "killed":
        await cluster.apiserver.start()
    else:
        cluster.apiserver.resume()


def _succeeded(body: dict[str, Any]) -> int:
    counters = (body.get("status") or {}).get("counters") or {}
    return int(counters.get("succeeded", 0))


def _last_outcome(body: dict[str, Any]) -> str | None:
    outcome: str | None = (body.get("status") or {}).get("lastOutcome")
    return outcome


async def _pods(place: Place, count: int) -> dict[str, dict[str, Any]]:
    """Wait until there are so many Pods; by the name of their ScheduledJob."""
    path, pods = f"/api/v1/namespaces/{place.namespace}/pods", {}
    async with asyncio.timeout(PATIENCE):
        async for event in place.api.watch(path, labelSelector="scheduledjobs.dev/name"):
            pods[event["object"]["metadata"]["name"]] = event["object"]
            if len(pods) == count:
                break
    return {pod["metadata"]["labels"]["scheduledjobs.dev/name"]: pod for pod in pods.values()}


async def _report(place: Place, pod: dict[str, Any], status: dict[str, Any]) -> None:
    """As its kubelet would."""
    path = f"/api/v1/namespaces/{place.namespace}/pods/{pod['metadata']['name']}/status"
    await place.api.patch(path, {"status": status})
