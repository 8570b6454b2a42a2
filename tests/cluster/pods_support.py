"""Shared by the tests of Pods on a cluster: an executor in a namespace, with an object that owns its Pods."""

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
"""The instant when the containers of ``began`` and ``exited`` started and ended."""
PATIENCE = 60.0
"""Seconds after which a test fails."""


class Bench:
    """A namespace with a ScheduledJob, and the executor of its Pods. ``attempt`` returns attempts to run."""

    def __init__(self, api: ApiClient, namespace: str, uid: str, pods: ClusterPods, executor: PodExecutor) -> None:
        self.api = api
        self.namespace = namespace
        self.uid = uid
        self.pods = pods
        self.executor = executor
        self._slots = itertools.count(1_796_119_200_000_000, 1_000_000)

    def attempt(self, spec: PodSpec, **changed: Any) -> Attempt:
        """Return an attempt of a new run."""
        slot = next(self._slots)
        fields: dict[str, Any] = {
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
        return Attempt(**(fields | changed))

    @property
    def path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods"

    def path_of(self, attempt: Attempt) -> str:
        return f"{self.path}/{pod_name(attempt.name, attempt.run_id, attempt.attempt)}"

    def run(self, attempt: Attempt) -> asyncio.Task[Result]:
        return asyncio.create_task(self.executor.run(attempt))

    async def created(self, attempt: Attempt) -> dict[str, Any]:
        """Return the attempt's Pod as soon as it exists."""
        name = self.path_of(attempt).rpartition("/")[2]
        async for event in self.api.watch(self.path, fieldSelector=f"metadata.name={name}"):
            if event["type"] == "ADDED":
                pod: dict[str, Any] = event["object"]
                return pod
        raise AssertionError("the watch ended")

    async def running(self, attempt: Attempt) -> None:
        """Wait until the job's container runs."""
        name = self.path_of(attempt).rpartition("/")[2]
        async for event in self.api.watch(self.path, fieldSelector=f"metadata.name={name}"):
            if event["object"].get("status", {}).get("phase") == "Running":
                return

    async def ended(self, attempt: Attempt) -> dict[str, Any]:
        """Return the attempt's Pod when it has ended."""
        name = self.path_of(attempt).rpartition("/")[2]
        async for event in self.api.watch(self.path, fieldSelector=f"metadata.name={name}"):
            pod: dict[str, Any] = event["object"]
            if pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
                return pod
        raise AssertionError("the watch ended")

    async def reported(self, count: int) -> None:
        """Wait until the operator's watch has reported that many Pods."""
        while len(self.pods) < count:  # noqa: ASYNC110  # there is no event for all Pods
            await asyncio.sleep(0.01)

    async def report(self, attempt: Attempt, status: dict[str, Any]) -> None:
        """Write the status of the attempt's Pod, as its kubelet would."""
        await self.api.patch(f"{self.path_of(attempt)}/status", {"status": status})


def container(*command: str, image: str = "localhost/busybox:1", **changed: Any) -> PodSpec:
    return PodSpec(container=ContainerSpec(image, ["sh", "-c", *command] if command else None), **changed)


def exited(code: int, reason: str = "", **more: Any) -> dict[str, Any]:
    """Return the status of a Pod whose container exited with this code."""
    ended = {
        "exitCode": code,
        "reason": reason or ("Error" if code else "Completed"),
        "startedAt": STAMP,
        "finishedAt": STAMP,
    }
    return {"phase": "Failed" if code else "Succeeded", "containerStatuses": [_status({"terminated": ended})], **more}


def began() -> dict[str, Any]:
    """Return the status of a Pod whose container runs."""
    return {"phase": "Running", "containerStatuses": [_status({"running": {"startedAt": STAMP}})]}


def waits(reason: str, message: str) -> dict[str, Any]:
    return {
        "phase": "Pending",
        "containerStatuses": [_status({"waiting": {"reason": reason, "message": message}})],
    }


def _status(state: dict[str, Any]) -> dict[str, Any]:
    return {"name": "job", "image": "x", "imageID": "", "ready": False, "restartCount": 0, "state": state}


async def cancel(task: asyncio.Task[Result], attempt: Attempt, meaning: str = CANCELLED) -> Result | None:
    """Cancel as the engine does. Return the result, or None if there is none."""
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
    """Run an executor and a watch of Pods during a test, which fails after PATIENCE seconds."""
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
