"""Every address of the API server is closed to HTTP jobs, and stays closed as they change."""

from __future__ import annotations

import time
from typing import Any

import pytest
import structlog

from scheduledjob.jobs.curl.addresses import AddressFilter, AddressRefusedError
from scheduledjob.kube.api_server_addresses import (
    ENDPOINTS,
    KEPT_SECONDS,
    NODES,
    SERVICE,
    VERSIONS,
    ApiServerAddresses,
    _own_addresses,
)
from scheduledjob.kube.client.api_errors import ApiUnavailable, Forbidden


class Access:
    server = "https://192.0.2.1:31249"


class Cluster:
    """An API server that knows its addresses."""

    access = Access()

    def __init__(self) -> None:
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

    async def get(self, path: str, *_: Any, **__: Any) -> Any:
        answer = self.answers[path]
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
