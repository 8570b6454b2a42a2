"""The shipped rules are enough for everything that the operator does, and it asks for nothing beside them."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest
import yaml
from aiohttp import web

from scheduledjob.kube.pods import pod_garbage_collector
from tests.cluster.e2e.operators import (
    RULES,
    OperatorProcess,
    annotate,
    curl,
    granted,
    is_so,
    manifest,
    recent,
    until,
    until_event,
)
from tests.cluster.harness import SCHEDULED_JOBS

if TYPE_CHECKING:
    from tests.cluster.e2e.operators import Sink
    from tests.cluster.harness import ApiClient, Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

SERIES = re.compile(r'scheduledjob_api_requests_total\{code="(\d+)",resource="([^"]*)",verb="([^"]*)"\} ([0-9.e+]+)')


def allowed() -> set[tuple[str, str]]:
    rules = yaml.safe_load(RULES.read_text())
    return {
        (verb, resource)
        for part in ("watched", "own", "cluster")
        for rule in rules[part]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.mark.parametrize(("store", "everywhere"), [("memory", True), ("postgres", False)], ids=["cluster", "namespace"])
async def test_a_tour_of_everything_meets_no_refusal(
    request: pytest.FixtureRequest,
    sjobs: Cluster,
    api: ApiClient,
    namespace: str,
    sink: Sink,
    store: str,
    everywhere: bool,
) -> None:
    url = "memory:" if store == "memory" else request.getfixturevalue("postgres_dsn")
    config = await granted(sjobs, f"operator-{namespace}", namespace, [] if everywhere else [namespace])
    flags = [f"--store={url}", "--inline-http-allow=127.0.0.1", "--sweep-interval=5s", "--lease=3s"]
    flags += [] if everywhere else [f"--namespaces={namespace}"]
    pods = f"/api/v1/namespaces/{namespace}/pods"
    jobs = f"{SCHEDULED_JOBS}/namespaces/{namespace}/scheduledjobs"
    sink.answer = lambda _: web.Response(status=500)
    container = "{container: {image: localhost/none, command: [none]}}"
    async with OperatorProcess(config, namespace, *flags) as operator:
        await sjobs.apply(manifest("failing", "every: 1s", curl(sink.url), "  retry: {maxRetries: 0}"), "-n", namespace)
        await sjobs.apply(manifest("pod", "after: 0s", container, "  history: {succeeded: 0}"), "-n", namespace)
        await sjobs.apply(manifest("cancelled", "after: 0s", container), "-n", namespace)
        await sjobs.apply(
            manifest("wrong", "cron: '@daily', timeZone: Europe/Nowhere", curl(sink.url)), "-n", namespace
        )
        await until(api, namespace, "wrong", is_so("Stalled"))
        await until_event(api, namespace, "failing", "Failed")
        made: dict[str, str] = {}
        async with asyncio.timeout(30):
            async for event in api.watch(pods, resourceVersion="0"):
                pod = event["object"]["metadata"]
                made[pod["ownerReferences"][0]["name"]] = pod["name"]
                if made.keys() == {"pod", "cancelled"}:
                    break
        # There is no node: the test is the kubelet.
        await api.patch(
            f"{pods}/{made['pod']}/status",
            {
                "status": {
                    "phase": "Succeeded",
                    "containerStatuses": [
                        {
                            "name": "job",
                            "ready": False,
                            "restartCount": 0,
                            "image": "none",
                            "imageID": "none",
                            "state": {"terminated": {"exitCode": 0, "reason": "Completed"}},
                        }
                    ],
                }
            },
            "strategic",
        )
        body = await until(api, namespace, "pod", is_so("LastRunSucceeded"))
        assert recent(body) == [], "as its history says"
        assert body["status"]["lastOutcome"] == "Succeeded"
        active = (await until(api, namespace, "cancelled", lambda one: one["status"].get("active")))["status"]["active"]
        assert active[0]["pod"] == made["cancelled"]
        await annotate(api, namespace, "cancelled", cancel=active[0]["runID"])
        await until(api, namespace, "cancelled", recent)
        await api.delete(f"{jobs}/wrong")
        # The operator deletes the finished Pod when its garbage collector runs next.
        async with asyncio.timeout(3 * pod_garbage_collector.PRUNE_INTERVAL):
            async for event in api.watch(pods, fieldSelector=f"metadata.name={made['pod']}", resourceVersion="0"):
                if event["type"] == "DELETED" or "deletionTimestamp" in event["object"]["metadata"]:
                    break
        _, text = await operator.fetch("/metrics")
        errors = [line for line in operator.lines if line.get("level") in ("error", "critical")]
    asked = {(verb, resource): code for code, resource, verb, _ in SERIES.findall(text)}
    refused = [series for series in SERIES.findall(text) if series[0] in ("401", "403")]
    assert refused == []
    assert errors == []
    free = {("create", "selfsubjectaccessreviews"), ("list", "")}  # of everybody who is authenticated
    assert set(asked) - free <= allowed()
