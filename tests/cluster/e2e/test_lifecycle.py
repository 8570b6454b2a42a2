"""A ScheduledJob from its creation to its deletion, with the store in memory and in Postgres."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from tests.cluster.e2e.operators import (
    OperatorProcess,
    annotate,
    change,
    condition,
    curl,
    events,
    granted,
    is_so,
    manifest,
    read,
    recent,
    status_of,
    until,
    until_event,
)
from tests.cluster.harness import SCHEDULED_JOBS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.cluster.e2e.operators import Sink
    from tests.cluster.harness import ApiClient, Cluster

pytestmark = pytest.mark.cluster

NO_RETRY = "  retry: {maxRetries: 0}"


@pytest.fixture(params=["memory", "postgres"])
async def operator(request: pytest.FixtureRequest, kubeconfig: Path, namespace: str) -> AsyncIterator[OperatorProcess]:
    store = "memory:" if request.param == "memory" else request.getfixturevalue("postgres_dsn")
    flags = [f"--namespaces={namespace}", f"--store={store}", "--inline-http-allow=127.0.0.1", "--sweep-interval=1h"]
    async with OperatorProcess(kubeconfig, namespace, *flags) as operator:
        yield operator


in_memory = pytest.mark.parametrize("operator", ["memory"], indirect=True)
"""For what the engine does, whatever its store is."""


def failing(_: object) -> web.Response:
    return web.Response(status=500, text="no")


def slots_of(sink: Sink, name: str) -> list[datetime]:
    return [datetime.fromisoformat(call.slot) for call in sink.of(name)]


def counters(body: dict[str, Any]) -> dict[str, int]:
    found: dict[str, int] = status_of(body)["counters"]
    return found


async def test_an_applied_job_runs_and_its_status_tells_of_it(
    operator: OperatorProcess, sjobs: Cluster, api: ApiClient, namespace: str, sink: Sink
) -> None:
    await sjobs.apply(manifest("ping", "every: 1s", curl(sink.url)), "-n", namespace)
    await sink.reached(lambda calls: len(calls) >= 3)
    body = await until(
        api, namespace, "ping", lambda one: "counters" in status_of(one) and counters(one)["succeeded"] >= 3
    )
    slots = slots_of(sink, "ping")
    assert len(set(slots)) == len(slots)
    assert condition(body, "Ready")["status"] == "True"
    assert condition(body, "LastRunSucceeded")["status"] == "True"
    assert body["status"]["counters"]["succeeded"] >= 3
    assert body["status"]["lastOutcome"] == "Succeeded"
    runs = {run["runID"]: run for run in recent(body)}
    assert {call.run_id for call in sink.of("ping")} & set(runs)
    assert all(run["code"] == 200 and run["attempt"] == 1 for run in runs.values())
    assert operator.pid
    shown = await sjobs.kubectl("get", "sjob", "ping", "-n", namespace)
    assert "every 1s" in shown.stdout


async def test_an_edit_of_its_triggers_replays_nothing(
    operator: OperatorProcess, sjobs: Cluster, api: ApiClient, namespace: str, sink: Sink
) -> None:
    more = "  misfire: {catchUp: All, maxCatchUp: 5}"
    await sjobs.apply(manifest("witness", "every: 1s", curl(sink.url)), "-n", namespace)
    await sjobs.apply(manifest("edited", "cron: '@yearly'", curl(sink.url), more), "-n", namespace)
    await until(api, namespace, "edited", is_so("Ready"))
    await sink.reached(lambda calls: len(calls) >= 3)
    before = datetime.now(UTC)
    await change(api, namespace, "edited", {"triggers": [{"every": "1s"}]})
    await sink.reached(lambda _: len(sink.of("edited")) >= 2)
    assert min(slots_of(sink, "edited")) > before
    body = await until(api, namespace, "edited", is_so("Ready"))
    assert counters(body)["missed"] == 0
    assert status_of(body)["observedGeneration"] == 2
    assert operator.pid


async def test_a_suspended_job_lets_its_run_finish_and_resumed_replays_nothing(
    operator: OperatorProcess, sjobs: Cluster, api: ApiClient, namespace: str, sink: Sink
) -> None:
    more = "  misfire: {catchUp: All, maxCatchUp: 5}"
    sink.gate.clear()
    await sjobs.apply(manifest("paused", "every: 1s", curl(sink.url), more), "-n", namespace)
    await sink.reached(lambda calls: len(calls) == 1)
    await change(api, namespace, "paused", {"suspend": True})
    body = await until(api, namespace, "paused", is_so("Suspended"))
    assert status_of(body)["activeCount"] == 1
    assert status_of(body)["nextRun"] == "suspended"
    assert condition(body, "Ready")["status"] == "True"
    sink.gate.set()
    body = await until(api, namespace, "paused", recent)
    assert [run["outcome"] for run in recent(body)] == ["Succeeded"]
    await sjobs.apply(manifest("witness", "every: 1s", curl(sink.url)), "-n", namespace)
    await sink.reached(lambda _: len(sink.of("witness")) >= 3)
    assert len(sink.of("paused")) == 1
    before = datetime.now(UTC)
    await change(api, namespace, "paused", {"suspend": False})
    await sink.reached(lambda _: len(sink.of("paused")) >= 3)
    assert min(slots_of(sink, "paused")[1:]) > before
    body = await until(api, namespace, "paused", is_so("Suspended", "False"))
    assert counters(body)["missed"] == 0
    assert operator.pid


async def test_deleting_ends_it_while_it_runs(
    operator: OperatorProcess, sjobs: Cluster, api: ApiClient, namespace: str, sink: Sink
) -> None:
    sink.gate.clear()
    await sjobs.apply(manifest("long", "every: 1s", curl(sink.url)), "-n", namespace)
    await sink.reached(lambda calls: len(calls) == 1)
    await api.delete(f"{SCHEDULED_JOBS}/namespaces/{namespace}/scheduledjobs/long")
    await sink.reached(lambda _: len(sink.dropped) == 1, "the end of the call")
    sink.gate.set()
    await sjobs.apply(manifest("long", "every: 1s", curl(sink.url)), "-n", namespace)
    await sink.reached(lambda calls: len({call.run_id.rpartition("-")[0] for call in calls}) == 2)
    body = await until(api, namespace, "long", recent)
    assert body["metadata"]["generation"] == 1
    assert {run["runID"].rpartition("-")[0] for run in recent(body)} == {body["metadata"]["uid"]}
    assert await operator.metric("scheduledjob_lease_losses_total") == 0, "a deletion is none"
    assert await events(api, namespace, "long", "OwnerLost") == []


async def test_what_is_left_when_the_operator_is_gone_can_be_deleted(
    operator: OperatorProcess, sjobs: Cluster, api: ApiClient, namespace: str, sink: Sink
) -> None:
    for number in range(5):
        await sjobs.apply(manifest(f"n{number}", "every: 1s", curl(sink.url)), "-n", namespace)
    await sink.reached(lambda calls: len({call.name for call in calls}) == 5)
    assert await operator.stop() == 0
    path = f"{SCHEDULED_JOBS}/namespaces/{namespace}/scheduledjobs"
    for body in await api.list(path):
        assert not {"finalizers", "annotations", "labels"} & body["metadata"].keys()
    await sjobs.kubectl("delete", "sjob", "--all", "-n", namespace, "--wait", "--timeout=20s")
    assert await api.list(path) == []


@pytest.mark.slow
async def test_a_namespace_that_is_deleted_goes_while_its_jobs_run(
    sjobs: Cluster, api: ApiClient, namespace: str, sink: Sink
) -> None:
    doomed = await sjobs.new_namespace()
    config = await granted(sjobs, f"operator-{namespace}", namespace, [doomed, namespace])
    flags = [f"--namespaces={doomed},{namespace}", "--inline-http-allow=127.0.0.1", "--sweep-interval=1h"]
    async with OperatorProcess(config, namespace, *flags) as operator:
        sink.gate.clear()
        await sjobs.apply(manifest("doomed", "every: 1s", curl(sink.url)), "-n", doomed)
        await sink.reached(lambda calls: len(calls) == 1)
        async with asyncio.timeout(60):
            await sjobs.kubectl("delete", "namespace", doomed, "--wait", "--timeout=50s")
        await sink.reached(lambda _: len(sink.dropped) == 1, "the end of the call")
        sink.gate.set()
        await sjobs.apply(manifest("other", "every: 1s", curl(sink.url)), "-n", namespace)
        await sink.reached(lambda _: len(sink.of("other")) >= 2)
        assert len(sink.of("doomed")) == 1
        await until(api, namespace, "other", recent)
        assert operator.pid


@in_memory
async def test_what_is_done_stays_done(
    operator: OperatorProcess, sjobs: Cluster, api: ApiClient, namespace: str, sink: Sink
) -> None:
    def answer(call: Any) -> web.Response:
        return web.Response(status=410 if call.name == "told" and len(sink.of("told")) == 2 else 200)

    sink.answer = answer
    at = (datetime.now(UTC) + timedelta(seconds=2)).isoformat()
    documents = [
        manifest("at", f'at: "{at}"', curl(sink.url)),
        manifest("after", "after: 1s", curl(sink.url)),
        manifest("counted", "every: 1s", curl(sink.url), "  maxRuns: 2"),
        manifest("told", "every: 1s", curl(sink.url), "  completeOn: {httpStatus: [410]}"),
    ]
    await sjobs.apply("\n".join(documents), "-n", namespace)
    for name in ("at", "after", "counted", "told"):
        body = await until(api, namespace, name, is_so("Ready", reason="Completed"), f"the completion of {name}")
        assert status_of(body)["nextRun"] == "completed"
        assert status_of(body).get("nextRunTime") is None
        assert condition(body, "Stalled")["status"] == "False"
        assert condition(body, "LastRunSucceeded")["status"] == "True"
        await until_event(api, namespace, name, "Completed")
    assert await operator.stop() == 0
    await operator.start()
    await operator.ready()
    await sjobs.apply(manifest("witness", "every: 1s", curl(sink.url)), "-n", namespace)
    await sink.reached(lambda _: len(sink.of("witness")) >= 2)
    assert {name: len(sink.of(name)) for name in ("at", "after", "counted", "told")} == {
        "at": 1,
        "after": 1,
        "counted": 2,
        "told": 2,
    }


async def test_it_pauses_itself_and_goes_on_when_it_is_resumed_or_edited(
    operator: OperatorProcess, sjobs: Cluster, api: ApiClient, namespace: str, sink: Sink
) -> None:
    sink.answer = failing
    more = f"  pauseAfterFailures: 2\n{NO_RETRY}"
    await sjobs.apply(manifest("fragile", "every: 1s", curl(sink.url), more), "-n", namespace)
    body = await until(api, namespace, "fragile", is_so("Suspended", reason="AutoPaused"))
    assert status_of(body)["nextRun"] == "paused"
    assert condition(body, "Ready")["status"] == "True"
    assert "500" in condition(body, "LastRunSucceeded")["message"]
    event = await until_event(api, namespace, "fragile", "AutoPaused")
    assert event["type"] == "Warning"
    assert len(sink.of("fragile")) == 2

    resumed = datetime.now(UTC)
    await annotate(api, namespace, "fragile", resume="one")
    await sink.reached(lambda _: len(sink.of("fragile")) == 4)
    body = await until(
        api,
        namespace,
        "fragile",
        lambda one: counters(one)["failed"] == 4 and is_so("Suspended", reason="AutoPaused")(one),
    )
    assert status_of(body)["handled"]["resume"] == ["one"]
    assert min(slots_of(sink, "fragile")[2:]) > resumed

    sink.answer = lambda _: web.Response()
    edited = datetime.now(UTC)
    await change(api, namespace, "fragile", {"payload": "new"})
    await sink.reached(lambda _: len(sink.of("fragile")) >= 5)
    assert slots_of(sink, "fragile")[4] > edited
    await until(api, namespace, "fragile", is_so("Suspended", "False"))
    assert operator.pid


async def test_a_job_without_success_is_overdue_until_it_succeeds(
    operator: OperatorProcess, sjobs: Cluster, api: ApiClient, namespace: str, sink: Sink
) -> None:
    sink.answer = lambda call: web.Response(status=500 if call.path == "/job" else 200)
    more = f"  expectSuccessWithin: 2s\n  onFailure: [{curl(f'{sink.url}/alarm')}]\n{NO_RETRY}"
    await sjobs.apply(manifest("dead", "every: 1s", curl(f"{sink.url}/job"), more), "-n", namespace)
    body = await until(api, namespace, "dead", is_so("Overdue"))
    assert condition(body, "Ready")["status"] == "True"
    await until_event(api, namespace, "dead", "Overdue")
    await sink.reached(lambda calls: any(b"Overdue" in call.body for call in calls if call.path == "/alarm"))
    await operator.until_metric("scheduledjob_overdue_schedules", lambda count: count == 1)
    sink.answer = lambda _: web.Response()
    await until(api, namespace, "dead", is_so("Overdue", "False"))
    await operator.until_metric("scheduledjob_overdue_schedules", lambda count: count == 0)


@in_memory
async def test_hooks_are_called_once_after_the_last_retry(
    operator: OperatorProcess, sjobs: Cluster, api: ApiClient, namespace: str, sink: Sink
) -> None:
    sink.answer = lambda call: web.Response(status=500 if call.path == "/bad" else 200)
    hooks = f"  onFailure: [{curl(f'{sink.url}/failed')}]\n  onSuccess: [{curl(f'{sink.url}/succeeded')}]"
    retry = "  retry: {maxRetries: 2, fixed: {intervals: [1s]}}"
    await sjobs.apply(manifest("bad", "after: 0s", curl(f"{sink.url}/bad"), f"{hooks}\n{retry}"), "-n", namespace)
    await sjobs.apply(manifest("good", "after: 0s", curl(f"{sink.url}/good"), hooks), "-n", namespace)
    for name in ("bad", "good"):
        await until(api, namespace, name, is_so("Ready", reason="Completed"))
    assert [(call.path, call.attempt) for call in sink.of("bad")] == [
        ("/bad", 1),
        ("/bad", 2),
        ("/bad", 3),
        ("/failed", 3),
    ]
    assert [call.path for call in sink.of("good")] == ["/good", "/succeeded"]
    assert b'"outcome":"Failed"' in sink.of("bad")[-1].body
    assert operator.pid


async def test_every_slot_is_accounted_for_across_a_restart(
    operator: OperatorProcess, sjobs: Cluster, api: ApiClient, namespace: str, sink: Sink
) -> None:
    await sjobs.apply(manifest("counted", "every: 1s", curl(sink.url), "  misfire: {catchUp: Last}"), "-n", namespace)
    await sink.reached(lambda calls: len(calls) >= 2)
    assert await operator.stop() == 0
    body = await read(api, namespace, "counted")
    last = datetime.fromisoformat(status_of(body)["lastScheduleTime"])
    await asyncio.sleep(4 - (datetime.now(UTC) - last).total_seconds())  # slots are missed by time alone
    await operator.start()
    await operator.ready()
    began = len(sink.calls)
    await sink.reached(lambda calls: len(calls) >= began + 2)
    await change(api, namespace, "counted", {"suspend": True})
    body = await until(api, namespace, "counted", lambda one: is_so("Suspended")(one) and not status_of(one)["active"])
    created = datetime.fromisoformat(body["metadata"]["creationTimestamp"])
    newest = datetime.fromisoformat(status_of(body)["lastScheduleTime"])
    count = counters(body)
    assert count["missed"] >= 2
    assert (await until_event(api, namespace, "counted", "Missed"))["type"] == "Warning"
    assert count["started"] == count["succeeded"] == len(sink.calls)
    decided = count["started"] + count["missed"] + count["skippedOverlap"]
    assert decided == (newest - created).total_seconds(), count
    assert len({call.slot for call in sink.calls}) == len(sink.calls)


@in_memory
async def test_history_is_as_long_as_the_spec_says(
    operator: OperatorProcess, sjobs: Cluster, api: ApiClient, namespace: str, sink: Sink
) -> None:
    sink.answer = lambda call: web.Response(status=500 if len(sink.calls) == 3 else 200)
    more = f"  history: {{succeeded: 2, failed: 1}}\n  maxRuns: 6\n{NO_RETRY}"
    await sjobs.apply(manifest("short", "every: 1s", curl(sink.url), more), "-n", namespace)
    body = await until(api, namespace, "short", is_so("Ready", reason="Completed"))
    kept = [call.slot for call in (sink.calls[5], sink.calls[4], sink.calls[2])]
    assert counters(body)["succeeded"] == 5

    assert [datetime.fromisoformat(run["slot"]) for run in recent(body)] == [
        datetime.fromisoformat(slot) for slot in kept
    ]
    assert operator.pid
