"""`helm install` with no values, and every example of examples/cluster, run on a node."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cluster.e2e.operators import annotate, recent, until
from tests.cluster.harness import SCHEDULED_JOBS

if TYPE_CHECKING:
    from tests.cluster.harness import ApiClient
    from tests.e2e.release import Release

pytestmark = [pytest.mark.e2e, pytest.mark.node]

EXAMPLES = Path(__file__).parents[2] / "examples" / "cluster"
TEAM = "team-a"
ELSEWHERE = {"http-ping", "nightly-database-backup", "word-count"}
"""They need what is not on this node: a host of the internet, a database's image, an image of the user's own."""


async def succeeded(api: ApiClient, name: str) -> None:
    """Wait for the run that was asked for, and for its good end."""
    body = await until(
        api,
        TEAM,
        name,
        lambda one: any(run.get("token") == "now" and run.get("outcome") for run in recent(one)),
        f"the end of a run of {name}",
    )
    (run,) = (run for run in recent(body) if run.get("token") == "now")
    assert run["outcome"] == "Succeeded", (name, run)


async def test_the_examples_succeed_on_an_operator_with_no_values(release: Release) -> None:
    cluster = release.node.cluster
    async with release.told(), cluster.client() as api:
        notes = await release.install()
        assert "with 1 replica and its store in memory" in notes
        assert "it ran at" in await release.test()
        await release.namespace(TEAM)
        await cluster.kubectl("apply", "--server-side", "-R", "-n", TEAM, "-f", str(EXAMPLES))
        jobs = await api.list(f"{SCHEDULED_JOBS}/namespaces/{TEAM}/scheduledjobs")
        names = {each["metadata"]["name"] for each in jobs}
        assert names > ELSEWHERE
        async with asyncio.TaskGroup() as waiting:
            for name in sorted(names - ELSEWHERE):
                await annotate(api, TEAM, name, run_now="now")
                waiting.create_task(succeeded(api, name))
        pods = await api.list(f"/api/v1/namespaces/{TEAM}/pods", labelSelector="scheduledjobs.dev/name")
        assert {each["metadata"]["labels"]["scheduledjobs.dev/name"] for each in pods} >= {"one-shot", "payroll"}
