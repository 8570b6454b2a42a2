"""The node of the harness: that Pods truly run, fail and reach this machine, and that nothing is left of it."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.cluster.harness import BUSYBOX_IMAGE

if TYPE_CHECKING:
    from tests.cluster.harness import Node

pytestmark = [pytest.mark.cluster, pytest.mark.node]


def pod(name: str, *command: str, image: str = BUSYBOX_IMAGE) -> dict[str, Any]:
    container: dict[str, Any] = {"name": "job", "image": image}
    if command:
        container["command"] = ["sh", "-c", *command]
    spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


async def end_of(node: Node, namespace: str, name: str) -> dict[str, Any]:
    """The `terminated` state of the Pod's container, once it has one."""
    async with asyncio.timeout(30), node.cluster.client() as api:
        path = f"/api/v1/namespaces/{namespace}/pods"
        async for event in api.watch(path, fieldSelector=f"metadata.name={name}"):
            for status in event["object"]["status"].get("containerStatuses", []):
                if ended := status["state"].get("terminated"):
                    return dict(ended)
    raise AssertionError("the watch ended")


async def test_a_pod_runs_and_its_exit_code_and_log_are_seen(node: Node, node_namespace: str) -> None:
    async with node.cluster.client() as api:
        await api.post(f"/api/v1/namespaces/{node_namespace}/pods", pod("fails", "echo said; exit 7"))
        assert (await end_of(node, node_namespace, "fails"))["exitCode"] == 7
        assert await api.text(f"/api/v1/namespaces/{node_namespace}/pods/fails/log") == "said\n"


async def test_a_pod_reaches_a_server_on_loopback_and_the_api(node: Node, node_namespace: str) -> None:
    heard = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.set()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, node.cluster.client() as api:
        port = server.sockets[0].getsockname()[1]
        script = f"nc {node.host} {port} </dev/null && nc -w 5 $KUBERNETES_SERVICE_HOST 443 </dev/null"
        await api.post(f"/api/v1/namespaces/{node_namespace}/pods", pod("calls", script))
        assert (await end_of(node, node_namespace, "calls"))["exitCode"] == 0
    assert heard.is_set()


async def test_a_folder_becomes_an_image(node: Node, node_namespace: str, tmp_path: Path) -> None:
    (tmp_path / "words").write_text("from a folder")
    shutil.copy("/bin/busybox", tmp_path / "busybox")
    await node.import_image("localhost/mine:1", tmp_path, ["/busybox", "cat", "/words"], user="1000:1000")
    async with node.cluster.client() as api:
        await api.post(f"/api/v1/namespaces/{node_namespace}/pods", pod("mine", image="localhost/mine:1"))
        assert (await end_of(node, node_namespace, "mine"))["exitCode"] == 0
        assert await api.text(f"/api/v1/namespaces/{node_namespace}/pods/mine/log") == "from a folder"


async def test_pods_outlive_the_kubelet(own_node: Node) -> None:
    called, go_on = asyncio.Event(), asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        called.set()
        await go_on.wait()
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    namespace = await own_node.cluster.new_namespace()
    async with server, own_node.cluster.client() as api, asyncio.timeout(30):
        port = server.sockets[0].getsockname()[1]
        script = f"nc {own_node.host} {port} </dev/null; exit 3"
        await api.post(f"/api/v1/namespaces/{namespace}/pods", pod("waits", script))
        await called.wait()
        own_node.kubelet.kill()
        await own_node.kubelet.start()
        go_on.set()
        assert (await end_of(own_node, namespace, "waits"))["exitCode"] == 3


async def test_nothing_is_left_of_a_node_that_ran_pods(own_node: Node) -> None:
    namespace = await own_node.cluster.new_namespace()
    async with own_node.cluster.client() as api:
        await api.post(f"/api/v1/namespaces/{namespace}/pods", pod("stays", "sleep 1000"))
    await own_node.cluster.kubectl("wait", "pod/stays", "-n", namespace, "--for=condition=Ready", "--timeout=30s")
    before = traces(own_node.directory, own_node.network.name)
    assert any("kubelet" in each for each in before)
    assert any("DNAT" in each for each in before)
    await own_node.close()
    assert not traces(own_node.directory, own_node.network.name)


HOLDER = """
import asyncio
from tests.cluster.harness import ControlPlane, Node
async def hold():
    async with ControlPlane() as cluster, Node(cluster) as node:
        print(node.directory, node.network.name, flush=True)
        await asyncio.Event().wait()
asyncio.run(hold())
"""


@pytest.mark.usefixtures("node")  # so that it is skipped where there can be none
def test_nothing_is_left_of_a_node_whose_tests_were_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        directory, name = holder.stdout.readline().split()
        processes = [each for each in psutil.process_iter(["cmdline"]) if directory in str(each.info["cmdline"])]
        holder.kill()
    assert traces(Path(directory), name)
    psutil.wait_procs(processes, timeout=20)
    assert not traces(Path(directory), name)


def traces(directory: Path, name: str) -> list[str]:
    """What this machine shows of the node in `directory` and of the network `name`: each is of no other node."""
    rules = subprocess.run(["iptables-save", "-t", "nat"], capture_output=True, text=True, check=True).stdout
    lines = [*Path("/proc/mounts").read_text().splitlines(), *rules.splitlines()]
    lines += [" ".join(each.info["cmdline"] or ()) for each in psutil.process_iter(["cmdline"])]
    places = [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir(), Path("/sys/class/net")]
    paths = [str(path) for path in (directory, *(place / name for place in places)) if path.exists()]
    return [*(line for line in lines if str(directory) in line or name in line), *paths]
