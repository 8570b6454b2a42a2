"""`make image-report`: report the contents of the image, and its start on a node with and without a shell.

The node and its control plane are those of the test harness. The chart installs the operator with default values except
for the image. The start is measured from the start of the process to the first 200 of /readyz.
"""

from __future__ import annotations

import asyncio
import sys
import tarfile
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import aiohttp
import psutil

from image.build import archive, default_image
from image.scan import Scan, layers, scan
from tests.cluster.chart.helm import CHART, helm
from tests.cluster.harness import ControlPlane, Node
from tests.support.processes import ServerUnavailableError

OPERATOR_SELECTOR = "app.kubernetes.io/component=operator"
HOME = "scheduledjob-system"
NO_SHELL = "localhost/scheduledjob-without-shell:1"
SHELLS = ("sh", "bash", "dash", "rbash", "busybox")
PATIENCE = 60.0
IDLE_SECONDS = 20.0
POLL_SECONDS = 0.01


class Start(NamedTuple):
    """The start of the operator."""

    seconds: float
    """From the start of the process until it was ready."""
    rss: int
    """Resident memory of all its processes some time later, in bytes."""


async def start(node: Node, image: str) -> Start:
    """Install the chart with this image and measure the start of the operator."""
    repository, _, tag = image.rpartition(":")
    values = {"image": {"repository": repository, "tag": tag}}
    where = ["--namespace", HOME, "--create-namespace"]
    await helm("install", "scheduledjob", str(CHART), *where, values=values, kubeconfig=node.cluster.kubeconfig)
    async with asyncio.timeout(PATIENCE):
        ready = await _first_ready(node)
    operator = _operator(node)
    seconds = ready - operator.create_time()
    await asyncio.sleep(IDLE_SECONDS)
    return Start(seconds, sum(process.memory_info().rss for process in [operator, *operator.children(recursive=True)]))


async def _first_ready(node: Node) -> float:
    """Return when /readyz first returned 200, in seconds since the epoch."""
    async with node.cluster.client() as api, aiohttp.ClientSession() as session:
        address = ""
        while True:
            if not address:
                pods = await api.list(f"/api/v1/namespaces/{HOME}/pods", labelSelector=OPERATOR_SELECTOR)
                living = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
                address = next((pod["status"]["podIP"] for pod in living if "podIP" in pod["status"]), "")
            else:
                with suppress(aiohttp.ClientError):
                    async with session.get(f"http://{address}:8080/readyz") as answer:
                        if answer.status == 200:
                            return time.time()
            await asyncio.sleep(POLL_SECONDS)


def _operator(node: Node) -> psutil.Process:
    """Return the operator's process on this node, found by its control group."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            ours = node.network.name in Path(f"/proc/{process.pid}/cgroup").read_text()
            if ours and process.cmdline()[-1:] == ["operator"]:
                return process
    raise RuntimeError("the operator is ready, but its process was not found")


def unpack_without_shell(folder: Path) -> None:
    """Unpack the image and remove every shell from it."""
    with tarfile.open(archive()) as tar:
        for name in layers(tar):
            with tarfile.open(fileobj=tar.extractfile(name)) as layer:
                layer.extractall(folder, filter="tar")
    for name in SHELLS:
        for path in folder.glob(f"usr/bin/{name}"):
            path.unlink()
    # The image that is made from the directory has the default PATH.
    (folder / "usr/local/bin/scheduledjob").symlink_to("/opt/scheduledjob/bin/scheduledjob")


async def start_unchanged() -> Start:
    """Start the unchanged image. Raises ServerUnavailableError if a node can't be started."""
    async with ControlPlane() as cluster, Node(cluster) as node:
        await node.import_archive(archive())
        return await start(node, default_image())


async def start_without_shell() -> Start:
    """Start the image without shells. Raises ServerUnavailableError if a node can't be started."""
    async with ControlPlane() as cluster, Node(cluster) as node:
        with TemporaryDirectory(dir="/tmp") as folder:
            unpack_without_shell(Path(folder))
            await node.import_image(NO_SHELL, Path(folder), user="65532:65532")
        return await start(node, NO_SHELL)


def contents(found: Scan) -> list[str]:
    lines = [f"size                     {found.size / 1e6:.0f} MB in {found.count} files"]
    lines += [f"user                     {found.user}"]
    for what, paths in found.faults.items():
        shown = "none" if not paths else f"{len(paths)}: {', '.join(paths[:5])}"
        lines.append(f"{what:<25}{shown}")
    return lines


def main() -> int:
    found = scan(archive())
    print("\n".join(contents(found)), flush=True)
    try:
        whole, bare = asyncio.run(start_unchanged()), asyncio.run(start_without_shell())
    except ServerUnavailableError as missing:
        print(f"not measured: {missing}", file=sys.stderr)
        return 1
    print(f"start to ready           {whole.seconds:.2f} s")
    print(f"RSS idle                 {whole.rss / 2**20:.0f} MiB, {IDLE_SECONDS:g} s after the start")
    print(f"without a shell          ready after {bare.seconds:.2f} s")
    return 1 if any(found.faults.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
