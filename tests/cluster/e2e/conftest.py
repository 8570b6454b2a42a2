"""What the tests of the whole operator have in common: a cluster with the CRD, a user with the shipped roles, and a
server that inline jobs call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cluster.crd.install import install
from tests.cluster.e2e.operators import OperatorProcess, Sink, granted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.cluster.harness import ApiClient, Cluster


@pytest.fixture
async def sjobs(cluster: Cluster) -> Cluster:
    """The shared cluster, which knows ScheduledJobs."""
    await install(cluster)
    return cluster


@pytest.fixture
async def api(sjobs: Cluster) -> AsyncIterator[ApiClient]:
    """The administrator's client."""
    async with sjobs.client() as client:
        yield client


@pytest.fixture
async def kubeconfig(sjobs: Cluster, namespace: str) -> Path:
    """Of an operator that may do in this test's namespace what the shipped roles say, and nothing else."""
    return await granted(sjobs, f"operator-{namespace}", namespace, [namespace])


@pytest.fixture
async def sink() -> AsyncIterator[Sink]:
    async with Sink() as server:
        yield server


@pytest.fixture
async def operator(kubeconfig: Path, namespace: str) -> AsyncIterator[OperatorProcess]:
    """One that works in this test's namespace, with its store in memory. What it sees, it sees by the watch."""
    flags = [f"--namespaces={namespace}", "--inline-http-allow=127.0.0.1", "--sweep-interval=1h"]
    async with OperatorProcess(kubeconfig, namespace, *flags) as operator:
        yield operator
