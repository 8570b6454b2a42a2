"""Every address of the API server is closed to HTTP jobs, and stays closed as they change."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from scheduledjob.jobs.curl.addresses import AddressFilter, AddressRefusedError
from scheduledjob.kube.api_server_addresses import (
    ALL_ENDPOINTS,
    ENDPOINTS,
    KEPT_SECONDS,
    NODES,
    SERVICE,
    VERSIONS,
    ApiServerAddresses,
    _own_addresses,
)
from scheduledjob.kube.client.api_errors import ApiUnavailable, Forbidden
from tests.jobs.shell_support import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Access:
    server = "https://192.0.2.1:31249"


class Cluster:
    """An API server that knows its addresses."""

    access = Access()

    def __init__(self) -> None:
        self.slices: list[dict[str, Any]] = []
        self.added: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.answers: dict[str, Any] = {
            VERSIONS: {"serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": "192.0.2.8:6443"}]},
            SERVICE: {
                "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"], "ports": [{"port": 443}]},
                "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}, {"hostname": "lb.example"}]}},
            },
            NODES: {
                "items": [
                    {
                        "status": {
                            "addresses": [
                                {"type": "Hostname", "address": "control-1"},
                                {"type": "InternalIP", "address": "192.0.2.4"},
                                {"type": "ExternalIP", "address": "203.0.113.4"},
                            ]
                        }
                    }
                ]
            },
        }
        self.endpoints("192.0.2.2", "192.0.2.3")

    def endpoints(self, *addresses: str) -> None:
        self.answers[ENDPOINTS] = {"endpoints": [{"addresses": list(addresses)}], "ports": [{"port": 6443}]}

    def alias(self, namespace: str, name: str, endpoint: str, port: int, **spec: Any) -> None:
        """Add a Service that leads to an endpoint."""
        self.answers.setdefault(f"/api/v1/namespaces/{namespace}/services", {"items": []})["items"].append(
            {"metadata": {"name": name}, "spec": spec}
        )
        self.slices.append(
            {
                "metadata": {
                    "uid": f"{namespace}/{name}",
                    "namespace": namespace,
                    "labels": {"kubernetes.io/service-name": name},
                    "resourceVersion": "1",
                },
                "endpoints": [{"addresses": [endpoint]}],
                "ports": [{"port": port}],
            }
        )

    async def pages(self, path: str, *_: Any, **__: Any) -> AsyncIterator[Any]:
        assert path == ALL_ENDPOINTS
        yield {"metadata": {"resourceVersion": "1"}, "items": self.slices}

    async def watch(self, path: str, *_: Any, **__: Any) -> AsyncIterator[Any]:
        while True:
            yield {"type": "ADDED", "object": await self.added.get()}

    async def get(self, path: str, params: Any = None, **_: Any) -> Any:
        answer = self.answers[path if path != NODES or "labelSelector" in params else "all nodes"]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def addresses() -> AddressFilter:
    return AddressFilter(["10.0.0.0/8", "192.0.2.0/24", "203.0.113.0/24", "fd00::/8"])


@pytest.fixture
def kept(cluster: Cluster, addresses: AddressFilter) -> ApiServerAddresses:
    return ApiServerAddresses(cluster, addresses)  # type: ignore[arg-type]  # it stands in for the client


def is_closed(addresses: AddressFilter, address: str, port: int) -> bool:
    try:
        addresses.check(address, port)
    except AddressRefusedError:
        return True
    return False


def test_the_configured_address_is_closed_before_anything_was_read(
    kept: ApiServerAddresses, addresses: AddressFilter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    kept.read_configuration()
    assert is_closed(addresses, "192.0.2.1", 31249)
    assert is_closed(addresses, "10.96.0.1", 443)


async def test_a_server_of_this_machine_is_closed_under_its_other_addresses(
    kept: ApiServerAddresses, addresses: AddressFilter, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ["192.0.2.40", "fd00::40"]
    monkeypatch.setattr("scheduledjob.kube.api_server_addresses._own_addresses", lambda: iter(own))
    await kept.refresh()
    assert not any(is_closed(addresses, address, 31249) for address in own)
    monkeypatch.setattr(cluster.access, "server", "https://127.0.0.1:31249")
    await kept.refresh()
    assert all(is_closed(addresses, address, 31249) for address in own)
    assert not is_closed(addresses, "192.0.2.40", 80)


def test_the_addresses_of_this_machine() -> None:
    assert "127.0.0.1" in set(_own_addresses())


@pytest.mark.parametrize(
    ("address", "port"),
    [
        ("192.0.2.1", 31249), ("192.0.2.8", 6443), ("10.96.0.1", 443), ("fd00::1", 443), ("203.0.113.1", 443),
        ("192.0.2.2", 6443), ("192.0.2.3", 6443), ("::ffff:192.0.2.3", 6443), ("192.0.2.4", 6443),
        ("203.0.113.4", 6443),
    ],
)  # fmt: skip
async def test_every_address_is_closed(
    kept: ApiServerAddresses, addresses: AddressFilter, address: str, port: int
) -> None:
    assert not is_closed(addresses, address, port)
    await kept.refresh()
    assert is_closed(addresses, address, port)
    assert not is_closed(addresses, "192.0.2.7", 6443)


async def test_addresses_change_and_the_old_ones_stay_closed_for_some_time(
    kept: ApiServerAddresses, addresses: AddressFilter, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    await kept.refresh()
    cluster.endpoints("192.0.2.5")
    now[0] += KEPT_SECONDS - 1
    await kept.refresh()
    assert is_closed(addresses, "192.0.2.5", 6443)
    assert is_closed(addresses, "192.0.2.2", 6443)
    now[0] += 2
    await kept.refresh()
    assert not is_closed(addresses, "192.0.2.2", 6443)
    assert is_closed(addresses, "192.0.2.5", 6443)


async def test_what_may_not_be_read_is_logged_once(
    kept: ApiServerAddresses, addresses: AddressFilter, cluster: Cluster
) -> None:
    cluster.answers[NODES] = Forbidden(403, "Forbidden", "nodes is forbidden")
    with structlog.testing.capture_logs() as logs:
        await kept.refresh()
        await kept.refresh()
        cluster.answers = dict.fromkeys(cluster.answers, ApiUnavailable(0, "", "no answer"))
        await kept.refresh()
    assert [(line["path"], line["error"]) for line in logs] == [(NODES, "nodes is forbidden")]
    assert is_closed(addresses, "192.0.2.2", 6443)  # as before the outage


async def test_answers_of_another_form_are_no_addresses(
    kept: ApiServerAddresses, addresses: AddressFilter, cluster: Cluster
) -> None:
    cluster.answers = {
        VERSIONS: {"serverAddressByClientCIDRs": [{}, {"serverAddress": "no address"}]},
        SERVICE: {"spec": {"clusterIP": "None"}},
        ENDPOINTS: {"endpoints": [{"addresses": ["control.example"]}], "ports": None},
        NODES: [],
    }
    await kept.refresh()
    assert is_closed(addresses, "192.0.2.1", 31249)


# ---------------------------------------------------------------- aliases


@asynccontextmanager
async def running(kept: ApiServerAddresses) -> AsyncIterator[None]:
    task = asyncio.create_task(kept.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_service_of_any_namespace_that_leads_to_the_server_is_closed(
    kept: ApiServerAddresses, addresses: AddressFilter, cluster: Cluster
) -> None:
    ports = [{"port": 8443, "nodePort": 31443}]
    cluster.alias(
        "team-b", "alias", "192.0.2.2", 6443, clusterIPs=["10.96.0.7"], externalIPs=["203.0.113.9"], ports=ports
    )
    cluster.alias("team-b", "in-ipv6", "FD00:0::1", 443, clusterIP="10.96.0.8", ports=[{"port": 1}])
    cluster.alias("team-c", "of-node-port", "192.0.2.90", 31443, clusterIP="10.96.0.9", ports=[{"port": 2}])
    cluster.alias("team-c", "of-service", "10.96.0.9", 2, clusterIP="10.96.0.10", ports=[{"port": 3}])
    cluster.alias("team-c", "web", "192.0.2.80", 8080, clusterIP="10.96.0.11", ports=[{"port": 80}])
    cluster.alias("team-c", "other-port", "192.0.2.2", 2379, clusterIP="10.96.0.12", ports=[{"port": 2379}])
    cluster.answers["all nodes"] = {
        "items": [{"status": {"addresses": [{"address": "192.0.2.90"}, {"address": "worker-1"}]}}]
    }
    async with running(kept):
        await until(lambda: is_closed(addresses, "10.96.0.7", 8443) and is_closed(addresses, "10.96.0.10", 3))
    for address, port in (
        ("203.0.113.9", 8443), ("192.0.2.90", 31443), ("::ffff:192.0.2.90", 31443), ("10.96.0.8", 1), ("10.96.0.9", 2)
    ):  # fmt: skip
        assert is_closed(addresses, address, port), address
    for address, port in (("10.96.0.11", 80), ("10.96.0.12", 2379), ("192.0.2.90", 80), ("192.0.2.91", 31443)):
        assert not is_closed(addresses, address, port), address


async def test_an_alias_is_closed_as_soon_as_it_is_made(
    kept: ApiServerAddresses, addresses: AddressFilter, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduledjob.kube.api_server_addresses.INTERVAL", 1e6)
    async with running(kept):
        await until(lambda: is_closed(addresses, "192.0.2.2", 6443))
        cluster.alias("team-b", "alias", "192.0.2.2", 6443, clusterIP="10.96.0.7", ports=[{"port": 443}])
        cluster.added.put_nowait(cluster.slices[-1])
        await until(lambda: is_closed(addresses, "10.96.0.7", 443))


async def test_the_name_of_a_load_balancer_is_looked_up(
    kept: ApiServerAddresses, addresses: AddressFilter, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def getaddrinfo(name: str, *_: Any, **__: Any) -> list[Any]:
        if name != "lb.example":
            raise OSError
        return [(0, 0, 0, "", ("203.0.113.77", 0))]

    monkeypatch.setattr("socket.getaddrinfo", getaddrinfo)
    await kept.refresh()
    assert is_closed(addresses, "203.0.113.77", 443)
