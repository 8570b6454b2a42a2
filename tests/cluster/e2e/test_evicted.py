"""Pods that are taken from under a run, by their node or by who drains it: the run says so, and tries again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.crd.install import install
from tests.cluster.e2e.operators import OperatorProcess, granted, manifest, recent, until, until_event
from tests.cluster.harness import BUSYBOX_IMAGE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.cluster.harness import ApiClient, Node

pytestmark = [pytest.mark.cluster, pytest.mark.node]

AGAIN = "test $SCHEDULEDJOB_ATTEMPT = 2 && exit"
RETRY = "  retry: {maxRetries: 1, fixed: {intervals: [1s]}}\n"


@pytest.fixture
async def api(node: Node) -> AsyncIterator[ApiClient]:
    await install(node.cluster)
    async with node.cluster.client() as client:
        yield client


@pytest.fixture
async def operator(node: Node, api: ApiClient, node_namespace: str) -> AsyncIterator[OperatorProcess]:
    kubeconfig = await granted(node.cluster, f"operator-{node_namespace}", node_namespace, [node_namespace])
    async with OperatorProcess(kubeconfig, node_namespace, f"--namespaces={node_namespace}") as operator:
        yield operator


def container(script: str) -> str:
    return f'{{container: {{image: "{BUSYBOX_IMAGE}", command: [sh, -c, "{script}"]}}}}'


async def ended(api: ApiClient, namespace: str, name: str) -> tuple[dict[str, Any], str]:
    """(The run, once it is over; what an Event says of its first attempt)."""
    (run,) = recent(await until(api, namespace, name, recent))
    event = await until_event(api, namespace, name, "Retrying")
    return run, event["message"]


@pytest.mark.slow
@pytest.mark.usefixtures("operator")
@pytest.mark.parametrize("where", ["its own files", "an emptyDir"])
async def test_by_its_node_for_what_it_wrote(where: str, node: Node, api: ApiClient, node_namespace: str) -> None:
    if where == "an emptyDir":
        mount = "containers: [{name: job, volumeMounts: [{name: scratch, mountPath: /scratch}]}]"
        pod = f"template: {{spec: {{volumes: [{{name: scratch, emptyDir: {{sizeLimit: 1Mi}}}}], {mount}}}}}"
        said = 'Usage of EmptyDir volume "scratch" exceeds the limit "1Mi"'
    else:
        pod, said = "resources: {limits: {ephemeral-storage: 1Mi}}", "1Mi"
    script = f"{AGAIN}; mkdir -p /scratch; tr '\\\\0' x </dev/zero | head -c 8000000 >/scratch/x; sleep 600"
    text = manifest("greedy", "after: 0s", container(script), f"{RETRY}  execution: {{pod: {{{pod}}}}}\n")
    await node.cluster.apply(text, "-n", node_namespace)
    run, first = await ended(api, node_namespace, "greedy")
    assert (run["outcome"], run["attempt"]) == ("Succeeded", 2)
    assert "failed: evicted: " in first
    assert said in first
    pods = await api.list(f"/api/v1/namespaces/{node_namespace}/pods")
    assert {pod["status"].get("reason", "") for pod in pods} == {"Evicted", ""}


@pytest.mark.usefixtures("operator")
async def test_by_the_eviction_api(node: Node, api: ApiClient, node_namespace: str) -> None:
    pods = f"/api/v1/namespaces/{node_namespace}/pods"
    more = f"{RETRY}  execution: {{pod: {{template: {{spec: {{terminationGracePeriodSeconds: 1}}}}}}}}\n"
    await node.cluster.apply(
        manifest("moved", "after: 0s", container(f"{AGAIN}; sleep 600"), more), "-n", node_namespace
    )
    async with asyncio.timeout(60):
        async for event in api.watch(pods, labelSelector="scheduledjobs.dev/name=moved"):
            if event["object"]["status"].get("phase") == "Running":
                break
    metadata = {"name": event["object"]["metadata"]["name"], "namespace": node_namespace}
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
    await api.post(f"{pods}/{metadata['name']}/eviction", eviction)
    run, first = await ended(api, node_namespace, "moved")
    assert (run["outcome"], run["attempt"]) == ("Succeeded", 2)
    assert "failed: its Pod was evicted: Eviction API: evicting" in first
