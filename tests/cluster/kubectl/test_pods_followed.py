"""Runs that are Pods: their output is followed as they print it, on a node on which Pods truly run."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING

import pytest

from scheduledjob.cli.kubectl.cluster_access import Cluster as PluginCluster
from scheduledjob.cli.kubectl.cluster_access import Where
from scheduledjob.cli.kubectl.waiting import Progress, _Output
from scheduledjob.kube.client.api import Api
from tests.cluster.crd.install import install
from tests.cluster.e2e.operators import PATIENCE, OperatorProcess, annotate, granted, manifest, recent, until
from tests.cluster.harness import BUSYBOX_IMAGE
from tests.cluster.kubectl.support import Plugin, end

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.cluster.harness import Node

pytestmark = [pytest.mark.cluster, pytest.mark.node]

NEVER = 'at: "2099-01-01T00:00:00Z"'


@pytest.fixture
async def operator(node: Node, node_namespace: str) -> AsyncIterator[OperatorProcess]:
    await install(node.cluster)
    kubeconfig = await granted(node.cluster, f"operator-{node_namespace}", node_namespace, [node_namespace])
    flags = [f"--namespaces={node_namespace}", "--store=memory:"]
    async with OperatorProcess(kubeconfig, node_namespace, *flags) as operator:
        yield operator


@pytest.fixture
def plugin(node: Node, node_namespace: str, tmp_path: Path) -> Plugin:
    return Plugin(node.cluster.kubeconfig, node_namespace, tmp_path)


def container(script: str) -> str:
    return f'{{container: {{image: "{BUSYBOX_IMAGE}", command: [sh, -c, "{script}"]}}}}'


@pytest.mark.usefixtures("operator")
async def test_output_is_followed_live(node: Node, plugin: Plugin, node_namespace: str) -> None:
    script = "echo begin $SCHEDULEDJOB_PAYLOAD; mkfifo /tmp/f; read x </tmp/f; echo end $x"
    await node.cluster.apply(manifest("job", NEVER, container(script)), "-n", node_namespace)
    process = await plugin.start("trigger", "job", "--wait", "--payload", "a word")
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            assert await process.stdout.readline() == b"begin a word\n"
        # It runs until it is stopped, and what it has printed is here already.
        async with node.cluster.client() as api:
            (pod,) = await api.list(f"/api/v1/namespaces/{node_namespace}/pods")
        following = await plugin.start("logs", "job", "--follow")
        name = pod["metadata"]["name"]
        await node.cluster.kubectl(
            "exec", "-n", node_namespace, name, "-c", "job", "--", "sh", "-c", "echo now >/tmp/f"
        )
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate()
            followed, _ = await following.communicate()
    finally:
        await end(process)
    assert process.returncode == 0
    assert out == b"end now\n"
    assert b"Succeeded" in err
    assert followed == b"begin a word\nend now\n"


@pytest.mark.usefixtures("operator")
async def test_each_attempt_is_shown(node: Node, plugin: Plugin, node_namespace: str) -> None:
    script = "echo try $SCHEDULEDJOB_ATTEMPT; exit 3"
    more = "  retry: {maxRetries: 1, fixed: {intervals: [1s]}}"
    await node.cluster.apply(manifest("job", NEVER, container(script), more), "-n", node_namespace)
    done = await plugin("trigger", "job", "--wait")
    assert done.code == 3
    assert done.out == "try 1\ntry 2\n"
    assert "Failed" in done.err.splitlines()[-1]
    assert "attempt 2: exit code 3" in done.err.splitlines()[-1]
    shown = await plugin.on_a_terminal("trigger", "job", "--wait")
    assert shown.code == 3
    assert "try 1\r\n" in shown.out
    assert "try 2\r\n" in shown.out


@pytest.mark.usefixtures("operator")
async def test_logs_are_those_of_the_newest_pod(node: Node, plugin: Plugin, node_namespace: str) -> None:
    await node.cluster.apply(
        manifest("job", NEVER, container("echo first; echo $SCHEDULEDJOB_RUN_ID")), "-n", node_namespace
    )
    assert (await plugin("trigger", "job", "--wait")).code == 0
    assert (await plugin("trigger", "job", "--wait")).code == 0
    async with node.cluster.client() as api:
        body = await until(api, node_namespace, "job", lambda body: len(recent(body)) == 2)
    newest, oldest = (run["runID"] for run in recent(body))
    done = await plugin("logs", "job")
    assert done.out == f"first\n{newest}\n"
    assert "attempt 1 <==" in done.err
    assert (await plugin("logs", "job", "--tail", "1", "--run", oldest)).out == f"{oldest}\n"


@pytest.mark.usefixtures("operator")
async def test_a_job_too_quick_for_the_watch_is_shown_all_the_same(
    node: Node, plugin: Plugin, node_namespace: str
) -> None:
    await node.cluster.apply(manifest("job", NEVER, container("echo quick")), "-n", node_namespace)
    async with node.cluster.client() as client:
        await annotate(client, node_namespace, "job", run_now="one")
        body = await until(client, node_namespace, "job", recent)
    (run,) = recent(body)
    written = io.BytesIO()
    stream = io.TextIOWrapper(written)
    async with Api.from_config(str(plugin.kubeconfig)) as api, asyncio.TaskGroup() as group:
        cluster = PluginCluster(api, Where())
        output = _Output(cluster, body, run["runID"], Progress(), stream)
        watching = group.create_task(asyncio.sleep(PATIENCE))
        await output.finish(watching)
        assert output.printed
        await output.finish(watching)  # and once only
    assert written.getvalue() == b"quick\n"
