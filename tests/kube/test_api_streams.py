"""Watches and streams of the client, with a small HTTP server in place of the API server."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from scheduledjob.kube.client.api import Api
from scheduledjob.kube.client.api_errors import ApiUnavailable, Gone

from .test_foreign_answers import KUBECONFIG

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

PATIENCE = 60.0
PATH = "/api/v1/namespaces/a/pods"
EVENTS = [{"type": "ADDED", "object": {"kind": "Pod", "metadata": {"uid": str(number)}}} for number in range(3)]
LINES = b"".join(b'{"type":"ADDED","object":{"kind":"Pod","metadata":{"uid":"%d"}}}\n' % number for number in range(3))


@asynccontextmanager
async def serving(
    answer: Callable[[web.Request, web.StreamResponse], Awaitable[None]], directory: Path
) -> AsyncIterator[tuple[Api, list[tuple[str, str, int]]]]:
    """Return a client of a server that answers with ``answer``, and the requests that the client has observed."""

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await answer(request, response)
        return response

    app = web.Application()
    app.router.add_get("/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    kubeconfig = directory / "kubeconfig"
    kubeconfig.write_text(KUBECONFIG % runner.addresses[0][1])
    requests: list[tuple[str, str, int]] = []

    def on_request(verb: str, resource: str, status: int, seconds: float) -> None:
        assert seconds >= 0
        requests.append((verb, resource, status))

    try:
        async with asyncio.timeout(PATIENCE), Api.from_config(str(kubeconfig), on_request=on_request) as api:
            yield api, requests
    finally:
        await runner.cleanup()


async def test_a_watch_yields_events_however_they_are_cut(tmp_path: Path) -> None:
    async def answer(request: web.Request, response: web.StreamResponse) -> None:
        assert request.query["watch"] == "true"
        for start in range(0, len(LINES), 7):
            await response.write(LINES[start : start + 7])

    opened: list[None] = []
    async with serving(answer, tmp_path) as (api, requests):
        found: list[dict[str, Any]] = [event async for event in api.watch(PATH, on_open=lambda: opened.append(None))]
    assert found == EVENTS
    assert opened == [None]
    assert requests == [("watch", "pods", 200)]


async def test_a_watch_can_be_closed_before_its_end(tmp_path: Path) -> None:
    async def answer(_: web.Request, response: web.StreamResponse) -> None:
        await response.write(LINES)
        await asyncio.Event().wait()

    async with serving(answer, tmp_path) as (api, _), aclosing(api.watch(PATH)) as events:
        assert await anext(events) == EVENTS[0]


async def test_a_silent_watch_counts_as_unavailable(tmp_path: Path) -> None:
    async def answer(_: web.Request, response: web.StreamResponse) -> None:
        await response.write(LINES)
        await asyncio.Event().wait()

    async with serving(answer, tmp_path) as (api, requests):
        events = api.watch(PATH, silence=0.2)
        assert [await anext(events) for _ in EVENTS] == EVENTS
        with pytest.raises(ApiUnavailable, match=r"no answer within 0\.2 s"):
            await anext(events)
    assert requests == [("watch", "pods", 200)], "it has been answered once"


async def test_an_error_event_ends_a_watch(tmp_path: Path) -> None:
    async def answer(_: web.Request, response: web.StreamResponse) -> None:
        await response.write(LINES + b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired"}}\n')

    async with serving(answer, tmp_path) as (api, _):
        with pytest.raises(Gone):
            async for _event in api.watch(PATH):
                pass


async def test_a_stream_yields_the_bytes_of_a_log(tmp_path: Path) -> None:
    async def answer(_: web.Request, response: web.StreamResponse) -> None:
        for line in (b"first\n", b"second\n"):
            await response.write(line)

    async with serving(answer, tmp_path) as (api, requests):
        assert b"".join([piece async for piece in api.stream(f"{PATH}/b/log")]) == b"first\nsecond\n"
    assert requests == [("get", "pods/log", 200)]


async def test_a_server_that_cannot_be_reached_is_unavailable(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(KUBECONFIG % 1)
    observed: list[tuple[str, int]] = []
    async with Api.from_config(
        str(kubeconfig), on_request=lambda verb, _, status, __: observed.append((verb, status))
    ) as api:
        with pytest.raises(ApiUnavailable, match="can't be reached"):
            await anext(api.stream(f"{PATH}/b/log"))
        with pytest.raises(ApiUnavailable, match="can't be reached"):
            await anext(api.watch(PATH))
    assert observed == [("get", 0), ("watch", 0)]
