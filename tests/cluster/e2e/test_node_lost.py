"""A node is lost in the middle of a run: what the run says, when it is tried again, and what its return changes.

While a node is only silent, it is unknown whether its Pod still runs. So the attempt waits for the end of its Pod, as
Kubernetes does: a second Pod would run the job twice silently. Once the Node object is gone, Kubernetes has declared
the Pod dead. Then a new attempt starts, after an Event that says why.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.cluster.crd.install import install
from tests.cluster.e2e.operators import (
    PATIENCE,
    OperatorProcess,
    granted,
    manifest,
    recent,
    status_of,
    until,
    until_event,
)
from tests.cluster.harness import BUSYBOX_IMAGE, NODE_NAME

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.cluster.harness import ApiClient, Node

pytestmark = [pytest.mark.cluster, pytest.mark.node]

MORE = """
  retry: {maxRetries: 1, fixed: {intervals: [1s]}}
  execution: {pod: {template: {spec: {terminationGracePeriodSeconds: 1}}}}
"""


class Place(NamedTuple):
    """A namespace of a node that is the test's own, where an operator works."""

    node: Node
    api: ApiClient
    namespace: str
    send: str
    """A command with which a job sends us a line."""
    received: asyncio.Queue[str]

    async def begin(self, then: str) -> None:
        """Start the run of the job `lost`, whose second attempt is quick; return when the first has come to `then`."""
        script = f"echo $SCHEDULEDJOB_ATTEMPT | {self.send}; test $SCHEDULEDJOB_ATTEMPT = 2 && exit; {then}"
        await self.apply(manifest("lost", "after: 0s", _container(script), MORE))
        assert await self.received.get() == "1"

    async def apply(self, text: str) -> None:
        await self.node.cluster.apply(text, "-n", self.namespace)

    async def run(self) -> dict[str, Any]:
        """The run of `lost`, when it is over."""
        (run,) = recent(await until(self.api, self.namespace, "lost", recent))
        return run

    async def pods_of_lost(self) -> list[dict[str, Any]]:
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        return await self.api.list(path, labelSelector="scheduledjobs.dev/name=lost")

    async def until_node(self, holds: Callable[[str], bool]) -> None:
        """Return when the status of the node's condition Ready is so."""
        async for event in self.api.watch("/api/v1/nodes", fieldSelector=f"metadata.name={NODE_NAME}"):
            conditions = event["object"]["status"].get("conditions", [])
            if any(each["type"] == "Ready" and holds(each["status"]) for each in conditions):
                return

    async def until_pod(self, holds: Callable[[dict[str, Any]], object]) -> None:
        """Return when an event of a Pod is so."""
        async for event in self.api.watch(f"/api/v1/namespaces/{self.namespace}/pods"):
            if holds(event):
                return


@pytest.fixture
async def place(own_node: Node) -> AsyncIterator[Place]:
    received: asyncio.Queue[str] = asyncio.Queue()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.put_nowait((await reader.readline()).decode().strip())
        writer.close()

    await install(own_node.cluster)
    namespace = await own_node.cluster.new_namespace()
    kubeconfig = await granted(own_node.cluster, "operator", namespace, [namespace])
    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    send = f"nc {own_node.host} {server.sockets[0].getsockname()[1]}"
    async with (
        server,
        own_node.cluster.client() as api,
        OperatorProcess(kubeconfig, namespace, f"--namespaces={namespace}"),
        asyncio.timeout(2 * PATIENCE),
    ):
        yield Place(own_node, api, namespace, send, received)


async def test_a_job_that_ends_while_no_kubelet_lives(place: Place) -> None:
    """The next kubelet reports the end, so the attempt is not repeated."""
    await place.begin(f"sleep 1; echo ends | {place.send}; exit 3")
    place.node.kubelet.kill()
    assert await place.received.get() == "ends"
    await place.node.kubelet.start()
    event = await until_event(place.api, place.namespace, "lost", "Retrying")
    assert event["message"].endswith("failed: exit code 3")
    run = await place.run()
    assert (run["outcome"], run["attempt"]) == ("Succeeded", 2)
    assert (await place.received.get(), place.received.empty()) == ("2", True)


async def test_while_a_node_is_silent_nothing_runs_beside_its_pod(place: Place) -> None:
    """The Pod is being deleted, and it is unknown whether it has ended until the node is back."""
    await place.begin("sleep 1000")
    place.node.kubelet.pause()
    await place.node.cluster.kubectl("taint", "node", NODE_NAME, "lost=yes:NoExecute")
    await place.until_pod(lambda event: event["object"]["metadata"].get("deletionTimestamp"))
    await place.apply(manifest("clock", "every: 1s", "{custom: {kind: print, params: {text: x}}}"))
    await until(place.api, place.namespace, "clock", lambda body: _succeeded(body) >= 5)
    body = await until(place.api, place.namespace, "lost", status_of)
    (pod,) = await place.pods_of_lost()
    assert [each["pod"] for each in body["status"]["active"]] == [pod["metadata"]["name"]]
    await place.node.cluster.kubectl("taint", "node", NODE_NAME, "lost-")
    place.node.kubelet.resume()
    run = await place.run()
    assert (run["outcome"], run["attempt"]) == ("Succeeded", 2)
    event = await until_event(place.api, place.namespace, "lost", "Retrying")
    assert "failed: its node is lost or was tainted: Taint manager: deleting due to NoExecute taint" in event["message"]
    assert (await place.received.get(), place.received.empty()) == ("2", True)


@pytest.mark.slow
async def test_a_silent_node_that_is_said_to_be_out_of_service(place: Place) -> None:
    await place.begin("sleep 1000")
    place.node.kubelet.pause()
    await place.until_node(lambda ready: ready == "Unknown")
    taint = "node.kubernetes.io/out-of-service"
    await place.node.cluster.kubectl("taint", "node", NODE_NAME, f"{taint}=yes:NoExecute")
    event = await until_event(place.api, place.namespace, "lost", "Retrying")
    assert "failed: its node is lost or was tainted: " in event["message"]
    place.node.kubelet.resume()
    await place.until_node(lambda ready: ready == "True")
    await place.node.cluster.kubectl("taint", "node", NODE_NAME, f"{taint}-")
    run = await place.run()
    assert (run["outcome"], run["attempt"]) == ("Succeeded", 2)
    assert (await place.received.get(), place.received.empty()) == ("2", True)


@pytest.mark.slow
async def test_a_pod_of_a_node_that_is_gone_is_a_failed_attempt(place: Place) -> None:
    """Kubernetes' garbage collector says so of the Pod, after its 40 s; the next attempt waits for a node."""
    await place.begin("sleep 1000")
    place.node.kubelet.kill()
    await place.api.delete(f"/api/v1/nodes/{NODE_NAME}")
    await place.until_pod(lambda event: event["type"] == "DELETED")
    event = await until_event(place.api, place.namespace, "lost", "Retrying")
    assert "failed: its node is gone: PodGC: node no longer exists" in event["message"]
    await place.node.kubelet.start()
    run = await place.run()
    assert (run["outcome"], run["attempt"]) == ("Succeeded", 2)
    assert (await place.received.get(), place.received.empty()) == ("2", True)
    (pod,) = await place.pods_of_lost()
    assert pod["metadata"]["name"] == run["pod"]


def _container(script: str) -> str:
    return f'{{container: {{image: "{BUSYBOX_IMAGE}", command: [sh, -c, "{script}"]}}}}'


def _succeeded(body: dict[str, Any]) -> int:
    return int((status_of(body).get("counters") or {}).get("succeeded", 0))
