"""What the operator reports in metrics, Events, logs and status: no secret, and no more than its budget."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from scheduledjob.kube.report.events import WRITE_INTERVAL
from tests.cluster.e2e.operators import (
    OperatorProcess,
    change,
    curl,
    events,
    granted,
    is_so,
    manifest,
    recent,
    status_of,
    until,
    until_event,
)
from tests.cluster.e2e.records import everything_in
from tests.cluster.harness import SCHEDULED_JOBS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cluster.e2e.operators import Sink
    from tests.cluster.harness import ApiClient, Cluster

pytestmark = pytest.mark.cluster

NO_RETRY = "  retry: {maxRetries: 0}"
SECRET = "hunter2-of-the-tests"
NOTE = "correct-horse-of-the-tests"


async def test_metrics_move(
    operator: OperatorProcess, sjobs: Cluster, api: ApiClient, namespace: str, sink: Sink
) -> None:
    sink.answer = lambda call: web.Response(status=500 if call.name == "bad" else 200)
    await sjobs.apply(manifest("good", "every: 1s", curl(sink.url)), "-n", namespace)
    retry = "  retry: {maxRetries: 1, fixed: {intervals: [1s]}}\n  concurrencyPolicy: Forbid"
    await sjobs.apply(manifest("bad", "every: 1s", curl(sink.url), retry), "-n", namespace)
    await until(api, namespace, "good", lambda one: len(recent(one)) >= 2)
    await until(api, namespace, "bad", lambda one: status_of(one).get("counters", {}).get("skippedOverlap", 0) >= 1)
    assert await operator.metric("scheduledjob_runs_total", outcome="Succeeded", kind="curl") >= 2
    assert await operator.metric("scheduledjob_runs_total", outcome="Failed", kind="curl") >= 1
    assert await operator.metric("scheduledjob_retries_total") >= 1
    assert await operator.metric("scheduledjob_slots_passed_over_total", outcome="SkippedOverlap") >= 1
    started = await operator.metric("scheduledjob_attempts_started_total")
    assert await operator.metric("scheduledjob_start_lateness_seconds_count") >= started >= 4
    assert await operator.metric("scheduledjob_schedules") == 2
    writes = await operator.metric("scheduledjob_status_writes_total")
    assert writes >= 2
    assert await operator.metric("scheduledjob_api_requests_total", resource="scheduledjobs/status") >= writes
    assert await operator.metric("scheduledjob_events_total") >= 2
    assert await operator.metric("scheduledjob_reconciled_total") >= 2
    assert await operator.metric("scheduledjob_reconcile_errors_total") == 0
    _, text = await operator.fetch("/metrics")
    assert "good" not in text, "no label for a job"
    await api.delete(f"{SCHEDULED_JOBS}/namespaces/{namespace}/scheduledjobs/good")
    before = len(sink.of("bad"))
    await sink.reached(lambda _: len(sink.of("bad")) >= before + 2)
    await operator.until_metric("scheduledjob_schedules", lambda count: count == 1)


async def test_gauges_tell_what_a_replica_has_in_its_hands(
    operator: OperatorProcess, sjobs: Cluster, api: ApiClient, namespace: str, sink: Sink
) -> None:
    sink.gate.clear()
    queue = "  concurrencyPolicy: Queue\n  queueDepth: 2"
    await sjobs.apply(manifest("queues", "every: 1s", curl(sink.url), queue), "-n", namespace)
    await operator.until_metric("scheduledjob_queued_runs", lambda count: count == 2)
    assert await operator.metric("scheduledjob_active_runs", where="inline") == 1
    assert await operator.metric("scheduledjob_held_schedules") == 1
    await sjobs.apply(manifest("soon", "every: 1s", "{custom: {kind: print}}"), "-n", namespace)
    await operator.until_metric("scheduledjob_claimed_ahead", lambda count: count == 1)
    await sjobs.apply(manifest("pod", "after: 0s", "{container: {image: localhost/x}}"), "-n", namespace)
    await operator.until_metric("scheduledjob_active_runs", lambda count: count == 1, where="pod")
    await operator.until_metric("scheduledjob_watch_restarts_total", lambda count: count == 0, resource="pods")
    for call in ("claim", "settle", "reconcile", "history"):
        assert await operator.metric("scheduledjob_store_call_seconds_count", call=call) >= 1, call
        assert await operator.metric("scheduledjob_store_errors_total", call=call) == 0, call
    assert await operator.metric("scheduledjob_api_requests_total", verb="create", resource="pods", code="201") == 1
    assert await operator.metric("scheduledjob_api_requests_total", verb="watch", code="200") >= 2
    for name in ("queues", "pod", "soon"):
        await change(api, namespace, name, {"suspend": True})
    sink.gate.set()
    await operator.until_metric("scheduledjob_queued_runs", lambda count: count == 0)
    await operator.until_metric("scheduledjob_active_runs", lambda count: count == 0, where="inline")
    await operator.until_metric("scheduledjob_claimed_ahead", lambda count: count == 0)
    await operator.until_metric("scheduledjob_status_dirty", lambda count: count == 0)


async def test_a_restart_without_news_writes_no_status(
    operator: OperatorProcess, sjobs: Cluster, api: ApiClient, namespace: str
) -> None:
    names = [f"n{number}" for number in range(20)]
    text = "\n".join(manifest(name, "cron: '@yearly'", "{custom: {kind: print}}") for name in names)
    await sjobs.apply(text, "-n", namespace)
    for name in names:
        await until(api, namespace, name, is_so("Ready"))
    assert await operator.stop() == 0
    await operator.start()
    await operator.ready()
    await operator.until_metric("scheduledjob_store_call_seconds_count", lambda count: count >= 1, call="get")  # sweeps
    await operator.until_metric("scheduledjob_status_dirty", lambda count: count == 0)
    assert await operator.metric("scheduledjob_schedules") == len(names)
    assert await operator.metric("scheduledjob_api_requests_total", resource="scheduledjobs/status") == 0


async def test_since_when_it_runs_is_told_during_its_first_attempt(
    operator: OperatorProcess, sjobs: Cluster, api: ApiClient, namespace: str, sink: Sink
) -> None:
    sink.gate.clear()
    await sjobs.apply(manifest("long", "after: 1s", curl(sink.url), NO_RETRY), "-n", namespace)
    body = await until(api, namespace, "long", lambda one: "started" in str(status_of(one).get("active")))
    (active,) = status_of(body)["active"]
    assert active["attempt"] == 1
    assert datetime.fromisoformat(active["slot"]) <= datetime.fromisoformat(active["started"])
    sink.gate.set()
    body = await until(api, namespace, "long", lambda one: len(recent(one)) == 1)
    assert recent(body)[0]["started"] == active["started"]


@pytest.mark.slow
async def test_a_job_that_fails_every_second_makes_one_series_of_events(
    operator: OperatorProcess, sjobs: Cluster, api: ApiClient, namespace: str, sink: Sink
) -> None:
    sink.answer = lambda _: web.Response(status=500)
    await sjobs.apply(manifest("failing", "every: 1s", curl(sink.url), NO_RETRY), "-n", namespace)
    first = await until_event(api, namespace, "failing", "Failed")
    assert first["type"] == "Warning"
    assert "500" in first["message"]
    path = f"/api/v1/namespaces/{namespace}/events"
    async with asyncio.timeout(3 * WRITE_INTERVAL):
        async for seen in api.watch(path, fieldSelector="reason=Failed", resourceVersion="0"):
            if (seen["object"].get("series") or {}).get("count", 0) >= 5:
                break
    assert len(await events(api, namespace, "failing", "Failed")) == 1
    assert await operator.metric("scheduledjob_events_total") <= 3
    shown = await sjobs.kubectl("describe", "sjob", "failing", "-n", namespace)
    assert "Failed" in shown.stdout.partition("Events:")[2]


async def test_secrets_are_told_to_nobody(
    sjobs: Cluster, api: ApiClient, namespace: str, sink: Sink, postgres_dsn: str
) -> None:
    sink.answer = lambda call: web.Response(
        status=500, text=f"no: {call.headers.get('Authorization', '')} {call.body.decode()}"
    )
    config = await granted(
        sjobs, f"operator-{namespace}", namespace, [namespace], parts=("watched", "own", "cluster", "secrets")
    )
    literals = [f"--from-literal=token={SECRET}", f"--from-literal=note={NOTE}"]
    await sjobs.kubectl("create", "secret", "generic", "login", *literals, "-n", namespace)
    token, note = "{secretKeyRef: {name: login, key: token}}", "{secretKeyRef: {name: login, key: note}}"
    job = f"{{curl: {{url: {sink.url}, method: POST, auth: {{bearer: {token}}}}}}}"
    more = f"  payloadFrom: {note}\n{NO_RETRY}"
    hook = f"  onFailure: [{curl(f'{sink.url}/hook')}]"
    flags = [f"--namespaces={namespace}", "--inline-http-allow=127.0.0.1", "--log-level=debug"]
    environment = {"SJOB_STORE": postgres_dsn}
    async with OperatorProcess(config, namespace, *flags, environment=environment) as operator:
        await sjobs.apply(manifest("leaky", "every: 1s", job, f"{more}\n{hook}"), "-n", namespace)
        await sjobs.apply(manifest("prints", "after: 0s", "{custom: {kind: print}}", more), "-n", namespace)
        body = await until(api, namespace, "leaky", lambda one: len(recent(one)) >= 2)
        (call, *_) = sink.of("leaky")
        assert call.headers["Authorization"] == f"Bearer {SECRET}", "the job has it"
        assert call.body == NOTE.encode()
        await until_event(api, namespace, "leaky", "Failed")
        assert recent(body)[0]["output"] == "no: Bearer *** ***"
        printed = await until(api, namespace, "prints", recent)
        assert (await operator.said("printed"))["text"].endswith("/prints ***\n")
        _, metrics = await operator.fetch("/metrics")
        reports = {
            "status": json.dumps([body["status"], printed["status"]]),
            "events": json.dumps(await api.list(f"/api/v1/namespaces/{namespace}/events")),
            "metrics": metrics,
            "hooks": str([one.body for one in sink.calls if one.path == "/hook"]),
            "store": await everything_in(postgres_dsn),
        }
    reports["log"] = json.dumps(operator.lines)
    assert "leaky" in reports["store"]
    assert [where for where, text in reports.items() if SECRET in text or NOTE in text] == []


async def test_a_secret_that_is_missing_or_not_allowed_is_named(
    operator: OperatorProcess, sjobs: Cluster, api: ApiClient, namespace: str, sink: Sink
) -> None:
    reference = "{secretKeyRef: {name: login, key: token}}"
    more = f"  payloadFrom: {reference}\n{NO_RETRY}"
    await sjobs.apply(manifest("poor", "after: 0s", curl(sink.url), more), "-n", namespace)
    body = await until(api, namespace, "poor", recent)
    (run,) = recent(body)
    assert run["outcome"] == "Failed"
    assert "login" in run["reason"]
    assert is_so("Ready")(body)
    assert sink.calls == []
    assert operator.pid


@pytest.mark.slow
async def test_status_keeps_to_its_budget_and_is_true_after_the_storm(
    sjobs: Cluster, api: ApiClient, kubeconfig: Path, namespace: str, sink: Sink
) -> None:
    budget, many = 5, 50
    text = "\n".join(manifest(f"n{number}", "every: 1s", curl(sink.url)) for number in range(many))
    await sjobs.apply(text, "-n", namespace)
    flags = [f"--namespaces={namespace}", "--inline-http-allow=127.0.0.1", f"--status-budget={budget}"]
    loop = asyncio.get_running_loop()
    async with OperatorProcess(kubeconfig, namespace, *flags) as operator:

        async def writes() -> float:
            return await operator.metric("scheduledjob_api_requests_total", verb="patch") + (
                await operator.metric("scheduledjob_api_requests_total", verb="create")
            )

        await sink.reached(lambda calls: len(calls) >= many)
        began = loop.time()
        before = await writes()
        await sink.reached(lambda calls: len(calls) >= 12 * many)
        after = await writes()
        ended = loop.time()
        renewals = 2  # of the Lease
        assert after - before <= budget * (ended - began) + budget + renewals
        assert after - before >= budget * (ended - began) / 2, "and makes use of it"
        for number in range(many):
            await change(api, namespace, f"n{number}", {"suspend": True})
        for number in range(many):
            name = f"n{number}"
            body = await until(api, namespace, name, _quiet_with(sink, name), f"the true status of {name}")
            assert status_of(body)["activeCount"] == 0


def _quiet_with(sink: Sink, name: str) -> Callable[[dict[str, Any]], bool]:
    """For `until`: whether it is suspended, and has counted every call."""
    return lambda body: is_so("Suspended")(body) and status_of(body)["counters"]["succeeded"] == len(sink.of(name))
