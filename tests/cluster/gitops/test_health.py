"""What Argo CD and Flux make of ScheduledJobs that a real operator has written the status of."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.cluster.crd.install import install
from tests.cluster.e2e.operators import PATIENCE, OperatorProcess, change, granted, manifest, read
from tests.cluster.gitops.interpreters import CONFIG_MAP, HEALTH, argo_cd, flux
from tests.cluster.harness import SCHEDULED_JOBS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cluster.harness import ApiClient, Cluster

pytestmark = pytest.mark.cluster

PRINT = "{custom: {kind: print, params: {text: hello}}}"
FAILS = "{curl: {url: 'http://127.0.0.1:9/'}}"
JOBS = {
    "scheduled": manifest("scheduled", "every: 1h", PRINT),
    "suspended": manifest("suspended", "every: 1h", PRINT, "  suspend: true"),
    "completed": manifest("completed", "after: 0s", PRINT),
    "failed": manifest("failed", "after: 0s", FAILS, "  retry: {maxRetries: 0}"),
    "paused": manifest("paused", "every: 1s", FAILS, "  retry: {maxRetries: 0}\n  pauseAfterFailures: 1"),
    "overdue": manifest("overdue", "every: 1h", PRINT, "  expectSuccessWithin: 1s"),
    "unknown": manifest("unknown", "every: 1h", "{custom: {kind: nowhere}}"),
    "edited": manifest("edited", "every: 1h", PRINT),
    "deleting": manifest("deleting", "every: 1h", PRINT),
}

WANTED = {
    "unseen": ("Progressing", "the operator has not seen it yet", "Current"),
    "scheduled": ("Healthy", "its slots run as they come due", "Current"),
    "suspended": ("Healthy", "spec.suspend is true: no new slot starts", "Current"),
    "completed": ("Healthy", "its triggers have no slot left", "Current"),
    "failed": ("Healthy", "the last run failed: ", "Current"),
    "paused": ("Healthy", "the last run failed", "Current"),
    "overdue": ("Healthy", "overdue: no success for 1s", "Current"),
    "unknown": ("Degraded", 'no job "nowhere" is installed in the operator', "Failed"),
    "edited": ("Progressing", "the operator has not seen this version yet", "InProgress"),
    "deleting": ("Progressing", "it is being deleted", "Terminating"),
}
"""By name: what Argo CD says, with part of its message, and what Flux says."""


def says(kind: str, status: str, reason: str = "") -> Callable[[dict[str, Any]], bool]:
    """Whether a condition of an object is so."""

    def look(obj: dict[str, Any]) -> bool:
        return any(
            (each["type"], each["status"]) == (kind, status) and reason in each["reason"]
            for each in obj.get("status", {}).get("conditions", [])
        )

    return look


SEEN = {
    "scheduled": says("Ready", "True"),
    "suspended": says("Suspended", "True"),
    "completed": says("Ready", "True", "Completed"),
    "failed": says("LastRunSucceeded", "False"),
    "paused": says("Suspended", "True", "AutoPaused"),
    "overdue": says("Overdue", "True"),
    "unknown": says("Stalled", "True"),
    "edited": says("Ready", "True"),
    "deleting": says("Ready", "True"),
}


async def until(api: ApiClient, namespace: str, name: str, look: Callable[[dict[str, Any]], bool]) -> None:
    path = f"{SCHEDULED_JOBS}/namespaces/{namespace}/scheduledjobs"
    try:
        async with asyncio.timeout(PATIENCE):
            async for event in api.watch(path, fieldSelector=f"metadata.name={name}", resourceVersion="0"):
                if look(event["object"]):
                    return
    except TimeoutError:
        found = (await read(api, namespace, name)).get("status")
        raise AssertionError(f"{name} did not become what it is to be within {PATIENCE:g} s: {found}") from None


async def test_health_in_every_state(cluster: Cluster, namespace: str) -> None:
    await install(cluster)
    kubeconfig = await granted(cluster, f"operator-{namespace}", namespace, [namespace])
    await cluster.apply("".join(JOBS.values()), "-n", namespace)
    async with cluster.client() as api:
        async with OperatorProcess(kubeconfig, namespace, f"--namespaces={namespace}"):
            for name, look in SEEN.items():
                await until(api, namespace, name, look)
        await cluster.apply(manifest("unseen", "every: 1h", PRINT), "-n", namespace)
        await change(api, namespace, "edited", {"suspend": True})
        path = f"{SCHEDULED_JOBS}/namespaces/{namespace}/scheduledjobs/deleting"
        await api.patch(path, {"metadata": {"finalizers": ["example.com/hold"]}})
        await api.delete(path)
        objects = [await read(api, namespace, name) for name in WANTED]
        await api.patch(path, {"metadata": {"finalizers": None}})
    for (name, (argo, message, kstatus)), obj, by_flux in zip(
        WANTED.items(), objects, await flux(objects), strict=True
    ):
        by_argo = argo_cd(obj)
        assert (name, by_argo.status) == (name, argo)
        assert message in by_argo.message
        assert (name, by_flux.status) == (name, kstatus)


def obj(generation: int, observed: int | None, **conditions: str) -> dict[str, Any]:
    """An object that no operator would leave behind."""
    found = [{"type": kind, "status": status, "message": f"{kind} says why"} for kind, status in conditions.items()]
    status = {"observedGeneration": observed, "conditions": found}
    return {"metadata": {"name": "a", "generation": generation}, "status": status}


@pytest.mark.parametrize(
    ("given", "status", "message"),
    [
        ({"metadata": {"name": "a"}}, "Progressing", "not seen it yet"),
        (obj(1, None), "Progressing", "not seen it yet"),
        ({"metadata": {"name": "a", "generation": 1}, "status": {"observedGeneration": 1}}, "Progressing", ""),
        (obj(1, 1, Ready="False"), "Progressing", "Ready says why"),
        (obj(1, 1, Ready="Unknown"), "Progressing", "Ready says why"),
        (obj(1, 1, Ready="False", Stalled="True"), "Degraded", "Stalled says why"),
        (obj(2, 1, Ready="False", Stalled="True"), "Progressing", "this version"),
        (obj(1, 1, Ready="True", LastRunSucceeded="Unknown"), "Healthy", "Ready says why"),
        (
            obj(1, 1, Ready="True", Overdue="True", LastRunSucceeded="False"),
            "Healthy",
            "Ready says why; overdue: Overdue says why; the last run failed: LastRunSucceeded says why",
        ),
    ],
)
def test_the_health_check_bears_what_it_is_given(given: dict[str, Any], status: str, message: str) -> None:
    found = argo_cd(given)
    assert found.status == status
    assert message in found.message


def test_argo_cd_is_given_the_check_that_stands_beside() -> None:
    config = yaml.safe_load(CONFIG_MAP.read_text())["data"]
    assert config["resource.customizations.health.scheduledjobs.dev_ScheduledJob"] == HEALTH.read_text()


def test_a_run_that_changes_status_alone_refreshes_nothing() -> None:
    config = yaml.safe_load(CONFIG_MAP.read_text())["data"]
    ignored = yaml.safe_load(config["resource.customizations.ignoreResourceUpdates.scheduledjobs.dev_ScheduledJob"])
    before = obj(1, 1, Ready="True") | {"spec": {"suspend": False}}
    before["metadata"] |= {"resourceVersion": "1", "managedFields": []}
    after: dict[str, Any] = json.loads(json.dumps(before))
    after["metadata"] |= {"resourceVersion": "2", "managedFields": [{"manager": "scheduledjob"}]}
    after["status"]["lastOutcome"] = "Failed"
    for each in (before, after):
        for pointer in ignored["jsonPointers"]:
            *way, last = pointer.split("/")[1:]
            part = each
            for name in way:
                part = part[name]
            del part[last]
    assert after == before
    assert before["spec"] == {"suspend": False}
