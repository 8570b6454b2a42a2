"""Keeps the addresses of the API server current for the address filter of inline HTTP jobs.

The API server has more addresses than the one that the operator is configured with: those of its Service and of the
endpoints behind it, and those of the control plane's nodes, on which it listens as well. They change when a control
plane is repaired or scaled. So they are read again every ``INTERVAL``. An address that has disappeared stays closed for
``KEPT_SECONDS``: the server may still answer there.

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
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import structlog

from scheduledjob.kube.client.api_errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterator

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

Place = tuple[str, int | None]
"""An address and a port; None: every port."""


class ApiServerAddresses:
    """Tells an address filter where the API server is."""

    def __init__(self, api: Api, addresses: AddressFilter) -> None:
        self._api = api
        self._addresses = addresses
        self._seen: dict[Place, float] = {}
        self._failures: dict[str, str] = {}

    def read_configuration(self) -> None:
        """Close the configured address, before the first job runs. Blocks while its name is looked up."""
        self._close(_configured(self._api.access.server))

    async def run(self) -> None:
        """Keep the filter current until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(INTERVAL)

    async def refresh(self) -> None:
        """Read the addresses once."""
        found = await asyncio.to_thread(_configured, self._api.access.server)
        versions = await self._get(VERSIONS)
        found += _advertised(versions)
        found += _of_service(await self._get(SERVICE))
        endpoints = _of_endpoints(await self._get(ENDPOINTS))
        found += endpoints
        ports = {port for _, port in endpoints} or {None}
        nodes = await self._get(NODES, _CONTROL_PLANE)
        found += [(address, port) for address in _of_nodes(nodes) for port in ports]
        self._close(found)

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

    def _close(self, found: list[Place]) -> None:
        now = time.monotonic()
        self._seen |= dict.fromkeys((place for place in found if _is_address(place[0])), now)
        self._seen = {place: seen for place, seen in self._seen.items() if now - seen < KEPT_SECONDS}
        self._addresses.close_api_server(self._seen)


def _configured(server: str) -> list[Place]:
    """Return where the configured server is. A name that can't be resolved now is none."""
    url = urlsplit(server)
    port = url.port or (443 if url.scheme == "https" else 80)
    in_pod = os.environ.get("KUBERNETES_SERVICE_HOST")
    places: list[Place] = []
    for name, its_port in ((url.hostname, port), (in_pod, _number(os.environ.get("KUBERNETES_SERVICE_PORT")))):
        if name:
            try:
                found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            except OSError:
                continue
            places += [(str(info[4][0]), its_port) for info in found]
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


def _of_service(service: dict[str, Any]) -> list[Place]:
    spec, status = service.get("spec") or {}, service.get("status") or {}
    ingress = (status.get("loadBalancer") or {}).get("ingress") or ()
    addresses = [
        spec.get("clusterIP"),
        *(spec.get("clusterIPs") or ()),
        *(spec.get("externalIPs") or ()),
        *(entry.get("ip") for entry in ingress),
    ]
    ports = [port.get("port") for port in spec.get("ports") or ()]
    return [(str(address), _number(port)) for address in addresses if address for port in ports or (None,)]


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


def _is_address(text: str) -> bool:
    try:
        ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True


def _number(value: object) -> int | None:
    try:
        return int(str(value))
    except ValueError:
        return None
