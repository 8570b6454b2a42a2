"""A proxy to the API server that ends watches with an event of type ERROR, as an API server in trouble does.

A test can't make a real one do that, because it takes, for example, an etcd that loses its leader in the middle of a
watch. So this proxy passes everything on to the real API server and back, by HTTP, and adds that event. It can also
withhold the events of a watch before that, so that the client does not learn of changes that the API server has.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Self

import aiohttp
from aiohttp import web

from tests.cluster.harness.client import tls_of
from tests.cluster.harness.credentials import read_kubeconfig, write_kubeconfig

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.harness import Cluster

REASONS = {403: "Forbidden", 429: "TooManyRequests", 500: "InternalError", 504: "Timeout"}
_PASSED_ON = ("Accept", "Content-Type", "User-Agent")


def error_status(code: int | None) -> dict[str, Any]:
    """A ``Status`` as an ERROR holds it; None: one that does not even say its code."""
    if code is None:
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}}
    body = {"status": "Failure", "message": "etcdserver: no leader", "reason": REASONS[code], "code": code}
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, **body}


class ErringLine:
    """Inside ``async with``; `kubeconfig` leads here, and who comes is taken for the user of the one that was given."""

    kubeconfig: Path

    def __init__(self, cluster: Cluster, directory: Path, kubeconfig: Path | None = None) -> None:
        far, user = read_kubeconfig(kubeconfig or cluster.kubeconfig)
        self._far = str(far["server"])
        self._tls = tls_of(far, user)
        self._directory = directory
        self._streams: set[_Stream] = set()
        self._coming: defaultdict[str, list[bytes]] = defaultdict(list)
        self._passed = asyncio.Condition()
        self.failed: list[str] = []
        """The resource of each watch that ended so."""

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=0)
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))
        app = web.Application(client_max_size=1 << 24)
        app.router.add_route("*", "/{path:.*}", self._relay)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        here = {"server": f"http://127.0.0.1:{self._runner.addresses[0][1]}"}
        self.kubeconfig = write_kubeconfig(self._directory / "erring-line.kubeconfig", here, {})
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._session.close()

    def withhold_events(self, resource: str) -> None:
        """Withhold all further events of the open watches of `resource`."""
        for stream in self._of(resource):
            stream.notifications_lost = True

    async def fail(self, resource: str, status: dict[str, Any], times: int = 1) -> None:
        """End the open watch of `resource` with an ERROR that holds `status`, and as many of those after it at once as
        make it `times`; return when that is done."""
        line = json.dumps({"type": "ERROR", "object": status}).encode() + b"\n"
        (open_one,) = self._of(resource)
        self._coming[resource] = [line] * (times - 1)
        goal = self.failed.count(resource) + times
        open_one.error.set_result(line)
        async with self._passed:
            await self._passed.wait_for(lambda: self.failed.count(resource) >= goal)

    def _of(self, resource: str) -> list[_Stream]:
        found = [stream for stream in self._streams if stream.resource == resource]
        assert found, f"no watch of {resource} is open"
        return found

    async def _relay(self, request: web.Request) -> web.StreamResponse:
        headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        data = await request.read() if request.can_read_body else None
        sent = self._session.request(request.method, self._far + request.path_qs, headers=headers, data=data)
        async with sent as answer:
            if answer.status == 200 and request.query.get("watch") in ("true", "1"):
                return await self._relay_watch(request, answer)
            passed = {name: answer.headers[name] for name in ("Content-Type", "Retry-After") if name in answer.headers}
            return web.Response(status=answer.status, headers=passed, body=await answer.read())

    async def _relay_watch(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        stream = _Stream(request.path.rpartition("/")[2])
        if self._coming[stream.resource]:
            stream.error.set_result(self._coming[stream.resource].pop())
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        self._streams.add(stream)
        relaying = asyncio.create_task(stream.relay(answer, response))
        try:
            ends: list[asyncio.Future[Any]] = [relaying, stream.error]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._streams.discard(stream)
            relaying.cancel()
            await asyncio.gather(relaying, return_exceptions=True)
        if stream.error.done():
            await response.write(stream.error.result())
            async with self._passed:
                self.failed.append(stream.resource)
                self._passed.notify_all()
        return response


class _Stream:
    """One watch that is open."""

    def __init__(self, resource: str) -> None:
        self.resource = resource
        self.notifications_lost = False
        self.error: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def relay(self, answer: aiohttp.ClientResponse, response: web.StreamResponse) -> None:
        """Pass on whole lines, so that another can come between them."""
        rest = b""
        async for chunk in answer.content.iter_any():
            whole, newline, rest = (rest + chunk).rpartition(b"\n")
            if newline and not self.notifications_lost:
                await response.write(whole + newline)
