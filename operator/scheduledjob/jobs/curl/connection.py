"""Connections to HTTP servers, and the pool that keeps them for the next request.

An idle connection belongs to its namespace, its TLS setting and its proxy. It is closed as soon as the server sends
anything or closes its side, and after ``KEEPALIVE``. Even so, the server may close it at the moment a request is sent.
So only a request that may be repeated (``IDEMPOTENT``) uses an idle connection. If that ends before a byte of the
response arrived, the request is sent once more on a new connection.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, cast

from .fair_share import FairShare
from .request_errors import ConnectFailedError, NameLookupError, RequestError, in_words, place
from .response import BadResponseError, LineTooLongError, StreamEndedError, read_head
from .tls import TlsSetting, context_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from aiohttp.abc import ResolveResult

    from .fair_share import Reservation
    from .request import Proxy
    from .resolver import NameCache

IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"})
"""Methods whose requests may be sent twice (RFC 9110, 9.2.2)."""

KEEPALIVE = 2.0
"""Seconds that an idle connection is kept: enough for a burst."""

_IDLE_OF_NAMESPACE = 32
"""Idle connections of a namespace; more are closed."""

_READ_AHEAD = 16 << 10
"""Bytes that a connection receives before anybody reads them."""

WRITE_AHEAD = 64 << 10
"""Bytes of a request that wait in the process for a server that reads slowly."""

CONNECTIONS = 8192
"""What all open connections may cost together: a plain one costs 1, and one with TLS ``_COST_OF_TLS``."""

_COST_OF_TLS = 4
"""A connection with TLS holds up to 340 KiB, most of it in OpenSSL and the event loop; a plain one holds 30."""

_KERNEL_BUFFER = 64 << 10
"""Bytes that the kernel receives before the process reads them. TLS reads as much at once, and keeps it in memory."""

_NEXT_ADDRESS_DELAY = 0.25
"""Seconds after which the next address of a name is tried beside the one that does not answer (RFC 8305)."""


class Endpoint(NamedTuple):
    """What requests must have in common to share a connection."""

    namespace: str
    scheme: str
    host: str
    port: int
    tls: TlsSetting
    server_name: str | None
    proxy: Proxy | None = None


class Connection(asyncio.BufferedProtocol):
    """A connection: a stream of what the server sends, with as little read ahead as possible."""

    def __init__(self, buffer: bytearray) -> None:
        self._buffer = buffer
        self._received = bytearray()
        self._ended = False
        self._error: Exception | None = None
        self._paused = False
        self._reader: asyncio.Future[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self.when_unusable: Callable[[], None] | None = None
        """Called when the connection ends or receives data; set while it is idle."""
        self.reused = False
        self.answered = False
        """Whether the server has sent anything since the request."""
        self.memory: Reservation | None = None
        """Of the attempt that uses the connection."""
        self.incomplete = False
        """Whether a request was not sent to its end."""

    # ------------------------------------------------------------ called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # that of uvloop is no subclass
        self._transport.set_write_buffer_limits(WRITE_AHEAD)
        if hasattr(transport, "set_read_buffer_limits"):  # that of TLS
            transport.set_read_buffer_limits(_READ_AHEAD)

    def get_buffer(self, sizehint: int) -> bytearray:
        # All connections share the buffer: the event loop calls ``buffer_updated`` before anything else.
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._received += memoryview(self._buffer)[:nbytes]
        self.answered = True
        if len(self._received) >= _READ_AHEAD:
            self._pause()
        self._wake()

    def eof_received(self) -> bool:
        self._ended = True
        self._wake()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._error = self._error or exc
        self._writable.set()
        self._wake()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _wake(self) -> None:
        if self.when_unusable is not None:
            self.when_unusable()
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _pause(self) -> None:
        if not self._paused and not self._ended and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._paused and not self._ended and not self._transport.is_closing():
            self._transport.resume_reading()
        self._paused = False

    # ------------------------------------------------------------ called by the executor

    @property
    def usable(self) -> bool:
        """Whether a request can be sent on it."""
        return not (self._ended or self._received or self.incomplete or self._transport.is_closing())

    async def send(self, head: bytes, body: bytes | None) -> None:
        """Send a request. Returns early if the connection ends: the response may have been sent before."""
        self.answered = False
        self._transport.write(head + body if body and len(body) <= WRITE_AHEAD else head)
        if body and len(body) > WRITE_AHEAD:
            view = memoryview(body)
            for start in range(0, len(body), WRITE_AHEAD):
                await self._writable.wait()
                if self._ended:
                    return
                self._transport.write(view[start : start + WRITE_AHEAD])

    async def _receive(self) -> None:
        self._resume()
        self._reader = asyncio.get_running_loop().create_future()
        try:
            await self._reader
        finally:
            self._reader = None

    async def read_line(self, limit: int) -> bytes:
        """Return the next line without its end. Raises ``StreamEndedError`` and ``LineTooLongError``."""
        searched, reserved = 0, False
        while (end := self._received.find(b"\n", searched)) < 0:
            searched = len(self._received)
            if searched > limit:
                raise LineTooLongError
            if self._ended:
                raise StreamEndedError from self._error
            if searched > _READ_AHEAD and not reserved and self.memory is not None:
                await self.memory.change(limit)
                reserved = True
            else:
                await self._receive()
        if end > limit:
            raise LineTooLongError
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line.removesuffix(b"\r")

    async def read(self, limit: int) -> bytes:
        """Return between 1 and ``limit`` bytes; nothing at the end. Raises ``StreamEndedError`` if it broke off."""
        while not self._received:
            if self._ended:
                if self._error is not None:
                    raise StreamEndedError from self._error
                return b""
            await self._receive()
        data = bytes(self._received[:limit])
        del self._received[:limit]
        return data

    async def start_tls(self, context: ssl.SSLContext, server_name: str) -> None:
        """Speak TLS from now on. Raises ``OSError`` if the handshake fails."""
        self._resume()
        transport = await asyncio.get_running_loop().start_tls(
            self._transport, self, context, server_hostname=server_name
        )
        assert transport is not None
        self.connection_made(transport)

    def rest(self) -> None:
        """Read on while nobody waits for data, to notice when the server closes the connection."""
        self._resume()

    def close(self) -> None:
        """Close the connection at once."""
        self._transport.abort()


class ConnectionPool:
    """Opens connections, and keeps those that can be used again.

    ``check`` raises an ``OSError`` for an address that may not be connected to.
    """

    def __init__(
        self, names: NameCache, check: Callable[[Endpoint, str], None], share: FairShare | None = None
    ) -> None:
        self._names = names
        self._check = check
        self._buffer = bytearray(_READ_AHEAD)
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
        found = await self._names.addresses(endpoint.namespace, host, port)
        try:
            opened = await _first_connection(found, lambda address: self._check(endpoint, address))
            try:
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
    # Certificates are for names without the dot of the root.
    return (endpoint.server_name or endpoint.host).removesuffix(".")


async def _open_tunnel(connection: Connection, endpoint: Endpoint, proxy: Proxy) -> None:
    """Let a proxy connect to the server. Raises ``RequestError`` if it does not."""
    where = place(proxy.origin)
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    lines = [f"CONNECT {host}:{endpoint.port} HTTP/1.1", f"Host: {host}:{endpoint.port}", "User-Agent: scheduledjob"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    try:
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


async def _first_connection(found: Sequence[ResolveResult], check: Callable[[str], None]) -> socket.socket:
    """Return a socket that is connected to the first address that answers. Raises the error of the first address."""
    if len(found) == 1:
        return await _connected(found[0], check)
    waiting = _alternating(found)
    attempts: set[asyncio.Task[socket.socket]] = set()
    errors: list[OSError] = []
    opened: socket.socket | None = None
    try:
        while opened is None and (waiting or attempts):
            if waiting:
                attempts.add(asyncio.ensure_future(_connected(waiting.pop(0), check)))
            done, attempts = await asyncio.wait(
                attempts,
                timeout=_NEXT_ADDRESS_DELAY if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for attempt in done:
                error = attempt.exception()
                if error is None:
                    if opened is None:
                        opened = attempt.result()
                    else:
                        attempt.result().close()
                elif isinstance(error, OSError):
                    errors.append(error)
                else:
                    raise error
        if opened is None:
            raise errors[0]
        return opened
    finally:
        for attempt in attempts:
            attempt.add_done_callback(_close_socket)
            attempt.cancel()


def _close_socket(attempt: asyncio.Task[socket.socket]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


async def _connected(address: ResolveResult, check: Callable[[str], None]) -> socket.socket:
    check(address["host"])
    opened = socket.socket(address["family"], socket.SOCK_STREAM, address["proto"])
    try:
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _KERNEL_BUFFER)
        host, _, scope = address["host"].partition("%")
        numeric = (host, address["port"], 0, int(scope)) if scope else (host, address["port"])
        await asyncio.get_running_loop().sock_connect(opened, numeric)
    except BaseException:
        opened.close()
        raise
    return opened


def _alternating(found: Sequence[ResolveResult]) -> list[ResolveResult]:
    """Return the addresses with IPv6 and IPv4 in turn, beginning with the family of the first one."""
    first = [address for address in found if address["family"] == found[0]["family"]]
    others = [address for address in found if address["family"] != found[0]["family"]]
    ordered: list[ResolveResult] = []
    while first or others:
        ordered += first[:1] + others[:1]
        del first[:1], others[:1]
    return ordered
