"""What the benchmarks on a cluster share: a durable control plane, an operator on it, and the CPU time of each part.

etcd and Postgres sync to disk, the controller manager has Kubernetes' default rate limit, and the operator is a process
with the shipped roles. Results are observed from outside: by a watch of the measuring program, by a server that jobs
call, by the API server's own counters and by ``/proc``.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psutil

from bench.common import postgres
from scheduledjob.stores import open_store
from tests.cluster.crd.install import install
from tests.cluster.e2e.operators import OperatorProcess, granted
from tests.cluster.harness import SCHEDULED_JOBS, ControlPlane

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping
    from pathlib import Path

    from scheduledjob.engine.store import Store
    from tests.cluster.harness import ApiClient
    from tests.support.postgres import PostgresServer

CREATORS = 8
"""Concurrent create requests. More of them would only wait in the API server."""
SETTLED = 600.0
"""How long to wait for an operator to write the status of new objects, in seconds."""


@dataclass(slots=True)
class World:
    """A control plane with a namespace for the benchmark, and a Postgres."""

    cluster: ControlPlane
    server: PostgresServer
    namespace: str
    api: ApiClient
    """Of the administrator."""
    kubeconfig: Path
    """Of the operator."""
    dsn: str

    def operator(self, *flags: str) -> OperatorProcess:
        """Start an operator for this namespace, with default settings except for these."""
        return OperatorProcess(
            self.kubeconfig,
            self.namespace,
            f"--namespaces={self.namespace}",
            *flags,
            environment={"SJOB_STORE": self.dsn},
        )

    @contextlib.asynccontextmanager
    async def store(self) -> AsyncIterator[Store]:
        """Open the operator's store for reading."""
        store = open_store(self.dsn, "local")
        await store.connect()
        try:
            yield store
        finally:
            await store.close()

    @property
    def scheduled_jobs(self) -> str:
        return f"{SCHEDULED_JOBS}/namespaces/{self.namespace}/scheduledjobs"

    @property
    def pods(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods"

    async def create(self, specs: Mapping[str, dict[str, Any]]) -> None:
        """Create ScheduledJobs from their specs by name."""
        await self.create_all(
            self.scheduled_jobs,
            (
                {
                    "apiVersion": "scheduledjobs.dev/v1beta1",
                    "kind": "ScheduledJob",
                    "metadata": {"name": name},
                    "spec": spec,
                }
                for name, spec in specs.items()
            ),
        )

    async def create_all(self, path: str, bodies: Iterable[dict[str, Any]]) -> None:
        left = iter(bodies)

        async def some() -> None:
            for body in left:
                await self.api.post(path, body)

        async with asyncio.TaskGroup() as group:
            for _ in range(CREATORS):
                group.create_task(some())

    async def requests(self, *resources: str) -> Counter[str]:
        """Return how many requests the API server has answered, by verb, for these resources or for all."""
        found: Counter[str] = Counter()
        for labels, count in re.findall(
            r"^apiserver_request_total\{(.*)\} (\S+)$", await self.api.text("/metrics"), re.MULTILINE
        ):
            of = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            if not resources or of["resource"] in resources:
                found[of["verb"]] += round(float(count))
        return found


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[World]:
    """Start a control plane. The operator has the shipped roles in the namespace and no other permissions."""
    with postgres() as server:
        async with ControlPlane(durable=True) as cluster, cluster.client() as api:
            await install(cluster)
            namespace = await cluster.new_namespace()
            kubeconfig = await granted(cluster, "operator", namespace, [namespace])
            yield World(cluster, server, namespace, api, kubeconfig, server.new_database())


async def settled(operator: OperatorProcess, objects: int) -> None:
    """Wait until the operator has seen every object and written its status."""
    async with asyncio.timeout(SETTLED):
        while (  # noqa: ASYNC110  # there is no event for it
            await operator.metric("scheduledjob_schedules") < objects
            or await operator.metric("scheduledjob_status_dirty") > 0
        ):
            await asyncio.sleep(0.5)


class Use:
    """CPU seconds that each part has used since this object was created."""

    def __init__(self, some: World, operator: OperatorProcess | None = None) -> None:
        self._processes = {component.name: psutil.Process(component.pid) for component in some.cluster.components}
        self._processes["postgres"] = psutil.Process(some.server.pid)
        if operator is not None:
            self._processes["operator"] = psutil.Process(operator.pid)
        self._before = self._now()

    def _now(self) -> dict[str, float]:
        return {name: _used(process) for name, process in self._processes.items()}

    def used(self) -> dict[str, float]:
        return {name: now - self._before[name] for name, now in self._now().items()}


async def at_rest(some: World, operator: OperatorProcess | None, seconds: float) -> dict[str, float]:
    """Return the CPU seconds per second that each part uses at rest, measured for ``seconds``."""
    use, began = Use(some, operator), time.monotonic()
    await asyncio.sleep(seconds)
    took = time.monotonic() - began
    return {name: used / took for name, used in use.used().items()}


def beyond_rest(used: Mapping[str, float], rest: Mapping[str, float], seconds: float) -> dict[str, float]:
    """Return the CPU seconds used in so many seconds, minus those at rest."""
    return {name: max(0.0, cpu - rest[name] * seconds) for name, cpu in used.items()}


def _used(process: psutil.Process) -> float:
    total = 0.0
    for each in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            total += times.user + times.system
            if each is process:
                total += times.children_user + times.children_system
    return total


async def sleep_until(moment: float) -> None:
    """Sleep until ``moment`` in Unix seconds."""
    await asyncio.sleep(max(0.0, moment - time.time()))


def rfc3339(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")
