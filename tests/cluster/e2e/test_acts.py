"""What people ask for by annotation, and jobs that follow others: through the API server alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from tests.cluster.e2e.operators import (
    annotate,
    change,
    curl,
    is_so,
    manifest,
    recent,
    status_of,
    until,
    until_event,
)

if TYPE_CHECKING:
    from tests.cluster.e2e.operators import OperatorProcess, Sink
    from tests.cluster.harness import ApiClient, Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("operator")]

NEVER = "cron: '@yearly'"
NO_RETRY = "  retry: {maxRetries: 0}"


def handled(kind: str, token: str) -> Any:
    """For ``until``: whether that token stands in status."""
    return lambda body: token in ((status_of(body).get("handled") or {}).get(kind) or [])


def outcomes(body: dict[str, Any]) -> list[tuple[str, str]]:
    return [(run["outcome"], run.get("token", "")) for run in recent(body)]


async def test_run_now_runs_once_with_its_payload(
    operator: OperatorProcess, sjobs: Cluster, api: ApiClient, namespace: str, sink: Sink
) -> None:
    job = f"{{curl: {{url: {sink.url}, method: POST}}}}"
    await sjobs.apply(manifest("manual", NEVER, job, "  payload: usual\n  maxRuns: 1"), "-n", namespace)
    before = await until(api, namespace, "manual", is_so("Ready"))
    await annotate(api, namespace, "manual", run_now="first", run_now_payload="special")
    body = await until(api, namespace, "manual", handled("runNow", "first"))
    await sink.reached(lambda calls: len(calls) == 1)
    body = await until(api, namespace, "manual", recent)
    (call,) = sink.calls
    assert call.body == b"special"
    assert call.run_id == f"{body['metadata']['uid']}-first"
    assert outcomes(body) == [("Succeeded", "first")]
    assert status_of(body)["floor"] == status_of(before)["floor"], "a manual run decides no slot"
    assert status_of(body)["counters"]["started"] == 0, "maxRuns does not count it"

    # The same token again, beside another annotation, and after a restart, asks for nothing new.
    await api.patch(
        f"/apis/scheduledjobs.dev/v1beta1/namespaces/{namespace}/scheduledjobs/manual",
        {"metadata": {"annotations": {"other": "one", "scheduledjobs.dev/run-now-payload": None}}},
    )
    assert await operator.stop() == 0
    await operator.start()
    await operator.ready()
    await annotate(api, namespace, "manual", run_now="second")
    await until(api, namespace, "manual", handled("runNow", "second"))
    await sink.reached(lambda calls: len(calls) == 2)
    assert [call.body for call in sink.calls] == [b"special", b"usual"]
    assert sink.calls[1].run_id.endswith("-second")


async def test_run_now_works_while_it_is_suspended(sjobs: Cluster, api: ApiClient, namespace: str, sink: Sink) -> None:
    await sjobs.apply(manifest("paused", "every: 1s", curl(sink.url), "  suspend: true"), "-n", namespace)
    await until(api, namespace, "paused", is_so("Suspended"))
    await annotate(api, namespace, "paused", run_now="please")
    body = await until(api, namespace, "paused", recent)
    assert outcomes(body) == [("Succeeded", "please")]
    assert len(sink.calls) == 1


async def test_run_now_while_another_run_is_active_is_skipped_and_said(
    sjobs: Cluster, api: ApiClient, namespace: str, sink: Sink
) -> None:
    sink.gate.clear()
    await sjobs.apply(manifest("busy", NEVER, curl(sink.url)), "-n", namespace)
    await annotate(api, namespace, "busy", run_now="one")
    await sink.reached(lambda calls: len(calls) == 1)
    await annotate(api, namespace, "busy", run_now="two")
    body = await until(api, namespace, "busy", handled("runNow", "two"))
    body = await until(api, namespace, "busy", recent)
    assert outcomes(body) == [("SkippedOverlap", "two")]
    assert "Forbid" in recent(body)[0]["reason"]
    await until_event(api, namespace, "busy", "SkippedOverlap")
    sink.gate.set()
    body = await until(api, namespace, "busy", lambda one: len(recent(one)) == 2)
    assert outcomes(body) == [("Succeeded", "one"), ("SkippedOverlap", "two")]
    assert len(sink.calls) == 1


async def test_a_running_run_is_cancelled(sjobs: Cluster, api: ApiClient, namespace: str, sink: Sink) -> None:
    sink.gate.clear()
    hook = f"  onFailure: [{curl(sink.url)}]"
    await sjobs.apply(manifest("long", "after: 0s", curl(sink.url), hook), "-n", namespace)
    await sink.reached(lambda calls: len(calls) == 1)
    body = await until(api, namespace, "long", lambda one: status_of(one).get("active"))
    (active,) = status_of(body)["active"]
    assert active["runID"] == sink.calls[0].run_id
    assert "due" not in active
    await annotate(api, namespace, "long", cancel=active["runID"])
    await sink.reached(lambda _: len(sink.dropped) == 1, "the end of the call")
    body = await until(api, namespace, "long", recent)
    assert outcomes(body) == [("Cancelled", "")]
    assert status_of(body)["handled"]["cancel"] == [active["runID"]]
    assert status_of(body)["counters"]["cancelled"] == 1
    assert len(sink.calls) == 1, "cancelled is no failure: no retry, no hook"


async def test_a_run_in_backoff_is_shown_and_cancelled(
    sjobs: Cluster, api: ApiClient, namespace: str, sink: Sink
) -> None:
    sink.answer = lambda _: web.Response(status=500)
    retry = "  retry: {maxRetries: 5, fixed: {intervals: [1h]}}"
    await sjobs.apply(manifest("waits", "after: 0s", curl(sink.url), retry), "-n", namespace)
    body = await until(
        api, namespace, "waits", lambda one: any("due" in run for run in status_of(one).get("active") or ())
    )
    (active,) = status_of(body)["active"]
    assert active["attempt"] == 2
    await annotate(api, namespace, "waits", cancel=active["runID"])
    body = await until(api, namespace, "waits", recent)
    assert outcomes(body) == [("Cancelled", "")]
    assert status_of(body)["activeCount"] == 0


async def test_what_is_asked_for_wrongly_is_said_in_an_event(
    sjobs: Cluster, api: ApiClient, namespace: str, sink: Sink
) -> None:
    await sjobs.apply(manifest("manual", NEVER, curl(sink.url)), "-n", namespace)
    await annotate(api, namespace, "manual", run_now="t" * 300)

    event = await until_event(api, namespace, "manual", "ActRefused")
    assert "253 characters" in event["message"]
    await annotate(api, namespace, "manual", run_now="short")
    await until(api, namespace, "manual", handled("runNow", "short"))
    await sink.reached(lambda calls: len(calls) == 1)


async def test_a_chain_of_three_and_one_that_waits_for_failure(
    sjobs: Cluster, api: ApiClient, namespace: str, sink: Sink
) -> None:
    sink.answer = lambda call: web.Response(status=500 if call.name == "second" and call.body == b"bad" else 200)

    def following(name: str, outcome: str = "") -> str:
        more = f", outcome: {outcome}" if outcome else ""
        return f"following: {{name: {name}{more}}}"

    post = f"{{curl: {{url: {sink.url}, method: POST}}}}"
    # Followers come before what they follow, and after it.
    await sjobs.apply(manifest("third", following("second"), post), "-n", namespace)
    await sjobs.apply(manifest("alarm", following("second", "Failed"), post), "-n", namespace)
    for name in ("third", "alarm"):
        await until(api, namespace, name, is_so("Ready", reason="Scheduled"))
    await sjobs.apply(manifest("first", NEVER, post), "-n", namespace)
    await sjobs.apply(manifest("second", following("first"), post, f"  payload: good\n{NO_RETRY}"), "-n", namespace)
    await until(api, namespace, "second", is_so("Ready"))
    await annotate(api, namespace, "first", run_now="one")
    await sink.reached(lambda calls: len(calls) == 3)
    assert [call.name for call in sink.calls] == ["first", "second", "third"]
    upstream = await until(api, namespace, "second", recent)
    third = await until(api, namespace, "third", recent)
    assert recent(third)[0]["slot"] == recent(upstream)[0]["finished"]

    await change(api, namespace, "second", {"payload": "bad"})
    await until(api, namespace, "second", is_so("Ready"))
    await annotate(api, namespace, "first", run_now="two")
    await sink.reached(lambda calls: len(calls) == 6)
    assert [call.name for call in sink.calls[3:]] == ["first", "second", "alarm"]
