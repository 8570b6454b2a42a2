"""Several replicas of the operator on one Postgres: they share the work, and one that dies, stands still, leaves or has
a wrong clock costs no slot and runs none twice."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter, defaultdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from scheduledjob.domain.time.instants import SECOND, to_instant
from tests.cluster.e2e.late_line import LateLine
from tests.cluster.e2e.operators import (
    PATIENCE,
    OperatorProcess,
    Sink,
    curl,
    granted,
    manifest,
    read,
    until,
    until_event,
)
from tests.cluster.e2e.records import (
    Records,
    anchored,
    bounded,
    came_at,
    create,
    seconds_from_now,
    slot_of,
    slots,
)
from tests.cluster.pods_support import began, exited
from tests.support.absent import do_without

if TYPE_CHECKING:
    from tests.cluster.harness import ApiClient, Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.postgres]

SECONDS = int(os.environ.get("REPLICAS_SECONDS", "25"))
"""For how long replicas are killed; the promise is for any time, and 60 is what to try where there is more time."""
KILL_EVERY = 5.0
PRINT = "{custom: {kind: print, params: {text: x}}}"
CONTAINER = "{container: {image: localhost/x, command: [x]}}"
CATCH_UP = "  misfire: {catchUp: All, maxCatchUp: 1000}\n"
FAKETIME = "/usr/lib/*/faketime/libfaketimeMT.so.1"


class Replicas:
    """Makes replicas that share one store."""

    def __init__(self, kubeconfig: Path, namespace: str, dsn: str) -> None:
        self._kubeconfig = kubeconfig
        self._namespace = namespace
        self._dsn = dsn

    def one(self, *flags: str, environment: dict[str, str] | None = None) -> OperatorProcess:
        shared = [f"--namespaces={self._namespace}", f"--store={self._dsn}", "--inline-http-allow=127.0.0.1"]
        return OperatorProcess(self._kubeconfig, self._namespace, *shared, *flags, environment=environment)


@pytest.fixture
def replicas(kubeconfig: Path, namespace: str, postgres_dsn: str) -> Replicas:
    return Replicas(kubeconfig, namespace, postgres_dsn)


@pytest.fixture
def faketime() -> str:
    """The library that shows a process another time."""
    found = sorted(Path("/").glob(FAKETIME.lstrip("/")))
    if not found:
        do_without("a wrong clock", f"there is no {FAKETIME}")
    return str(found[0])


@pytest.mark.slow
async def test_each_slot_has_one_run_while_replicas_die(
    replicas: Replicas, api: ApiClient, namespace: str, postgres_dsn: str, sink: Sink
) -> None:
    """300 schedules every second; of three replicas one is killed every five seconds, and started again."""
    count = SECONDS + 2
    jobs = {f"print-{number}": PRINT for number in range(250)}
    jobs |= {f"curl-{number}": curl(sink.url) for number in range(50)}
    flags = ["--lease=3s", "--status-budget=5"]
    async with replicas.one(*flags) as one, replicas.one(*flags) as two, replicas.one(*flags) as three:
        begin = seconds_from_now(10)
        more = "  concurrencyPolicy: Allow\n" + CATCH_UP + bounded(begin, 1, count)
        await create(api, namespace, [manifest(name, anchored(begin, 1), job, more) for name, job in jobs.items()])
        await sink.reached(lambda calls: len(calls) >= 50)
        victims = [one, two, three]
        for number in range(int(SECONDS / KILL_EVERY)):
            victim = victims[number % 3]
            await victim.kill()
            await victim.start()
            await asyncio.sleep(KILL_EVERY)  # the rhythm is the point
        async with Records(postgres_dsn, namespace) as records:
            states = await records.complete(list(jobs))
            runs = await records.ended()

    wanted = slots(begin, 1, count)
    by_name = defaultdict(list)
    for run in runs:
        by_name[run.name].append(run)
    for name, state in states.items():
        assert [run.slot for run in by_name[name]] == wanted, name
        assert state.succeeded == count, name  # none completed twice
        assert state.missed == state.skipped == state.failed == state.cancelled == 0
    assert {run.outcome for run in runs} == {"Succeeded"}
    last = {run.run_id: run.attempt for run in runs}
    calls = Counter((call.run_id, call.attempt) for call in sink.calls)
    assert set(calls.values()) == {1}
    assert {run_id for run_id, _ in calls} == {run.run_id for run in runs if run.name.startswith("curl-")}
    assert all(attempt <= last[run_id] for run_id, attempt in calls)
    assert len({run.replica for run in runs}) >= 3


async def test_a_replica_that_stood_still_is_fenced(
    replicas: Replicas, api: ApiClient, namespace: str, postgres_dsn: str, sink: Sink
) -> None:
    """What it had begun would fail; by then another replica has brought it to a good end."""
    names = [f"job-{number}" for number in range(10)]
    sink.answer = lambda call: web.Response(status=500 if call.attempt == 1 else 200)
    async with replicas.one("--lease=3s") as still, Records(postgres_dsn, namespace) as records:
        sink.gate.clear()
        more = "  retry: {maxRetries: 0}\n"
        await create(api, namespace, [manifest(name, "after: 1s", curl(sink.url), more) for name in names])
        await sink.reached(lambda calls: len(calls) == len(names))
        async with replicas.one("--lease=3s"):
            still.send(signal.SIGSTOP)
            await sink.reached(lambda calls: len(calls) == 2 * len(names))
            sink.gate.set()
            runs = await records.until_ended(len(names))
            still.send(signal.SIGCONT)
            for name in names:
                assert (await still.said("a run was fenced", slug=f"{namespace}/{name}"))["why"]
                assert (await until_event(api, namespace, name, "OwnerLost"))["type"] == "Warning"
            assert await still.metric("scheduledjob_lease_losses_total") >= len(names)
        # It works on, and now its word counts.
        sink.answer = lambda _: web.Response()
        await still.ready()
        await create(api, namespace, [manifest("next", "after: 1s", curl(sink.url))])
        (*before, after) = await records.until_ended(len(names) + 1)
        assert (after.name, after.attempt, after.outcome) == ("next", 1, "Succeeded")
        assert before == runs
        assert [(run.outcome, run.attempt) for run in runs] == [("Succeeded", 2)] * len(names)
        states = await records.states()
        assert [(states[name].succeeded, states[name].failed) for name in names] == [(1, 0)] * len(names)
        for name in names:
            body = await until(api, namespace, name, lambda one: one["status"].get("lastOutcome"))
            assert body["status"]["lastOutcome"] == "Succeeded"
    calls = Counter((call.run_id, call.attempt) for call in sink.calls)
    assert set(calls.values()) == {1}
    assert len(calls) == 2 * len(names) + 1


@pytest.mark.slow
async def test_what_arrives_too_late_at_the_store_does_not_count(
    kubeconfig: Path, api: ApiClient, namespace: str, postgres_dsn: str, sink: Sink
) -> None:
    """A replica's writes are under way for so long that another has ended its runs when they arrive."""
    names = [f"job-{number}" for number in range(10)]
    sink.answer = lambda call: web.Response(status=500 if call.attempt == 1 and call.name in names else 200)
    async with LateLine(postgres_dsn) as line, Records(postgres_dsn, namespace) as records:
        late = Replicas(kubeconfig, namespace, line.dsn).one("--lease=3s")
        prompt = Replicas(kubeconfig, namespace, postgres_dsn).one("--lease=3s")
        async with late:
            await create(api, namespace, [manifest("first", "after: 1s", curl(sink.url))])
            await records.until_ended(1)
            sink.gate.clear()
            more = "  retry: {maxRetries: 0}\n"
            await create(api, namespace, [manifest(name, "after: 1s", curl(sink.url), more) for name in names])
            await sink.reached(lambda calls: len(calls) == 1 + len(names))
            async with prompt:
                line.hold()
                sink.gate.set()
                (_, *runs) = await records.until_ended(1 + len(names))
                line.deliver()
            await create(api, namespace, [manifest("last", "after: 1s", curl(sink.url))])
            (_, *before, _) = await records.until_ended(2 + len(names))
            states = await records.states()
    assert [(run.outcome, run.attempt) for run in runs] == [("Succeeded", 2)] * len(names)
    assert before == runs
    assert [(states[name].succeeded, states[name].failed) for name in names] == [(1, 0)] * len(names)
    assert set(Counter((call.run_id, call.attempt) for call in sink.calls).values()) == {1}


@pytest.mark.parametrize("shift", ["+1h", "-1h"])
async def test_a_wrong_clock_makes_nothing_early_or_late(
    shift: str, faketime: str, replicas: Replicas, api: ApiClient, namespace: str, postgres_dsn: str, sink: Sink
) -> None:
    wrong = {"LD_PRELOAD": faketime, "FAKETIME": shift, "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
    async with replicas.one(environment=wrong), Records(postgres_dsn, namespace) as records:
        begin = seconds_from_now(3)
        jobs = {
            "every": manifest("every", anchored(begin, 1), curl(sink.url), bounded(begin, 1, 5)),
            "cron": manifest("cron", 'cron: "* * * * * ?"', curl(sink.url), bounded(begin, 1, 5)),
            "after": manifest("after", "after: 3s", curl(sink.url)),
        }
        await create(api, namespace, jobs.values())
        await records.complete(list(jobs))
        runs = await records.ended()
        body = await until(api, namespace, "every", lambda one: "nextRunTime" not in one["status"])
    assert [run.slot for run in runs if run.name == "every"] == slots(begin, 1, 5)
    assert [run.slot for run in runs if run.name == "cron"] == slots(begin, 1, 5)
    assert len(sink.calls) == 11
    for call in sink.calls:
        late = came_at(call) - slot_of(call)
        assert 0 <= late < 60 * SECOND  # a wrong clock would make it an hour
    assert body["status"]["counters"]["succeeded"] == 5
    last = datetime.fromisoformat(body["status"]["lastSuccessTime"])
    assert 0 <= to_instant(last) - slots(begin, 1, 5)[-1] < 60 * SECOND


@pytest.mark.slow
async def test_a_replica_that_ends_hands_its_work_on(
    replicas: Replicas, api: ApiClient, namespace: str, postgres_dsn: str, sink: Sink
) -> None:
    """The lease is ten minutes, so another replica continues only what was released. Pods keep their attempt."""
    flags = ["--lease=10m", "--grace=2s"]
    names = [f"tick-{number}" for number in range(20)]
    async with replicas.one(*flags) as old, Records(postgres_dsn, namespace) as records:
        sink.gate.clear()
        await create(
            api,
            namespace,
            [manifest(f"long-{number}", "after: 1s", curl(sink.url)) for number in range(3)]
            + [manifest(f"pod-{number}", "after: 1s", CONTAINER) for number in range(3)],
        )
        await sink.reached(lambda calls: len(calls) == 3)
        pods = await _pods(api, namespace, 3)
        for pod in pods:
            await _report(api, namespace, pod, began())
        begin = seconds_from_now(3)
        await create(
            api,
            namespace,
            [manifest(name, anchored(begin, 1), PRINT, CATCH_UP + bounded(begin, 1, 10)) for name in names],
        )
        async with replicas.one(*flags) as new:
            await records.until_ended(2 * len(names))
            assert await old.stop() == 0
            await sink.reached(lambda calls: len(calls) == 6, "the second attempts")
            sink.gate.set()
            for pod in pods:
                await _report(api, namespace, pod, exited(0))
            others = [f"{kind}-{number}" for kind in ("long", "pod") for number in range(3)]
            states = await records.complete([*names, *others])
            runs = await records.ended()
            assert await new.metric("scheduledjob_attempts_adopted_total") == 3
            assert await _pods(api, namespace, 3) == pods
    for name in names:
        assert [run.slot for run in runs if run.name == name] == slots(begin, 1, 10)
        assert states[name].succeeded == 10
    ended = {run.name: (run.attempt, run.outcome) for run in runs}
    assert [ended[f"long-{number}"] for number in range(3)] == [(2, "Succeeded")] * 3
    assert [ended[f"pod-{number}"] for number in range(3)] == [(1, "Succeeded")] * 3
    assert len(sink.calls) == 6


@pytest.mark.slow
async def test_a_rolling_update_costs_no_attempt(
    replicas: Replicas, api: ApiClient, namespace: str, postgres_dsn: str, sink: Sink
) -> None:
    """Runs that end within the grace period are not begun twice, and what had not begun goes over as it was."""
    count = 12
    jobs = {f"print-{number}": PRINT for number in range(100)}
    jobs |= {f"curl-{number}": curl(sink.url) for number in range(20)}
    flags = ["--lease=10m", "--grace=5s"]
    async with replicas.one(*flags) as one, replicas.one(*flags) as two, Records(postgres_dsn, namespace) as records:
        begin = seconds_from_now(5)
        more = "  concurrencyPolicy: Allow\n" + CATCH_UP + bounded(begin, 1, count)
        await create(api, namespace, [manifest(name, anchored(begin, 1), job, more) for name, job in jobs.items()])
        await sink.reached(lambda calls: len(calls) >= 20)
        for replica in (one, two):
            assert await replica.stop() == 0
            await replica.start()
            await replica.ready()
        states = await records.complete(list(jobs))
        runs = await records.ended()
    assert {(run.outcome, run.attempt) for run in runs} == {("Succeeded", 1)}
    for name, state in states.items():
        assert [run.slot for run in runs if run.name == name] == slots(begin, 1, count)
        assert (state.succeeded, state.missed, state.skipped) == (count, 0, 0)
    assert len(sink.calls) == len({call.run_id for call in sink.calls}) == 20 * count
    assert len({run.replica for run in runs}) >= 2


@pytest.mark.slow
async def test_a_namespace_that_is_taken_off_the_list_is_left_and_comes_back(
    sjobs: Cluster, api: ApiClient, namespace: str, postgres_dsn: str, sink: Sink
) -> None:
    """Not while a replica lives that still has it on its list."""
    left = await sjobs.new_namespace()
    config = await granted(sjobs, f"operator-{namespace}", namespace, [namespace, left])
    shared = ["--inline-http-allow=127.0.0.1", f"--store={postgres_dsn}", "--sweep-interval=5s"]

    def replica(*namespaces: str) -> OperatorProcess:
        return OperatorProcess(config, namespace, f"--namespaces={','.join(namespaces)}", *shared)

    async with Records(postgres_dsn, left) as records:
        async with replica(namespace) as new:
            async with replica(namespace, left) as old:
                await create(api, left, [manifest("left", "every: 1s", curl(sink.url))])
                await create(api, namespace, [manifest("stays", "every: 1s", curl(sink.url))])
                await sink.reached(lambda _: len(sink.of("left")) >= 1)
                swept = await new.metric("scheduledjob_store_call_seconds_count", call="rows")
                await new.until_metric(
                    "scheduledjob_store_call_seconds_count", lambda count: count >= swept + 6, call="rows"
                )
                assert "left" in await records.states(), "the old one still watches it"
                assert await old.stop() == 0
            line = await new.said("deleting schedules of namespaces that are no longer watched")
            assert line["namespaces"] == [left]
            await records.until_gone("left")
            assert await new.metric("scheduledjob_swept_total") == 1
            ran = {call.slot for call in sink.of("left")}
            before = len(sink.of("stays"))
            await sink.reached(lambda _: len(sink.of("stays")) >= before + 3)
            assert {call.slot for call in sink.of("left")} == ran
            body = await read(api, left, "left")
        async with replica(namespace, left):
            await sink.reached(lambda _: len({call.slot for call in sink.of("left")}) >= len(ran) + 2)
            states = await records.states()
    assert len({call.slot for call in sink.of("left")}) == len({call.run_id for call in sink.of("left")})
    assert states["left"].succeeded > body["status"]["counters"]["succeeded"] >= 1, "it goes on from its status"


async def test_a_second_installation_for_the_same_namespaces_waits(
    replicas: Replicas, api: ApiClient, namespace: str, sink: Sink
) -> None:
    async with replicas.one("--instance=blue"):
        await create(api, namespace, [manifest("job", "every: 1s", curl(sink.url))])
        await sink.reached(lambda calls: len(calls) >= 1)
        green = replicas.one("--instance=green")
        await green.start()
        said = await green.said("waiting for another installation")
        assert "'blue'" in said["reason"]
        status, why = await green.fetch("/readyz")
        assert status == 503
        assert "peers: installation 'blue' in the same store serves" in why
        assert (await green.fetch("/healthz"))[0] == 200
        before = len(sink.calls)
        await sink.reached(lambda calls: len(calls) >= before + 3)
    ended = len(sink.calls)
    try:
        await green.ready()
        await sink.reached(lambda calls: len(calls) > ended + 1)
    finally:
        await green.stop()
    assert set(Counter((call.slot, call.attempt) for call in sink.calls).values()) == {1}


async def _pods(api: ApiClient, namespace: str, count: int) -> dict[str, str]:
    """Wait until there are so many Pods of the operator's; their uids by name."""
    pods: dict[str, str] = {}
    async with asyncio.timeout(PATIENCE):
        path = f"/api/v1/namespaces/{namespace}/pods"
        async for event in api.watch(path, labelSelector="scheduledjobs.dev/name"):
            metadata = event["object"]["metadata"]
            pods[metadata["name"]] = metadata["uid"]
            if len(pods) >= count:
                break
    return pods


async def _report(api: ApiClient, namespace: str, pod: str, status: dict[str, Any]) -> None:
    """Write a Pod's status, as its kubelet would."""
    await api.patch(f"/api/v1/namespaces/{namespace}/pods/{pod}/status", {"status": status})
