"""The connections to HTTP servers: how they are opened, through a proxy or not, and kept for the next request.

An idle connection belongs to its namespace, its TLS setting and its proxy. It is closed as soon as the server sends
anything or closes its side, and after ``KEEPALIVE``. Even so, the server may close it at the moment a request is sent.
So only a request that may be repeated (``IDEMPOTENT``) uses an idle connection. If that ends before a byte of the
response arrived, the request is sent once more on a new connection.

Namespaces share what all connections may cost.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from scheduledjob.jobs.fair_share import FairShare

from .connection import READ_AHEAD, Connection
from .dialing import dial
from .request_errors import ConnectFailedError, NameLookupError, RequestError, in_words, phase, place
from .response import BadResponseError, StreamEndedError, read_head
from .tls import TlsSetting, context_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from .request import Proxy
    from .resolver import NameCache

IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"})
"""Methods whose requests may be sent twice (RFC 9110, 9.2.2)."""

KEEPALIVE = 2.0
"""Seconds that an idle connection is kept: enough for a burst."""

_IDLE_OF_NAMESPACE = 32
"""Idle connections of a namespace; more are closed."""

CONNECTIONS = 8192
"""What all open connections may cost together: a plain one costs 1, and one with TLS ``_COST_OF_TLS``."""

_COST_OF_TLS = 4
"""A connection with TLS holds up to 340 KiB, most of it in OpenSSL and the event loop; a plain one holds 30."""


class Endpoint(NamedTuple):
    """What requests must have in common to share a connection."""

    namespace: str
    scheme: str
    host: str
    port: int
    tls: TlsSetting
    server_name: str | None
    proxy: Proxy | None = None


class ConnectionPool:
    """Opens connections, and keeps those that can be used again.

    ``check`` raises an ``OSError`` for an address that may not be connected to.
    """

    def __init__(
        self, names: NameCache, check: Callable[[Endpoint, str], None], share: FairShare | None = None
    ) -> None:
        self._names = names
        self._check = check
        self._buffer = bytearray(READ_AHEAD)
        self._idle: dict[Endpoint, list[Connection]] = {}
        self._idle_of: Counter[str] = Counter()
        self._timers: dict[Connection, asyncio.TimerHandle] = {}
        self._share = share or FairShare(CONNECTIONS, _words)
        self._open: dict[Connection, Endpoint] = {}

    async def get(self, endpoint: Endpoint, *, new: bool = False) -> Connection:
        """Return a connection, with ``new`` never one that was used before. Raises ``ConnectFailedError``."""
        while not new and (idle := self._idle.get(endpoint)):
            connection = idle[-1]
            self._forget(endpoint, connection)
            if connection.usable:
                connection.reused = True
                return connection
            self.discard(connection)
        cost = _cost(endpoint)
        if not self._share.has_room(endpoint.namespace, cost):
            self._close_idle(endpoint.namespace)
        await self._share.acquire(endpoint.namespace, cost)
        try:
            connection = await self._connect(endpoint)
        except BaseException:
            self._share.release(endpoint.namespace, cost)
            raise
        self._open[connection] = endpoint
        return connection

    def _close_idle(self, namespace: str) -> None:
        for endpoint, idle in list(self._idle.items()):
            for connection in list(idle) if endpoint.namespace == namespace else ():
                self._forget(endpoint, connection)
                self.discard(connection)

    def put(self, endpoint: Endpoint, connection: Connection) -> None:
        """Keep a connection whose response was read completely."""
        if not connection.usable or self._idle_of[endpoint.namespace] >= _IDLE_OF_NAMESPACE:
            self.discard(connection)
            return

        def drop() -> None:
            self._forget(endpoint, connection)
            self.discard(connection)

        self._idle.setdefault(endpoint, []).append(connection)
        self._idle_of[endpoint.namespace] += 1
        self._timers[connection] = asyncio.get_running_loop().call_later(KEEPALIVE, drop)
        connection.when_unusable, connection.memory = drop, None
        connection.rest()

    def discard(self, connection: Connection) -> None:
        """Close a connection."""
        endpoint = self._open.pop(connection, None)
        if endpoint is not None:
            self._share.release(endpoint.namespace, _cost(endpoint))
        connection.close()

    def close(self) -> None:
        """Close all connections."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._idle.clear()
        self._idle_of.clear()
        for connection in list(self._open):
            connection.when_unusable = None
            self.discard(connection)

    def _forget(self, endpoint: Endpoint, connection: Connection) -> None:
        """Take a connection out of the idle ones."""
        connection.when_unusable = None
        self._timers.pop(connection).cancel()
        idle = self._idle[endpoint]
        idle.remove(connection)
        if not idle:
            del self._idle[endpoint]
        self._idle_of[endpoint.namespace] -= 1
        if not self._idle_of[endpoint.namespace]:
            del self._idle_of[endpoint.namespace]

    async def _connect(self, endpoint: Endpoint) -> Connection:
        if endpoint.proxy is None:
            context = await context_of(endpoint.tls) if endpoint.scheme == "https" else None
            server_name = _server_name(endpoint)
            return await self._open_connection(endpoint, endpoint.host, endpoint.port, context, server_name)
        return await self._connect_through(endpoint, endpoint.proxy)

    async def _connect_through(self, endpoint: Endpoint, proxy: Proxy) -> Connection:
        """Connect to a proxy, and through it to an https server."""
        url = proxy.origin
        host, port = url.raw_host or "", url.port or 0
        context = await context_of(proxy.tls) if url.scheme == "https" else None
        try:
            connection = await self._open_connection(endpoint, host, port, context, host)
        except (NameLookupError, ConnectFailedError) as error:
            raise RequestError(f"proxy: {in_words(error, url)}") from None
        if endpoint.scheme == "http":
            return connection
        try:
            await _open_tunnel(connection, endpoint, proxy)
            try:
                with phase(f"in the TLS handshake with {endpoint.host}:{endpoint.port}"):
                    await connection.start_tls(await context_of(endpoint.tls), _server_name(endpoint))
            except OSError as error:
                raise ConnectFailedError(error) from None
        except BaseException:
            connection.close()
            raise
        return connection

    async def _open_connection(
        self, endpoint: Endpoint, host: str, port: int, context: ssl.SSLContext | None, server_name: str
    ) -> Connection:
        with phase(f'looking up the name "{host}"'):
            found = await self._names.addresses(endpoint.namespace, host, port)
        where = f"{host}:{port}" if ":" not in host else f"[{host}]:{port}"
        try:
            with phase(f"connecting to {where}"):
                opened = await dial(found, lambda address: self._check(endpoint, address))
            try:
                with phase(f"in the TLS handshake with {where}"):
                    _, connection = await asyncio.get_running_loop().create_connection(
                        lambda: Connection(self._buffer),
                        sock=opened,
                        ssl=context,
                        server_hostname=server_name if context is not None else None,
                    )
            except BaseException:
                opened.close()
                raise
        except OSError as error:
            raise ConnectFailedError(error) from None
        return connection


def _cost(endpoint: Endpoint) -> int:
    secure = endpoint.scheme == "https" or (endpoint.proxy is not None and endpoint.proxy.origin.scheme == "https")
    return _COST_OF_TLS if secure else 1


def _words(_: int) -> str:
    return "waiting for a connection: this namespace has as many open as it may have now"


def _server_name(endpoint: Endpoint) -> str:
    # Certificates are for names without the dot of the root, and for addresses without their zone.
    return (endpoint.server_name or endpoint.host).removesuffix(".").partition("%")[0]


async def _open_tunnel(connection: Connection, endpoint: Endpoint, proxy: Proxy) -> None:
    """Let a proxy connect to the server. Raises ``RequestError`` if it does not."""
    where = place(proxy.origin)
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    lines = [f"CONNECT {host}:{endpoint.port} HTTP/1.1", f"Host: {host}:{endpoint.port}", "User-Agent: scheduledjob"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    try:
        with phase(f"waiting for the response of the proxy {where}"):
            await connection.send("\r\n".join((*lines, "", "")).encode(), None)
            head = await read_head(connection)
    except StreamEndedError:
        raise RequestError(f"the proxy {where} closed the connection before it answered") from None
    except BadResponseError as error:
        raise RequestError(f"the proxy {where} sent something that is not an HTTP response: {error}") from None
    if head.status == 407:
        raise RequestError(f"the proxy {where} requires credentials: give a user and a password in proxyAuth")
    if not 200 <= head.status < 300 or not connection.usable:
        raise RequestError(f"the proxy {where} does not connect to {host}:{endpoint.port}: HTTP {head.status}")
