"""What the tests of Pods on a cluster share: an executor at work in a namespace, with an object that owns its Pods."""

from __future__ import annotations

import asyncio
import itertools
import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from scheduledjob.engine.executor import CANCELLED, RELEASED, Attempt, Result
from scheduledjob.jobs.container.pod_executor import PodExecutor
from scheduledjob.jobs.container.pod_names import pod_name
from scheduledjob.jobs.container.pod_spec import ContainerSpec, PodSettings, PodSpec
from scheduledjob.kube.client.api import Api
from scheduledjob.kube.pods.pods_api import ClusterPods
from tests.cluster.crd.install import install
from tests.cluster.harness import SCHEDULED_JOBS, ApiClient, Cluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

STAMP = "2026-12-01T10:00:00Z"
ENDED_AT = 1_796_119_200_000_000
"""The instant at which the containers of ``began`` and ``exited`` did so."""
PATIENCE = 60.0
"""Seconds after which a test gives up; nothing is measured by it."""


class Bench:
    """A namespace with a ScheduledJob and whatever sees its Pods through; attempts are made by ``attempt``."""

    def __init__(self, api: ApiClient, namespace: str, uid: str, pods: ClusterPods, executor: PodExecutor) -> None:
        self.api = api
        self.namespace = namespace
        self.uid = uid
        self.pods = pods
        self.executor = executor
        self._slots = itertools.count(1_796_119_200_000_000, 1_000_000)

    def attempt(self, spec: PodSpec, **changed: Any) -> Attempt:
        """An attempt of a run of its own."""
        slot = next(self._slots)
        told: dict[str, Any] = {
            "run_id": f"{self.uid}-{slot}",
            "uid": self.uid,
            "namespace": self.namespace,
            "name": "job",
            "slot": slot,
            "attempt": 1,
            "version": 1,
            "deadline": math.inf,
            "params": spec,
            "pending": 300.0,
        }
        return Attempt(**(told | changed))

    @property
    def path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods"

    def path_of(self, attempt: Attempt) -> str:
        return f"{self.path}/{pod_name(attempt.name, attempt.run_id, attempt.attempt)}"

    def run(self, attempt: Attempt) -> asyncio.Task[Result]:
        return asyncio.create_task(self.executor.run(attempt))

    async def seen(self, attempt: Attempt) -> dict[str, Any]:
        """The attempt's Pod, as soon as it is there."""
        name = self.path_of(attempt).rpartition("/")[2]
        async for event in self.api.watch(self.path, fieldSelector=f"metadata.name={name}"):
            if event["type"] == "ADDED":
                pod: dict[str, Any] = event["object"]
                return pod
        raise AssertionError("the watch ended")

    async def running(self, attempt: Attempt) -> None:
        """Return when the job's container runs."""
        name = self.path_of(attempt).rpartition("/")[2]
        async for event in self.api.watch(self.path, fieldSelector=f"metadata.name={name}"):
            if event["object"].get("status", {}).get("phase") == "Running":
                return

    async def over(self, attempt: Attempt) -> dict[str, Any]:
        """The attempt's Pod, when it has ended."""
        name = self.path_of(attempt).rpartition("/")[2]
        async for event in self.api.watch(self.path, fieldSelector=f"metadata.name={name}"):
            pod: dict[str, Any] = event["object"]
            if pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
                return pod
        raise AssertionError("the watch ended")

    async def told_of(self, count: int) -> None:
        """Return when the operator's watch has told of that many Pods."""
        while len(self.pods) < count:  # noqa: ASYNC110  # a follower of one Pod is all that could wait for an event
            await asyncio.sleep(0.01)

    async def report(self, attempt: Attempt, status: dict[str, Any]) -> None:
        """Write the status of the attempt's Pod, as its kubelet would."""
        await self.api.patch(f"{self.path_of(attempt)}/status", {"status": status})


def container(*command: str, image: str = "localhost/busybox:1", **changed: Any) -> PodSpec:
    return PodSpec(container=ContainerSpec(image, ["sh", "-c", *command] if command else None), **changed)


def exited(code: int, reason: str = "", **more: Any) -> dict[str, Any]:
    """The status of a Pod whose container ended with this code."""
    ended = {
        "exitCode": code,
        "reason": reason or ("Error" if code else "Completed"),
        "startedAt": STAMP,
        "finishedAt": STAMP,
    }
    return {"phase": "Failed" if code else "Succeeded", "containerStatuses": [_status({"terminated": ended})], **more}


def began() -> dict[str, Any]:
    """The status of a Pod whose container runs."""
    return {"phase": "Running", "containerStatuses": [_status({"running": {"startedAt": STAMP}})]}


def waits(reason: str, message: str) -> dict[str, Any]:
    return {
        "phase": "Pending",
        "containerStatuses": [_status({"waiting": {"reason": reason, "message": message}})],
    }


def _status(state: dict[str, Any]) -> dict[str, Any]:
    return {"name": "job", "image": "x", "imageID": "", "ready": False, "restartCount": 0, "state": state}


async def cancel(task: asyncio.Task[Result], attempt: Attempt, meaning: str = CANCELLED) -> Result | None:
    """Cancel as the engine does; the result if it ended with one."""
    assert meaning in (CANCELLED, RELEASED)
    attempt.ending = meaning
    task.cancel()
    try:
        return await task
    except asyncio.CancelledError:
        return None


@asynccontextmanager
async def bench(
    cluster: Cluster,
    namespace: str,
    settings: PodSettings | None = None,
    *,
    kubeconfig: Path | None = None,
    **of_executor: Any,
) -> AsyncIterator[Bench]:
    """Everything that sees Pods through, for the time of a test, which gives up by itself when that takes too long."""
    async with asyncio.timeout(PATIENCE), cluster.client() as client:
        await install(cluster)
        manifest = {
            "apiVersion": "scheduledjobs.dev/v1beta1",
            "kind": "ScheduledJob",
            "metadata": {"name": "job"},
            "spec": {"triggers": [{"every": "1h"}], "suspend": True, "job": {"shell": {"command": "true"}}},
        }
        owner = await client.post(f"{SCHEDULED_JOBS}/namespaces/{namespace}/scheduledjobs", manifest)
        async with Api.from_config(str(kubeconfig or cluster.kubeconfig)) as api:
            pods = ClusterPods(api, [namespace])
            watching = asyncio.create_task(pods.run())
            try:
                executor = PodExecutor(pods, settings, **of_executor)
                yield Bench(client, namespace, owner["metadata"]["uid"], pods, executor)
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
