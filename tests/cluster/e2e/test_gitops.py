"""What tools that apply manifests rely on: only status is written, and its conditions are right."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.e2e.operators import (
    change,
    condition,
    curl,
    is_so,
    manifest,
    read,
    recent,
    status_of,
    until,
    until_event,
)

if TYPE_CHECKING:
    from tests.cluster.e2e.operators import OperatorProcess, Sink
    from tests.cluster.harness import ApiClient, Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("operator")]

WRONG = {"triggers": [{"cron": "@daily", "timeZone": "Europe/Nowhere"}]}
"""The CRD accepts it: it has the form of a time zone, but does not exist."""


def owned(body: dict[str, Any], manager: str) -> list[dict[str, Any]]:
    return [one for one in body["metadata"]["managedFields"] if one["manager"] == manager]


async def test_applying_twice_changes_nothing(sjobs: Cluster, api: ApiClient, namespace: str, sink: Sink) -> None:
    text = manifest("steady", "every: 1s", curl(sink.url), "  retry: {}\n  misfire: {}\n  history: {succeeded: 3}")
    await sjobs.apply(text, "-n", namespace)
    done = await until(api, namespace, "steady", recent)
    shown = await sjobs.kubectl("diff", "--server-side", "-f", "-", "-n", namespace, input=text)
    assert shown.stdout == ""
    await sjobs.apply(text, "-n", namespace)
    body = await read(api, namespace, "steady")
    assert body["metadata"]["generation"] == done["metadata"]["generation"] == 1
    assert body["spec"] == done["spec"]
    assert body["spec"]["retry"] == {}, "no default is written back"


async def test_the_operator_owns_nothing_but_status(sjobs: Cluster, api: ApiClient, namespace: str, sink: Sink) -> None:
    await sjobs.apply(manifest("steady", "every: 1s", curl(sink.url)), "-n", namespace)
    body = await until(api, namespace, "steady", recent)
    managers = {one["manager"] for one in body["metadata"]["managedFields"]}
    assert managers == {"kubectl", "scheduledjob"}
    for entry in owned(body, "scheduledjob"):
        assert entry["subresource"] == "status"
        assert set(entry["fieldsV1"]) == {"f:status"}
    assert not {"finalizers", "annotations", "labels"} & body["metadata"].keys()


async def test_kubectl_can_wait_for_it(sjobs: Cluster, api: ApiClient, namespace: str, sink: Sink) -> None:
    await sjobs.apply(manifest("soon", "cron: '@yearly'", curl(sink.url)), "-n", namespace)
    await sjobs.kubectl("wait", "--for=condition=Ready", "sjob/soon", "-n", namespace, "--timeout=30s")
    body = await read(api, namespace, "soon")
    assert status_of(body)["observedGeneration"] == body["metadata"]["generation"]
    assert {one["observedGeneration"] for one in status_of(body)["conditions"]} == {body["metadata"]["generation"]}
    assert condition(body, "LastRunSucceeded")["status"] == "Unknown"


async def test_a_wrong_edit_stops_it_and_mended_it_goes_on(
    sjobs: Cluster, api: ApiClient, namespace: str, sink: Sink
) -> None:
    more = "  misfire: {catchUp: All, maxCatchUp: 5}"
    await sjobs.apply(manifest("edited", "every: 1s", curl(sink.url), more), "-n", namespace)
    await sink.reached(lambda calls: len(calls) >= 2)
    await change(api, namespace, "edited", WRONG)
    body = await until(api, namespace, "edited", is_so("Stalled"))
    ready = condition(body, "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "InvalidSpec")
    assert ready["message"].startswith("spec.triggers[0].timeZone: ")
    assert condition(body, "Stalled")["message"] == ready["message"]
    assert status_of(body)["observedGeneration"] == 2
    assert status_of(body)["nextRun"] == "invalid"
    assert "nextRunTime" not in status_of(body)
    assert status_of(body)["counters"]["succeeded"] >= 1, "what it did is not forgotten"
    event = await until_event(api, namespace, "edited", "InvalidSpec")
    assert (event["type"], event["message"]) == ("Warning", ready["message"])
    shown = await sjobs.kubectl("get", "sjob", "edited", "-n", namespace)
    assert "invalid" in shown.stdout
    # It starts nothing while others run.
    await sjobs.apply(manifest("witness", "every: 1s", curl(sink.url)), "-n", namespace)
    before = len(sink.of("edited"))
    await sink.reached(lambda _: len(sink.of("witness")) >= 3)
    assert len(sink.of("edited")) == before

    mended = datetime.now(UTC)
    await change(api, namespace, "edited", {"triggers": [{"every": "1s"}]})
    body = await until(api, namespace, "edited", is_so("Ready"))
    assert condition(body, "Stalled")["status"] == "False"
    await sink.reached(lambda _: len(sink.of("edited")) >= before + 2)
    assert datetime.fromisoformat(sink.of("edited")[before].slot) > mended
    assert status_of(body)["counters"]["missed"] == 0


async def test_a_spec_that_is_wrong_from_the_start_is_stalled_until_it_is_mended(
    operator: OperatorProcess, sjobs: Cluster, api: ApiClient, namespace: str, sink: Sink
) -> None:
    await sjobs.apply(manifest("wrong", "every: 1s", "{custom: {kind: missing}}"), "-n", namespace)
    body = await until(api, namespace, "wrong", is_so("Stalled", reason="UnknownKind"))
    assert condition(body, "Ready")["status"] == "False"
    assert "known: print" in condition(body, "Ready")["message"]
    event = await until_event(api, namespace, "wrong", "UnknownKind")
    assert (event["type"], event["message"]) == ("Warning", condition(body, "Ready")["message"])
    assert await operator.metric("scheduledjob_invalid_schedules") == 1
    await sjobs.apply(manifest("zone", "cron: '@daily', timeZone: Europe/Nowhere", curl(sink.url)), "-n", namespace)
    body = await until(api, namespace, "zone", is_so("Stalled", reason="InvalidSpec"))
    assert "spec.triggers[0].timeZone" in condition(body, "Ready")["message"]
    assert await operator.metric("scheduledjob_invalid_schedules") == 2
    await api.patch(
        f"/apis/scheduledjobs.dev/v1beta1/namespaces/{namespace}/scheduledjobs/zone",
        {"spec": {"triggers": [{"every": "1s"}]}},
    )
    body = await until(api, namespace, "zone", lambda one: is_so("Ready")(one) and bool(recent(one)))
    assert condition(body, "Stalled")["status"] == "False"
    found = await api.list(
        f"/api/v1/namespaces/{namespace}/events", fieldSelector="involvedObject.kind=ScheduledJob,reason=Completed"
    )
    assert found == [], "an invalid schedule is not completed"


async def test_a_failed_run_never_makes_it_unready(sjobs: Cluster, api: ApiClient, namespace: str, sink: Sink) -> None:
    never_open = "http://127.0.0.1:1/"
    more = "  retry: {maxRetries: 0}"
    await sjobs.apply(manifest("failing", "every: 1s", curl(never_open), more), "-n", namespace)
    seen: list[str] = []

    def failed(body: dict[str, Any]) -> bool:
        seen.append(condition(body, "Ready").get("status", ""))
        return len(recent(body)) >= 2

    body = await until(api, namespace, "failing", failed)
    assert set(seen) <= {"", "True"}
    assert condition(body, "LastRunSucceeded")["status"] == "False"
    assert condition(body, "LastRunSucceeded")["message"]
    async with asyncio.timeout(30):
        await sjobs.kubectl("wait", "--for=condition=Ready", "sjob/failing", "-n", namespace, "--timeout=5s")
