"""The examples on a real API server: each is applied where Pod Security `restricted` is enforced, and runs there.

There is no node, so a run in a Pod has come as far as it can when the API server has taken the Pod.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.crd.install import install
from tests.cluster.e2e.operators import PATIENCE, OperatorProcess, annotate, granted, read
from tests.cluster.harness import SCHEDULED_JOBS

if TYPE_CHECKING:
    from tests.cluster.harness import ApiClient, Cluster

pytestmark = pytest.mark.cluster

EXAMPLES = Path(__file__).parents[3] / "examples" / "cluster"
FILES = sorted(EXAMPLES.rglob("*.yaml"))


@pytest.fixture
async def restricted(cluster: Cluster, namespace: str) -> str:
    """A namespace in which no other Pod may run."""
    await install(cluster)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    async with cluster.client() as api:
        await api.patch(f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": labels}})
    return namespace


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
async def test_the_api_server_takes_it(cluster: Cluster, restricted: str, path: Path) -> None:
    said = await cluster.kubectl("apply", "--server-side", "--validate=strict", "-n", restricted, "-f", str(path))
    assert said.stderr == ""
    # Nothing is written back: what is in Git stays what is in the cluster.
    await cluster.kubectl("diff", "--server-side", "-n", restricted, "-f", str(path))


async def ran(api: ApiClient, namespace: str, name: str) -> str:
    """How the run that was asked for ended, or the Pod in which it runs."""
    path = f"{SCHEDULED_JOBS}/namespaces/{namespace}/scheduledjobs"
    try:
        async with asyncio.timeout(PATIENCE):
            async for event in api.watch(path, fieldSelector=f"metadata.name={name}", resourceVersion="0"):
                status: dict[str, Any] = event["object"].get("status", {})
                for run in [*status.get("active", []), *status.get("recentRuns", [])]:
                    if run.get("token") == "now" and (run.get("pod") or run.get("outcome")):
                        return str(run.get("outcome") or run["pod"])
    except TimeoutError:
        pass
    raise AssertionError(f"{name} did not run: {(await read(api, namespace, name)).get('status')}")


async def test_all_of_them_run_on_an_operator_with_no_values(cluster: Cluster, restricted: str) -> None:
    kubeconfig = await granted(cluster, f"operator-{restricted}", restricted, [restricted])
    await cluster.kubectl("apply", "--server-side", "-R", "-n", restricted, "-f", str(EXAMPLES))
    flags = [f"--namespaces={restricted}", "--pod-image=scheduledjob:0.1.0", "--pod-security=restricted"]
    pods = f"/api/v1/namespaces/{restricted}/pods"
    async with cluster.client() as api, OperatorProcess(kubeconfig, restricted, *flags):
        names = [each["metadata"]["name"] for each in await api.list(
            f"{SCHEDULED_JOBS}/namespaces/{restricted}/scheduledjobs"
        )]  # fmt: skip
        for name in names:
            await annotate(api, restricted, name, run_now="now")
        ends = {name: await ran(api, restricted, name) for name in names}
        for name, end in ends.items():
            if end != "Succeeded":
                pod = await api.get(f"{pods}/{end}")
                assert pod["metadata"]["labels"]["scheduledjobs.dev/name"] == name
    inline = {name for name, end in ends.items() if end == "Succeeded"}
    assert {"several-triggers", "holidays-excluded", "herd-spread-jitter", "pipeline-broken"} <= inline
    assert {"http-ping", "nightly-database-backup", "word-count", "one-shot"}.isdisjoint(inline)
