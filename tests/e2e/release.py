"""The chart, installed by helm as a user does it, on a node with the image; and what tests observe there."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from tests.cluster.chart.helm import CHART, helm, values_of
from tests.cluster.e2e.operators import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.cluster.harness import ApiClient, Node

HOME = "scheduledjob-system"
NAME = "scheduledjob"
TEAM = "team-a"
"""The namespace of the jobs."""
PODS = f"/api/v1/namespaces/{HOME}/pods"
OF_THE_RELEASE = f"app.kubernetes.io/instance={NAME},app.kubernetes.io/component=operator"
PATIENT = ("--wait", "--timeout", f"{PATIENCE:g}s")


class Release:
    """The only release in a node's cluster, in a namespace that enforces the Pod Security Standard `restricted`."""

    def __init__(self, node: Node) -> None:
        self.node = node

    async def install(self, values: str = "", *, again: bool = False) -> str:
        """Run `helm install` and wait until the operator is ready. ``again``: the namespace exists."""
        if not again:
            await self.namespace(HOME)
        return await self._helm("install", str(CHART), *PATIENT, values=values)

    async def upgrade(self, values: str) -> str:
        return await self._helm("upgrade", str(CHART), *PATIENT, values=values)

    async def rollback(self, revision: int) -> None:
        await self._helm("rollback", str(revision), *PATIENT)

    async def test(self) -> str:
        """Run `helm test`, and return its output and that of its Pod."""
        return await self._helm("test", "--logs", "--timeout", f"{PATIENCE:g}s")

    async def uninstall(self) -> None:
        await self._helm("uninstall", *PATIENT)

    async def namespace(self, name: str) -> None:
        """Create a namespace that enforces the Pod Security Standard `restricted`."""
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        async with self.node.cluster.client() as api:
            await api.post("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
            async with asyncio.timeout(PATIENCE):
                accounts = f"/api/v1/namespaces/{name}/serviceaccounts"
                async for _ in api.watch(accounts, fieldSelector="metadata.name=default"):
                    break

    async def pods(self, api: ApiClient) -> list[str]:
        """Return the names of the operator's Pods that are not being deleted."""
        found = await api.list(PODS, labelSelector=OF_THE_RELEASE)
        return [pod["metadata"]["name"] for pod in found if "deletionTimestamp" not in pod["metadata"]]

    @contextlib.asynccontextmanager
    async def diagnosed(self) -> AsyncIterator[None]:
        """Add the cluster's Pods, Events and the operator's last log lines to a failure inside the block."""
        try:
            yield
        except BaseException as error:
            error.add_note(await self._diagnosis())
            raise

    async def _diagnosis(self) -> str:
        kubectl = self.node.cluster.kubectl
        parts = [await kubectl("get", "pods", "-A", "-o", "wide", check=False)]
        parts += [await kubectl("get", "events", "-A", "--sort-by=.lastTimestamp", check=False)]
        parts += [await kubectl("logs", "-n", HOME, "-l", OF_THE_RELEASE, "--tail=40", "--prefix", check=False)]
        parts += [
            await kubectl("logs", "-n", TEAM, "-l", "scheduledjobs.dev/name", "--tail=5", "--prefix", check=False)
        ]
        return "\n".join(f"{part.stdout[-6000:]}{part.stderr}" for part in parts)

    async def _helm(self, command: str, *more: str, values: str | None = None) -> str:
        given: dict[str, Any] | None = None if values is None else values_of(values)
        return await helm(
            command, NAME, *more, "--namespace", HOME, values=given, kubeconfig=self.node.cluster.kubeconfig
        )
