"""The operator's web server over real connections."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from scheduledjob.web import server as server_module
from scheduledjob.web.listen import Listen
from scheduledjob.web.metrics import Metrics
from scheduledjob.web.server import LARGEST_HEADER, WebServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LOOPBACK = Listen("127.0.0.1", 0)


class ServedState:
    """What the server under test serves."""

    def __init__(self) -> None:
        self.health: str | None = None
        self.conditions: dict[str, str | None] = {"store": None, "api": None}
        self.metrics = Metrics("1.2.3")

    @asynccontextmanager
    async def client(self) -> AsyncIterator[aiohttp.ClientSession]:
        server = WebServer(LOOPBACK, lambda: self.health, lambda: self.conditions, self.metrics.registry)
        async with server, aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as session:
            yield session


@pytest.fixture
def state() -> ServedState:
    return ServedState()


async def get(session: aiohttp.ClientSession, path: str, **headers: str) -> tuple[int, str]:
    async with session.get(path, headers=headers) as response:
        return response.status, await response.text()


async def test_health_does_not_depend_on_readiness(state: ServedState) -> None:
    async with state.client() as session:
        state.conditions["store"] = "the store can't be reached"
        assert await get(session, "/healthz") == (200, "ok\n")
        state.health = "the lease thread stands still for 70 s"
        assert await get(session, "/healthz") == (503, "the lease thread stands still for 70 s\n")


async def test_readiness_names_every_reason(state: ServedState) -> None:
    async with state.client() as session:
        assert await get(session, "/readyz") == (200, "ok\n")
        state.conditions.update(store="it does\nnot answer", crd="there is no CRD")
        assert await get(session, "/readyz") == (503, "store: it does not answer\ncrd: there is no CRD\n")


async def test_readiness_as_json(state: ServedState) -> None:
    async with state.client() as session:
        for reason, status in ((None, 200), ("away", 503)):
            state.conditions["store"] = reason
            async with session.get("/readyz", headers={"Accept": "application/json"}) as response:
                assert response.status == status
                assert await response.json() == {"ready": reason is None, "conditions": {"store": reason, "api": None}}


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [("", "text/plain"), ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text")],
)
async def test_metrics_have_the_requested_format(state: ServedState, accept: str, content_type: str) -> None:
    state.metrics.retries.add()
    async with state.client() as session, session.get("/metrics", headers={"Accept": accept}) as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith(content_type)
        text = await response.text()
    assert "scheduledjob_retries_total 1.0" in text
    if not accept:
        assert {family.name for family in text_string_to_metric_families(text)} >= {"scheduledjob_retries"}


async def test_other_paths_are_not_found(state: ServedState) -> None:
    async with state.client() as session:
        for path in ("/", "/metrics/", "/healthz/../etc/passwd", "/debug"):
            assert await get(session, path) == (404, "not found; the pages are /healthz, /readyz and /metrics\n")
        async with session.post("/healthz") as response:
            assert response.status == 405
        async with session.head("/healthz") as response:
            assert response.status == 200


async def test_the_server_does_not_disclose_its_software(state: ServedState) -> None:
    async with state.client() as session:
        for path in ("/healthz", "/nothing"):
            async with session.get(path) as response:
                assert "Server" not in response.headers


async def test_bodies_and_large_headers_are_refused(state: ServedState) -> None:
    async with state.client() as session:
        async with session.get("/healthz", data=b"x" * 100_000) as response:
            assert response.status == 413
        status, _ = await get(session, "/healthz", **{"X-Much": "x" * (2 * LARGEST_HEADER)})
        assert status == 400
        assert await get(session, "/healthz") == (200, "ok\n")


async def test_an_idle_connection_does_not_block_the_end() -> None:
    server = WebServer(LOOPBACK, lambda: None, dict, CollectorRegistry())
    async with asyncio.timeout(30):
        async with server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


async def test_a_failure_to_listen_is_explained() -> None:
    async with WebServer(LOOPBACK, lambda: None, dict, CollectorRegistry()) as first:
        taken = Listen("127.0.0.1", first.port)
        with pytest.raises(OSError, match=rf"can't listen on 127\.0\.0\.1:{first.port}: another program uses it"):
            await WebServer(taken, lambda: None, dict, CollectorRegistry()).__aenter__()
    with pytest.raises(OSError, match=r"192\.0\.2\.1 is not an address of this machine"):
        await WebServer(Listen("192.0.2.1", 0), lambda: None, dict, CollectorRegistry()).__aenter__()


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="there is no IPv6 here")
async def test_one_port_serves_ipv4_and_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "EVERY_ADDRESS", "::ffff:127.0.0.1")  # tests listen only on loopback
    async with (
        WebServer(Listen("", 0), lambda: None, dict, CollectorRegistry()) as server,
        aiohttp.ClientSession() as session,
    ):
        assert await get(session, f"http://127.0.0.1:{server.port}/healthz") == (200, "ok\n")
