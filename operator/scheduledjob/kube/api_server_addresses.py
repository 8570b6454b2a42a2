"""Keeps the addresses of the API server current for the address filter of inline HTTP jobs.

The API server has more addresses than the one that the operator is configured with: those of its Service and of the
endpoints behind it, and those of the control plane's nodes, on which it listens as well. They change when a control
plane is repaired or scaled. So they are read again every ``INTERVAL``. An address that has disappeared stays closed for
``KEPT_SECONDS``: the server may still answer there.

Whoever may write EndpointSlices can make a Service of any namespace an alias of the API server. So all EndpointSlices
are watched. The addresses of a Service with an endpoint that is closed are closed as well, as soon as it is known.

What can't be read, for want of permission, is logged once. What was read before stays closed.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import structlog

from scheduledjob.engine.threads import wait_apart
from scheduledjob.kube.client.api_errors import ApiError
from scheduledjob.kube.watch.reflector import Reflector

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from scheduledjob.jobs.curl.addresses import AddressFilter
    from scheduledjob.kube.client.api import Api

log = structlog.get_logger("scheduledjob.addresses")

INTERVAL = 10.0
KEPT_SECONDS = 600.0

SERVICE = "/api/v1/namespaces/default/services/kubernetes"
ENDPOINTS = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes"
VERSIONS = "/api"
"""Everybody may read it, and it has the address that the answering server advertises."""
NODES = "/api/v1/nodes"
_CONTROL_PLANE = {"labelSelector": "node-role.kubernetes.io/control-plane", "resourceVersion": "0"}
_FROM_CACHE = {"resourceVersion": "0"}
ALL_ENDPOINTS = "/apis/discovery.k8s.io/v1/endpointslices"
_SERVICE_LABEL = "kubernetes.io/service-name"
NODES_SECONDS = 60.0
"""Seconds for which the addresses of all nodes are remembered. They are read only if an alias has a node port."""
_MOST_LINKS = 4
"""The longest chain of Services that is followed, each leading to the next."""

Place = tuple[str, int | None]
"""An address and a port; None: every port."""


class Slice(NamedTuple):
    """What matters of an EndpointSlice."""

    namespace: str
    service: str
    addresses: frozenset[str]
    ports: tuple[int | None, ...]


class ApiServerAddresses:
    """Tells an address filter where the API server is."""

    def __init__(self, api: Api, addresses: AddressFilter) -> None:
        self._api = api
        self._addresses = addresses
        self._seen: dict[Place, float] = {}
        self._failures: dict[str, str] = {}
        self._changed = asyncio.Event()
        self._slices: Reflector[Slice] = Reflector(api, [ALL_ENDPOINTS], "", self._on_slice, keep=_slice)
        self._nodes: frozenset[str] = frozenset()
        """The addresses of all nodes, where Services with a node port are."""
        self._nodes_read_at = -NODES_SECONDS
        self._node_ports: dict[int, float] = {}

    def read_configuration(self) -> None:
        """Close the configured address, before the first job runs. Blocks while its name is looked up."""
        self._close(_configured(self._api.access.server))

    async def run(self) -> None:
        """Keep the filter current until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._slices.run())
            while True:
                self._changed.clear()
                await self.refresh()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), INTERVAL)

    def _on_slice(self, found: Slice, is_gone: bool) -> None:
        if not is_gone and self._is_closed(found, frozenset(address for address, _ in self._seen)):
            self._changed.set()

    def _is_closed(self, item: Slice, hosts: frozenset[str]) -> bool:
        """Whether one of the endpoints is closed. ``hosts``: the addresses of all closed ones, for a quick search."""
        if hosts.isdisjoint(item.addresses) and (not self._node_ports or self._nodes.isdisjoint(item.addresses)):
            return False
        return any(
            (address, port) in self._seen
            or (address, None) in self._seen
            or (port in self._node_ports and address in self._nodes)
            for address in item.addresses
            for port in item.ports
        )

    async def refresh(self) -> None:
        """Read the addresses once."""
        found = await wait_apart(_configured, self._api.access.server)
        versions = await self._get(VERSIONS)
        found += _advertised(versions)
        found += await _of_service(await self._get(SERVICE))
        endpoints = _of_endpoints(await self._get(ENDPOINTS))
        found += endpoints
        ports = {port for _, port in endpoints} or {None}
        nodes = await self._get(NODES, _CONTROL_PLANE)
        found += [(address, port) for address in _of_nodes(nodes) for port in ports]
        self._close(found)
        await self._close_aliases()

    async def _close_aliases(self) -> None:
        """Close the Services with an endpoint that is closed."""
        known: set[tuple[str, str]] = set()
        for _ in range(_MOST_LINKS):
            hosts = frozenset(address for address, _ in self._seen)
            aliases = {
                (item.namespace, item.service) for item in self._slices if item.service and self._is_closed(item, hosts)
            } - known
            if not aliases:
                return
            known |= aliases
            found: list[Place] = []
            node_ports: list[int] = []
            for namespace in sorted({namespace for namespace, _ in aliases}):
                services = await self._get(f"/api/v1/namespaces/{namespace}/services", _FROM_CACHE)
                for service in services.get("items") or ():
                    if (namespace, service["metadata"]["name"]) in aliases:
                        found += await _of_service(service)
                        node_ports += _node_ports(service)
            if node_ports:
                await self._read_nodes()
            self._close(found, node_ports)

    async def _read_nodes(self) -> None:
        if time.monotonic() - self._nodes_read_at >= NODES_SECONDS:
            self._nodes_read_at = time.monotonic()
            nodes = await self._get(NODES, _FROM_CACHE)
            self._nodes = frozenset(filter(None, map(_canonical, _of_nodes(nodes)))) or self._nodes

    async def _get(self, path: str, params: dict[str, str] | None = None) -> dict[str, Any]:
        try:
            answer = await self._api.get(path, params, attempts=1)
        except ApiError as error:
            if error.status and self._failures.get(path) != error.message:
                self._failures[path] = error.message
                log.warning(
                    "an address of the API server can't be read, so inline HTTP jobs may reach it there",
                    path=path,
                    error=error.message,
                )
            return {}
        self._failures.pop(path, None)
        return answer if isinstance(answer, dict) else {}

    def _close(self, found: list[Place], node_ports: Iterable[int] = ()) -> None:
        now = time.monotonic()
        self._seen |= {(_canonical(address), port): now for address, port in found if _canonical(address)}
        self._seen = {place: seen for place, seen in self._seen.items() if now - seen < KEPT_SECONDS}
        self._node_ports |= dict.fromkeys(node_ports, now)
        self._node_ports = {port: seen for port, seen in self._node_ports.items() if now - seen < KEPT_SECONDS}
        self._addresses.close_api_server(self._seen, self._nodes, self._node_ports)


def _configured(server: str) -> list[Place]:
    """Return where the configured server is; nothing if its name can't be resolved now."""
    url = urlsplit(server)
    port = url.port or (443 if url.scheme == "https" else 80)
    in_pod = os.environ.get("KUBERNETES_SERVICE_HOST")
    places: list[Place] = []
    for name, its_port in ((url.hostname, port), (in_pod, _number(os.environ.get("KUBERNETES_SERVICE_PORT")))):
        if name:
            places += [(address, its_port) for address in _resolved(name)]
    if any(ip_address(address.partition("%")[0]).is_loopback for address, _ in places):
        # It is a server of this machine, which may listen on its other addresses as well.
        places += [(address, port) for address in _own_addresses()]
    return places


def _own_addresses() -> Iterator[str]:
    """Yield the addresses of this machine, or of this Pod. On systems other than Linux there are none."""
    with suppress(OSError):
        lines = Path("/proc/net/fib_trie").read_text(encoding="ascii").splitlines()
        for line, below in pairwise(lines):
            if "/32 host LOCAL" in below:
                yield line.split()[-1]
    with suppress(OSError):
        for line in Path("/proc/net/if_inet6").read_text(encoding="ascii").splitlines():
            yield str(IPv6Address(int(line.split()[0], 16)))


def _advertised(versions: dict[str, Any]) -> list[Place]:
    places: list[Place] = []
    for entry in versions.get("serverAddressByClientCIDRs") or ():
        url = urlsplit(f"//{entry.get('serverAddress') or ''}")
        if url.hostname:
            places.append((url.hostname, url.port))
    return places


async def _of_service(service: dict[str, Any]) -> list[Place]:
    spec, status = service.get("spec") or {}, service.get("status") or {}
    ingress = (status.get("loadBalancer") or {}).get("ingress") or ()
    addresses = [
        spec.get("clusterIP"),
        *(spec.get("clusterIPs") or ()),
        *(spec.get("externalIPs") or ()),
        *(entry.get("ip") for entry in ingress),
    ]
    for entry in ingress:
        if entry.get("hostname"):
            addresses += await wait_apart(_resolved, str(entry["hostname"]))
    ports = [port.get("port") for port in spec.get("ports") or ()]
    return [(str(address), _number(port)) for address in addresses if address for port in ports or (None,)]


def _node_ports(service: dict[str, Any]) -> list[int]:
    spec = service.get("spec") or {}
    found = [_number(port.get("nodePort")) for port in spec.get("ports") or ()]
    return [port for port in (*found, _number(spec.get("healthCheckNodePort"))) if port]


def _resolved(name: str) -> list[str]:
    """Return the addresses of a name; none if it can't be resolved now."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [str(info[4][0]) for info in found]


def _slice(body: dict[str, Any]) -> Slice:
    metadata = body["metadata"]
    return Slice(
        str(metadata.get("namespace")),
        str((metadata.get("labels") or {}).get(_SERVICE_LABEL) or ""),
        frozenset(
            _canonical(address)
            for endpoint in body.get("endpoints") or ()
            for address in endpoint.get("addresses") or ()
        ),
        tuple(_number(port.get("port")) for port in body.get("ports") or ()),
    )


def _canonical(address: object) -> str:
    """Return an address in its usual form: IPv6 has many."""
    try:
        return str(ip_address(str(address).partition("%")[0]))
    except ValueError:
        return ""


def _of_endpoints(endpoints: dict[str, Any]) -> list[Place]:
    ports = [port.get("port") for port in endpoints.get("ports") or ()]
    return [
        (str(address), _number(port))
        for endpoint in endpoints.get("endpoints") or ()
        for address in endpoint.get("addresses") or ()
        for port in ports or (None,)
    ]


def _of_nodes(nodes: dict[str, Any]) -> Iterator[str]:
    for node in nodes.get("items") or ():
        for entry in (node.get("status") or {}).get("addresses") or ():
            yield str(entry.get("address"))


def _number(value: object) -> int | None:
    try:
        return int(str(value))
    except ValueError:
        return None
