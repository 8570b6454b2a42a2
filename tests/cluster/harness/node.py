"""A real node for a control plane of the harness: Pods on it run, fail, are evicted and are killed.

kube-scheduler and kubelet come from the same Go modules as the control plane; containerd, runc, the CNI plugins and
busybox are Debian's. It needs root. Nothing is pulled: images are made from folders. There is no kube-proxy and no name
server: three DNAT rules take Pods to the API server at its Service's address and to every server on the loopback
address of this machine at the bridge's (`Node.host`).

All names are this node's own (bridge, control groups, ports, addresses), so that two can live side by side, and
node_end.sh takes them away, when the tests were killed too.
"""

from __future__ import annotations

import asyncio
import fcntl
import http.client
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.cluster.harness.binaries import NODE, programs
from tests.cluster.harness.components import Component, lasting_port
from tests.cluster.harness.images import SEARCH, busybox_rootfs, pack
from tests.cluster.harness.node_files import cni_config, containerd_config, kubelet_config, nat_rules
from tests.support.processes import ServerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from tests.cluster.harness.control_plane import ControlPlane

# The API server dials a node by this name.
NODE_NAME = "localhost"
BUSYBOX_IMAGE = "localhost/busybox:1"
PAUSE_IMAGE = "localhost/pause:1"
PACKAGES = "containerd runc containernetworking-plugins busybox-static iptables iproute2"
_DEBIAN = ("containerd", "ctr", "runc", "iptables", "ip", "/usr/lib/cni/bridge", "/bin/busybox")
_END = Path(__file__).with_name("node_end.sh")
_SETTINGS = Path("/run/scheduledjob-nodes")
_SYSCTLS = (  # what the kubelet and the bridge plugin set for the whole machine
    "net/ipv4/ip_forward",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)


class Node:
    """The one node of `cluster`, which is ready inside ``async with``, or from `start` to `close`."""

    def __init__(self, cluster: ControlPlane) -> None:
        """`cluster` runs, and outlives the node. Raises ServerUnavailableError where there can be no node."""
        self.cluster = cluster
        if os.geteuid() != 0:
            raise ServerUnavailableError("a node needs root")
        debian = {name: shutil.which(name, path=SEARCH) or "" for name in _DEBIAN}
        if missing := [name for name, path in debian.items() if not path]:
            raise ServerUnavailableError(f"a node needs {', '.join(missing)}: apt-get install {PACKAGES}")
        found = programs(NODE)
        self.network = cluster.network
        self.directory = Path(tempfile.mkdtemp(prefix="scheduledjob-node-", dir="/tmp"))
        self._port, self._health_port = lasting_port(), lasting_port()
        socket = self.directory / "containerd.sock"
        self._ctr = [debian["ctr"], "--address", str(socket), "--namespace", "k8s.io"]
        self.scheduler = Component(
            [
                found["kube-scheduler"],
                f"--kubeconfig={cluster.kubeconfig_for('system:kube-scheduler')}",
                "--leader-elect=false",
                "--secure-port=0",
            ],
            self.directory / "kube-scheduler",
            lambda: True,
        )
        self.containerd = Component(
            [debian["containerd"], "--config", self.directory / "containerd.toml", "--log-level", "warn"],
            self.directory / "containerd",
            lambda: subprocess.run([*self._ctr, "version"], capture_output=True, check=False).returncode == 0,
        )
        self.kubelet = Component(
            [
                found["kubelet"],
                f"--config={self.directory / 'kubelet.yaml'}",
                f"--kubeconfig={cluster.kubeconfig_for(f'system:node:{NODE_NAME}', ['system:nodes'])}",
                f"--hostname-override={NODE_NAME}",
                f"--node-ip={self.network.gateway}",
                f"--root-dir={self.directory / 'kubelet-root'}",
                f"--cert-dir={self.directory / 'kubelet-root' / 'pki'}",
            ],
            self.directory / "kubelet",
            self._ready,
        )
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def importing(self) -> list[str]:
        """The command that gives the node the images of an archive, whose path comes last."""
        return [*self._ctr, "images", "import"]

    @property
    def host(self) -> str:
        """The address at which Pods reach what listens on 127.0.0.1 of this machine, at the same port."""
        return self.network.gateway

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Start what does not run; the node is Ready, and has the busybox image, when it returns."""
        if self._guard is None:
            await asyncio.to_thread(self._prepare)
            await self.containerd.start()
            await self._import_base_images()
        for each in (self.containerd, self.scheduler, self.kubelet):
            if not each.running:
                await each.start()

    async def close(self) -> None:
        """End the node and its Pods, and remove every trace of it from the machine."""
        for each in (self.kubelet, self.scheduler, self.containerd):
            if each.running:
                each.kill()
        await asyncio.to_thread(self._end)

    async def import_image(self, name: str, rootfs: Path, command: Sequence[str] = (), *, user: str = "") -> None:
        """Make the files below `rootfs` the image `name`, such as ``localhost/mine:1``, which Pods can then run.

        `command` is what runs where the Pod names none, as `user` (``"1000:1000"``), which else is root. A Pod pulls
        an image of the tag ``latest`` or none, so give another tag.
        """
        archive = self.directory / "image.tar"
        await asyncio.to_thread(pack, archive, name, rootfs, command, user)
        try:
            await self.import_archive(archive)
        finally:
            archive.unlink()

    async def import_archive(self, archive: Path) -> None:
        """Give the node the images of an archive, as `docker save` writes one, under the names in it."""
        await self._run(*self.importing, str(archive))

    def _prepare(self) -> None:
        """Everything outside the servers: files, the bridge, the way to loopback, and control groups."""
        rules = nat_rules(self.network, self.cluster.api_port)
        (self.directory / "nat").write_text("".join(f"{rule}\n" for rule in rules))
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r _; exec /bin/sh "$@"', "guard", _END, self.directory, self.network.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        (self.directory / "resolv.conf").touch()
        (self.directory / "cni").mkdir()
        (self.directory / "cni/10-node.conflist").write_text(cni_config(self.network, self.directory))
        (self.directory / "containerd.toml").write_text(containerd_config(self.directory, PAUSE_IMAGE))
        authority = self.cluster.authority.certificate
        ports = (self._port, self._health_port)
        (self.directory / "kubelet.yaml").write_text(kubelet_config(self.network, self.directory, authority, ports))
        _control_groups(self.network.name)
        _add_bridge(self.network.name)
        for command in (
            f"ip addr add {self.network.gateway}/24 dev {self.network.name}",
            f"ip link set {self.network.name} up",
            *(f"iptables -w -t nat -A {rule}" for rule in rules),
        ):
            _must(command.split())
        # What came in over the bridge may then be delivered to 127.0.0.1.
        Path(f"/proc/sys/net/ipv4/conf/{self.network.name}/route_localnet").write_text("1")

    async def _import_base_images(self) -> None:
        with tempfile.TemporaryDirectory(dir=self.directory) as scratch:
            rootfs = busybox_rootfs(Path(scratch) / "busybox", Path("/bin/busybox"))
            await self.import_image(BUSYBOX_IMAGE, rootfs, ["sh"])
            pause = Path(scratch) / "pause"
            pause.mkdir()
            shutil.copy("/bin/busybox", pause / "sleep")
            await self.import_image(PAUSE_IMAGE, pause, ["/sleep", "2147483647"])

    def _ready(self) -> bool:
        """Whether this kubelet answers, and the API server has heard from it that the node is ready."""
        connection = http.client.HTTPConnection("127.0.0.1", self._health_port, timeout=1.0)
        try:
            connection.request("GET", "/healthz")
            healthy = connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        node = self.cluster.ask(f"/api/v1/nodes/{NODE_NAME}") if healthy else None
        conditions = node["status"].get("conditions", []) if node else []
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    async def _run(self, *command: str) -> None:
        await asyncio.to_thread(_must, command)

    def _end(self) -> None:
        if self._guard is None:
            shutil.rmtree(self.directory, ignore_errors=True)
            return
        self._guard.kill()
        self._guard.communicate()
        self._guard = None
        _must(["/bin/sh", str(_END), str(self.directory), self.network.name])


def _add_bridge(name: str) -> None:
    """Add the bridge, and note the machine's settings if it is the first; node_end.sh gives them back with the last."""
    directory = os.open("/run", os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        if not _SETTINGS.exists():
            files = [Path("/proc/sys") / each for each in _SYSCTLS]
            _SETTINGS.write_text("".join(f"{file} {file.read_text().strip()}\n" for file in files if file.exists()))
        _must(["ip", "link", "add", name, "type", "bridge"])
    finally:
        os.close(directory)


def _control_groups(name: str) -> None:
    """A group of the node's own in every hierarchy: the kubelet refuses to make the one that it is to start from."""
    root = Path("/sys/fs/cgroup")
    if not (root / "cgroup.controllers").exists():  # version 1: a hierarchy for each controller
        for hierarchy in root.iterdir():
            if (hierarchy / "cgroup.procs").exists():
                (hierarchy / name).mkdir(exist_ok=True)
        return
    (root / name).mkdir(exist_ok=True)
    for group in (root, root / name):
        for controller in (group / "cgroup.controllers").read_text().split():
            try:
                (group / "cgroup.subtree_control").write_text(f"+{controller}")
            except OSError:  # one that the kubelet does without; it names in its log one that it needs
                continue


def _must(command: Sequence[str]) -> None:
    environment = {**os.environ, "PATH": SEARCH}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise ServerUnavailableError(f"`{' '.join(command)}` failed: {done.stderr or done.stdout}")
