"""The operator's web server: ``/healthz``, ``/readyz`` and ``/metrics``, and nothing else.

``/healthz`` is for the kubelet, which restarts a Pod whose probe fails. So an outage of the API server or the store
does not fail it; it fails only where a restart helps: the lease thread or the event loop is stuck (a stuck event loop
does not answer at all). ``/readyz`` is for people and rolling updates: it lists the conditions that are not met, one in
each line. Both answer from memory.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, Self

from aiohttp import web
from prometheus_client.exposition import choose_encoder

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from types import TracebackType

    from prometheus_client import CollectorRegistry

    from .listen import Listen

LARGEST_HEADER = 4096
"""Bytes of a header, and of the request line. A request with a body is always refused."""
BACKLOG = 64
"""Connections that wait to be accepted."""
KEPT_ALIVE = 75.0
"""Seconds that an idle connection is kept: longer than a scraper's interval."""
EVERY_ADDRESS = ""
SHUTDOWN_TIMEOUT = 1.0
"""Seconds that the shutdown waits for answers in progress."""


class WebServer:
    """Serves inside ``async with``. Raises ``OSError`` if it can't listen."""

    def __init__(
        self,
        listen: Listen,
        health: Callable[[], str | None],
        ready: Callable[[], Mapping[str, str | None]],
        registry: CollectorRegistry,
    ) -> None:
        """``health`` returns why the process has to be restarted, or None. ``ready`` returns, by condition, why it is
        not met, or None."""
        self._listen = listen
        self._health = health
        self._ready = ready
        self._registry = registry
        self._runner: web.AppRunner | None = None
        self.port = 0
        """The port, once the server listens."""

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=1, middlewares=[_only_reads])
        app.router.add_get("/healthz", self._answer_health)
        app.router.add_get("/readyz", self._answer_ready)
        app.router.add_get("/metrics", self._answer_metrics)
        app.on_response_prepare.append(_hide_server)
        runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            keepalive_timeout=KEPT_ALIVE,
            shutdown_timeout=SHUTDOWN_TIMEOUT,
            max_line_size=LARGEST_HEADER,
            max_field_size=LARGEST_HEADER,
        )
        await runner.setup()
        try:
            await self._site(runner).start()
        except OSError as error:
            await runner.cleanup()
            # From Python 3.13 on, asyncio raises an error without a number where the host has no address to bind.
            number = error.errno or errno.EADDRNOTAVAIL
            raise OSError(number, self._why_not(error, number)) from None
        self._runner = runner
        self.port = runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def _site(self, runner: web.AppRunner) -> web.BaseSite:
        if self._listen.host:
            return web.TCPSite(runner, self._listen.host, self._listen.port, backlog=BACKLOG)
        # One socket for IPv4 and IPv6: two sockets would take two different free ports for port 0.
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        address = (EVERY_ADDRESS, self._listen.port)
        return web.SockSite(
            runner, socket.create_server(address, family=family, backlog=BACKLOG, dualstack_ipv6=both), backlog=BACKLOG
        )

    def _why_not(self, error: OSError, number: int) -> str:
        if isinstance(error, socket.gaierror):
            return f"can't listen on {self._listen}: {self._listen.host} is not an address of this machine"
        hint = {
            errno.EADDRINUSE: "another program uses it; choose another port",
            errno.EACCES: "ports below 1024 need a privilege; choose a higher one",
            errno.EADDRNOTAVAIL: f"{self._listen.host} is not an address of this machine",
        }.get(number, os.strerror(number))
        return f"can't listen on {self._listen}: {hint}"

    async def _answer_health(self, _: web.Request) -> web.Response:
        reason = self._health()
        return web.Response(text="ok\n" if reason is None else f"{reason}\n", status=200 if reason is None else 503)

    async def _answer_ready(self, request: web.Request) -> web.Response:
        conditions = dict(self._ready())
        missing = {name: reason for name, reason in conditions.items() if reason is not None}
        status = 503 if missing else 200
        if "application/json" in request.headers.get("Accept", ""):
            return web.json_response({"ready": not missing, "conditions": conditions}, status=status)
        lines = [f"{name}: {' '.join(reason.split())}" for name, reason in missing.items()]
        return web.Response(text="\n".join(lines or ["ok"]) + "\n", status=status)

    async def _answer_metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._registry), headers={"Content-Type": content_type})


@web.middleware
async def _only_reads(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    if request.body_exists:
        return web.Response(text="a body is not allowed here\n", status=413, headers={"Connection": "close"})
    try:
        return await handler(request)
    except web.HTTPNotFound:
        return web.Response(text="not found; the pages are /healthz, /readyz and /metrics\n", status=404)


async def _hide_server(_: web.Request, response: web.StreamResponse) -> None:
    """Do not disclose the server's software and version."""
    del response.headers["Server"]
    response.headers["Cache-Control"] = "no-store"
