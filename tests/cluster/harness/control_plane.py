"""A control plane of one's own: etcd, kube-apiserver and kube-controller-manager on the loopback address.

Each has its port, its directory and its log, and all of it is gone after `close`, or when this process dies. Tests
may kill, pause and restart each one (see `components.Component`).
"""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import secrets
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.cluster.harness.binaries import CONTROL_PLANE, programs
from tests.cluster.harness.cluster import Cluster
from tests.cluster.harness.components import Component, lasting_port
from tests.cluster.harness.credentials import Authority, certificate_user, in_base64, write_kubeconfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

PROBE_SECONDS = 2.0
DEFAULT_ACCOUNT = "/api/v1/namespaces/default/serviceaccounts/default"


_NETWORKS = [(row, column) for row in range(32) for column in range(256)]


class Network:
    """The addresses of one cluster, chosen at random so that two can run on one machine."""

    def __init__(self) -> None:
        taken = {path.name for path in Path("/sys/class/net").glob("sj-*")}
        row, column = random.choice([each for each in _NETWORKS if _bridge(*each) not in taken])
        self.name = _bridge(row, column)
        self.services = f"10.{160 + row}.{column}.0/24"
        self.api_service = f"10.{160 + row}.{column}.1"
        self.pods = f"10.{128 + row}.{column}.0/24"
        self.gateway = f"10.{128 + row}.{column}.1"


def _bridge(row: int, column: int) -> str:
    return f"sj-{row:02x}{column:02x}"


class ControlPlane(Cluster):
    """A control plane that runs inside ``async with``, or from `start` to `close`."""

    def __init__(
        self, *, durable: bool = False, apiserver_flags: Sequence[str] = (), controller_flags: Sequence[str] = ()
    ) -> None:
        """`durable`: etcd syncs to disk and the controller manager has its own rate limit, as benchmarks want it.

        Further flags come last and so win, such as ``--watch-cache=false``. Raises ServerUnavailableError where there
        are no programs, and takes minutes where they are built first.
        """
        found = programs(CONTROL_PLANE)
        super().__init__()
        self._kubectl = found["kubectl"]
        self.network = Network()
        self._etcd_port, peer_port, self.api_port = lasting_port(), lasting_port(), lasting_port()
        self.server = f"https://127.0.0.1:{self.api_port}"
        self.authority = Authority(self.directory / "pki")
        admin = self.authority.issue_client("admin", ["system:masters"])
        self.kubeconfig = self.kubeconfig_of("admin", admin)
        self._tls = ssl.create_default_context(cafile=str(self.authority.certificate))
        self._tls.verify_flags &= ~ssl.VERIFY_X509_STRICT
        self._tls.load_cert_chain(*admin)
        self._member = f"etcd-{secrets.token_hex(6)}"
        logs = self.directory
        self.etcd = Component(
            [found["etcd"], *self._etcd_flags(peer_port), *([] if durable else ["--unsafe-no-fsync"])],
            logs / "etcd",
            self._etcd_is_ours,
        )
        self.apiserver = Component(
            [found["kube-apiserver"], *self._apiserver_flags(), *apiserver_flags],
            logs / "kube-apiserver",
            lambda: self.ask("/readyz") is not None,
        )
        quick = [] if durable else ["--kube-api-qps=500", "--kube-api-burst=1000"]
        self.controller_manager = Component(
            [found["kube-controller-manager"], *self._controller_flags(), *quick, *controller_flags],
            logs / "kube-controller-manager",
            # A Pod is refused until its namespace has this account, which the controller manager makes.
            lambda: self.ask(DEFAULT_ACCOUNT) is not None,
        )

    @property
    def components(self) -> list[Component]:
        """In the order in which they start."""
        return [self.etcd, self.apiserver, self.controller_manager]

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
        """Start what does not run, in order, each once the one before it answers."""
        for each in self.components:
            if not each.running:
                await each.start()

    async def close(self) -> None:
        """End everything and remove its data."""
        for each in reversed(self.components):
            if each.running:
                each.kill()
        await super().close()

    def kubeconfig_for(self, user: str, groups: Iterable[str] = ()) -> Path:
        return self.kubeconfig_of(user, self.authority.issue_client(user, groups))

    def kubeconfig_of(self, name: str, certificate: tuple[Path, Path]) -> Path:
        """A kubeconfig that shows a certificate which the cluster's authority has issued."""
        path = self.directory / f"{certificate[0].stem}.kubeconfig"
        trusted = in_base64(self.authority.certificate.read_bytes())
        cluster = {"server": self.server, "certificate-authority-data": trusted}
        return write_kubeconfig(path, cluster, certificate_user(*certificate))

    def ask(self, path: str) -> dict[str, Any] | None:
        """What the administrator gets from the API server at once, with blocking, or None if it does not say 200."""
        connection = http.client.HTTPSConnection("127.0.0.1", self.api_port, timeout=PROBE_SECONDS, context=self._tls)
        try:
            connection.request("GET", path, headers={"Accept": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        if answer.status != 200:
            return None
        parsed: dict[str, Any] = {} if content == b"ok" else json.loads(content)
        return parsed

    async def compact_etcd(self) -> int:
        """Make etcd forget every revision before the newest, which is returned.

        A watch or a list from an older one is then refused with 410, as soon as the API server asks etcd for it: it
        answers from a cache of its own what it has seen since it started, so restart it, or start it with
        ``--watch-cache=false``.
        """
        answer = await asyncio.to_thread(self._ask_etcd, "kv/range", {"key": in_base64(b"/")})
        revision = int(answer["header"]["revision"])
        await asyncio.to_thread(self._ask_etcd, "kv/compaction", {"revision": revision, "physical": True})
        return revision

    def _etcd_flags(self, peer_port: int) -> list[str]:
        client, peer = f"http://127.0.0.1:{self._etcd_port}", f"http://127.0.0.1:{peer_port}"
        return [
            f"--name={self._member}",
            f"--data-dir={self.directory / 'etcd' / 'data'}",
            "--log-level=warn",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster={self._member}={peer}",
        ]

    def _apiserver_flags(self) -> list[str]:
        names = ["127.0.0.1", self.network.api_service, self.network.gateway, "localhost"]
        names += ["kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
        certificate, key = self.authority.issue_server("kube-apiserver", names)
        to_kubelet = self.authority.issue_client("kube-apiserver-kubelet-client", ["system:masters"])
        return [
            "--bind-address=127.0.0.1",
            f"--secure-port={self.api_port}",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",  # Endpoints may hold no loopback address: it could only fail
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            f"--service-cluster-ip-range={self.network.services}",
            f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}",
            f"--client-ca-file={self.authority.certificate}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={self.authority.token_key}",
            f"--service-account-signing-key-file={self.authority.token_key}",
            f"--kubelet-client-certificate={to_kubelet[0]}",
            f"--kubelet-client-key={to_kubelet[1]}",
            "--kubelet-preferred-address-types=Hostname",
            # Else it waits at its end for a minute for watches that their clients keep open.
            "--shutdown-watch-termination-grace-period=1s",
        ]

    def _controller_flags(self) -> list[str]:
        user = "system:kube-controller-manager"
        return [
            f"--kubeconfig={self.kubeconfig_for(user)}",
            "--leader-elect=false",
            "--secure-port=0",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={self.authority.token_key}",
            f"--root-ca-file={self.authority.certificate}",
            f"--cluster-signing-cert-file={self.authority.certificate}",
            f"--cluster-signing-key-file={self.authority.key}",
        ]

    def _etcd_is_ours(self) -> bool:
        """Whether etcd answers, and is not another cluster's that was quicker to take the port."""
        try:
            members = self._ask_etcd("cluster/member/list", {})["members"]
        except (OSError, http.client.HTTPException, RuntimeError):
            return False
        return [each.get("name") for each in members] == [self._member]

    def _ask_etcd(self, path: str, body: dict[str, object]) -> dict[str, Any]:
        """A call of etcd's JSON gateway; RuntimeError with its answer when it refuses."""
        connection = http.client.HTTPConnection("127.0.0.1", self._etcd_port, timeout=PROBE_SECONDS)
        try:
            connection.request("POST", f"/v3/{path}", json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise RuntimeError(f"etcd refused {path}: {content.decode(errors='replace')}")
        parsed: dict[str, Any] = json.loads(content)
        return parsed
