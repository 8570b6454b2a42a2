"""Runs HTTP jobs: an attempt is one request, and the response decides whether it succeeds.

The URL and the headers are sent as they were written, and responses are read with the leniency and the limits of curl
(``response.py``). aiohttp rewrites escapes and refuses much that curl accepts, so it is not used here. What belongs to
a job (credentials, TLS settings) never stays in the pool: no cookies are kept, connections are shared only within a
namespace and between equal TLS settings, and proxies from the environment are not used, only that of the job. Each hop
of a redirect is checked again: its address, and which headers may go there.

A request ends with the process, so it can't outlive its lease. A cancellation closes the connection.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from scheduledjob.engine.executor import Attempt, Result
from scheduledjob.jobs.fair_share import FairShare, Reservation
from scheduledjob.jobs.reasons import of_exception, timed_out
from scheduledjob.jobs.redaction import Redaction, redacted
from scheduledjob.jobs.values import Secrets

from .addresses import AddressRefusedError
from .body import BODIES_LIMIT, BODY_LIMIT, FREE, Body, collect, is_utf8
from .body_search import BodySearch, compiled_pattern
from .connection import WRITE_AHEAD, Connection
from .connection_pool import IDEMPOTENT, ConnectionPool, Endpoint
from .request import Request, first_request, redirected
from .request_errors import (
    ConnectFailedError,
    ConnectionLostError,
    NameLookupError,
    RequestError,
    in_words,
    phase,
    place,
)
from .resolver import NameCache, ThreadResolver
from .response import (
    BadResponseError,
    Framing,
    Head,
    StreamEndedError,
    framing_of,
    read_body,
    read_head,
    retry_after,
)
from .tls import DEFAULT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from yarl import URL

    from scheduledjob.jobs.curl.curl_spec import CurlSpec

    from .addresses import AddressFilter
    from .resolver import Resolver

MAX_REDIRECTS = 50
"""As in curl."""

_IDLE_TOO_LONG = 408
"""The status with which some servers close an idle connection."""

_PROXY_AUTHENTICATION = 407

_SKIPPED = 64 << 10
"""Bytes of a redirect's body that are read to keep the connection."""

_SKIP_SECONDS = 1.0
"""How long a redirect's body may take before it is followed on another connection."""

_REQUESTS_LIMIT = 128 << 20
"""Bytes that all attempts may hold of the Secrets and ConfigMaps that their requests refer to."""

_REQUEST_LIMIT = 16 << 20
"""The same for one attempt."""

_PIECE = 16 << 10
"""Bytes of a body that are read at once."""


class CurlExecutor:
    """Runs attempts whose params are ``CurlSpec``. ``addresses`` None: all addresses are allowed."""

    def __init__(
        self,
        addresses: AddressFilter | None = None,
        resolver: Resolver | None = None,
        connections: FairShare | None = None,
    ) -> None:
        self._addresses = addresses
        self._resolver = resolver
        self._connections = connections
        self._search = BodySearch()
        self._memory = FairShare(BODIES_LIMIT, _waits_for_memory)
        self._requests = FairShare(_REQUESTS_LIMIT, _waits_to_send)

    async def start(self) -> None:
        self._pool = ConnectionPool(
            NameCache(self._resolver or ThreadResolver()), self._check_address, self._connections
        )

    def _check_address(self, endpoint: Endpoint, address: str) -> None:
        if self._addresses is None:
            return
        host, port = endpoint.host, endpoint.port
        if endpoint.proxy is not None:
            host, port = endpoint.proxy.origin.raw_host or "", endpoint.proxy.origin.port or 0
            self._addresses.check_proxy(host, address)
        # Hosts that the administrator has allowed by name may have any address but the API server's.
        if self._addresses.trusts(host):
            self._addresses.check_trusted(address, port)
        else:
            self._addresses.check(address, port)

    async def stop(self) -> None:
        self._pool.close()
        self._search.stop()

    def memory_held(self, namespace: str) -> int:
        """Return the bytes that responses of a namespace hold beyond what each may hold without asking."""
        return self._memory.held(namespace)

    def references_held(self, namespace: str) -> int:
        """Return the bytes that requests of a namespace hold of the Secrets and ConfigMaps that they refer to."""
        return self._requests.held(namespace)

    def extend(self, run_ids: Sequence[str], deadline: float) -> None:
        """Nothing to do: a request ends with the process."""

    @redacted
    async def run(self, attempt: Attempt, redaction: Redaction) -> Result:
        try:
            async with asyncio.timeout(attempt.timeout) as limit:
                return await self._attempt(attempt, attempt.params, redaction.secrets)
        except TimeoutError as error:
            if limit.expired() and attempt.timeout is not None:
                waited = error.__cause__.args if error.__cause__ is not None else ()
                return Result(False, ", ".join((timed_out(attempt.timeout), *map(str, waited))))
            return Result(False, of_exception(error, redaction.mask_text))

    async def _attempt(self, attempt: Attempt, spec: CurlSpec, secrets: Secrets) -> Result:
        memory = Reservation(self._memory, attempt.namespace)
        references = Reservation(self._requests, attempt.namespace)
        try:
            request = await self._first_request(attempt, spec, secrets, references)
            expected = _statuses(spec.expect_status)
            if spec.expect_body is not None:
                compiled_pattern(spec.expect_body)  # an invalid one is reported before anything is sent
            return await self._follow(request, attempt.namespace, spec, expected, secrets, memory)
        except RequestError as error:
            return Result(False, str(error))
        finally:
            memory.release()
            references.release()

    async def _first_request(
        self, attempt: Attempt, spec: CurlSpec, secrets: Secrets, references: Reservation
    ) -> Request:
        """Return the first request. Without room for the values that it refers to, wait, and read them again then."""
        reserved = 0
        while True:
            found = Secrets(namespace=attempt.namespace)
            try:
                request = await first_request(attempt, spec, found)
            except BaseException:
                secrets.include(found)
                raise
            size = found.size + request.size if _refers(spec) else 0
            if size > _REQUEST_LIMIT:
                raise RequestError(f"what the request refers to has more than {_REQUEST_LIMIT >> 20} MiB: use less")
            if size > max(FREE, reserved):
                if not self._requests.has_room(attempt.namespace, size):
                    del request, found
                    await references.change(reserved := size)
                    continue
                await references.change(size)
            secrets.include(found)
            return request

    async def _follow(
        self,
        request: Request,
        namespace: str,
        spec: CurlSpec,
        expected: frozenset[int],
        secrets: Secrets,
        memory: Reservation,
    ) -> Result:
        """Send the request and those that redirects lead to, and return what the last response means."""
        hops = 0
        while True:
            try:
                response = await self._send(request, namespace, memory)
                try:
                    next_request = redirected(request, response.head, spec)
                    if next_request is None:
                        return await self._check_response(response, request.url, spec, expected, secrets, memory)
                    await _skip_body(response)
                finally:
                    # If the whole body was read, the connection is kept. Otherwise this closes it.
                    response.release(self._pool)
            except (
                AddressRefusedError,
                RequestError,
                NameLookupError,
                ConnectFailedError,
                ConnectionLostError,
                BadResponseError,
                StreamEndedError,
            ) as error:
                via = f"redirected to {place(request.url)}: " if hops else ""
                if request.proxy is not None and not isinstance(error, RequestError):
                    via += f"through the proxy {place(request.proxy.origin)}: "
                return Result(False, via + in_words(error, request.url))
            hops += 1
            if hops > MAX_REDIRECTS:
                return Result(
                    False,
                    f"more than {MAX_REDIRECTS} redirects, the last to {place(next_request.url)}",
                    response.head.status,
                )
            request = next_request

    async def _send(self, request: Request, namespace: str, memory: Reservation) -> _Response:
        url = request.url
        tls = request.tls if url.scheme == "https" else DEFAULT
        host, port = url.raw_host or "", url.port or 0
        if request.proxy is not None and self._addresses is not None and not self._addresses.trusts(host):
            # The proxy looks up names, and nobody here learns their addresses.
            self._addresses.check_literal(host, port)
        endpoint = Endpoint(namespace, url.scheme, host, port, tls, request.server_name, request.proxy)
        connection = await self._pool.get(endpoint, new=request.method not in IDEMPOTENT)
        try:
            head = await _exchange_again(connection, request, memory) if connection.reused else None
            if connection.reused and head is None:
                self._pool.discard(connection)
                connection = await self._pool.get(endpoint, new=True)
            if head is None:
                head = await _exchange(connection, request, memory)
            return _Response(endpoint, connection, head, request.method)
        except BaseException:
            self._pool.discard(connection)
            raise

    async def _check_response(
        self,
        response: _Response,
        url: URL,
        spec: CurlSpec,
        expected: frozenset[int],
        secrets: Secrets,
        memory: Reservation,
    ) -> Result:
        status = response.head.status
        succeeds = status in expected or status in spec.complete_status
        if not succeeds:
            response.accept_any_body()
        with phase(f"receiving the response of {place(url)}"):
            body = await collect(
                response.body() if succeeds else _until_broken(response.body()),
                response.codings,
                response.head.first(b"content-type"),
                secrets,
                memory,
                length=response.length,
                whole=spec.expect_body is not None and status in expected and status not in spec.complete_status,
            )
        if status in spec.complete_status:
            return Result(True, "", status, body.output, complete=True)
        if status not in expected:
            reason = f"HTTP {status}, expected {' or '.join(spec.expect_status)}"
            if status == _PROXY_AUTHENTICATION and spec.proxy is not None:
                reason += "; the proxy requires credentials: give a user and a password in proxyAuth"
            return Result(False, reason, status, body.output, retry_after=retry_after(response.head))
        if spec.expect_body is not None and (why := await self._mismatch(spec.expect_body, body, secrets.namespace)):
            return Result(False, f"HTTP {status}, but {why}", status, body.output)
        return Result(True, "", status, body.output)

    async def _mismatch(self, pattern: str, body: Body, namespace: str) -> str:
        """Return why a body does not match ``expect.bodyRegex``; empty if it does."""
        fault = f"its body can't be read: {body.fault}" if body.fault else ""
        if fault and not body.is_plain:
            return fault
        hint = ""
        try:
            if await self._search.find(pattern, body.searched, body.charset, namespace=namespace):
                return ""
            if body.charset is None and not pattern.isascii() and not is_utf8(body.searched, cut=body.cut):
                hint = "; it is not UTF-8, and Content-Type names no charset"
        except LookupError:
            return f'its body can\'t be read: the charset "{body.charset}" is unknown here'
        if fault:
            return fault
        within = f" in its first {BODY_LIMIT >> 20} MiB" if body.cut else ""
        return f'nothing in the body{within} matches expect.bodyRegex "{pattern}"{hint}'


def _refers(spec: CurlSpec) -> bool:
    """Whether a request has values that its attempt reads, and not only those of the spec."""
    values = (spec.body, spec.bearer, spec.basic_password, spec.proxy_password, *spec.headers.values())
    return any(value is not None and value.value is None for value in values) or spec.ca is not None


def _waits_to_send(held: int) -> str:
    return f"waiting for memory: other requests of this namespace hold {held >> 10} KiB of Secrets and ConfigMaps"


def _waits_for_memory(held: int) -> str:
    return f"waiting for memory: other responses of this namespace hold {held >> 10} KiB"


class _Response:
    """The head of a response, and the connection on which its body arrives."""

    def __init__(self, endpoint: Endpoint, connection: Connection, head: Head, method: str) -> None:
        self.head = head
        self._endpoint = endpoint
        self._connection = connection
        self._method = method
        self._complete = False

    @cached_property
    def framing(self) -> Framing:
        """How the end of the body is recognised. Raises ``BadResponseError``."""
        return framing_of(self.head, self._method)

    def accept_any_body(self) -> None:
        """Treat a body whose end can't be recognised as empty: the status says enough."""
        try:
            _ = self.framing
        except BadResponseError:
            self.framing = Framing(0, reusable=False)

    @property
    def length(self) -> int | None:
        """The length of the body, if the server has said it."""
        return self.framing.length

    @property
    def codings(self) -> tuple[bytes, ...]:
        """How the body is packed, in the order in which that was done."""
        return (*self.head.tokens(b"content-encoding"), *self.framing.codings)

    async def body(self) -> AsyncIterator[bytes]:
        """Yield the body in pieces."""
        async for data in read_body(self._connection, self.framing, self.head.size, _PIECE):
            yield data
        self._complete = True

    def release(self, pool: ConnectionPool) -> None:
        """Keep the connection for another request if that is possible, or close it."""
        if self._complete and self.framing.reusable:
            pool.put(self._endpoint, self._connection)
        else:
            pool.discard(self._connection)


async def _exchange(connection: Connection, request: Request, memory: Reservation) -> Head:
    """Send a request, and return the head of the response, which may begin before the whole request was sent.

    Raises ``ConnectionLostError`` if the connection ended before a response began, ``StreamEndedError`` if it ended
    within the head, and ``BadResponseError``.
    """
    connection.memory = memory
    head = request.head()
    sending: asyncio.Task[None] | None = None
    try:
        if request.body is None or len(request.body) <= WRITE_AHEAD:
            await connection.send(head, request.body)
        else:
            sending = asyncio.ensure_future(connection.send(head, request.body))
        with phase(f"waiting for the response of {place(request.url)}"):
            return await read_head(connection)
    except asyncio.CancelledError as error:
        if sending is not None and not sending.done() and not connection.answered:
            error.args = (f"sending the request to {place(request.url)}",)
        raise
    except StreamEndedError as error:
        if connection.answered:
            raise
        raise ConnectionLostError from error
    finally:
        if sending is not None and not sending.done():
            connection.incomplete = True
            sending.cancel()


async def _exchange_again(connection: Connection, request: Request, memory: Reservation) -> Head | None:
    """Do the same on a connection that was used before; None: the server had closed it before."""
    try:
        head = await _exchange(connection, request, memory)
    except ConnectionLostError:
        return None
    return None if head.status == _IDLE_TOO_LONG and not head.keep_alive else head


async def _until_broken(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield a body as far as it arrives."""
    with suppress(BadResponseError, StreamEndedError):
        async for data in pieces:
            yield data


async def _skip_body(response: _Response) -> None:
    """Read and drop the body of a redirect, if the connection can be used again afterwards."""
    with suppress(BadResponseError, StreamEndedError, TimeoutError):
        if not response.framing.reusable:
            return
        async with asyncio.timeout(_SKIP_SECONDS):
            total = 0
            async for data in response.body():
                total += len(data)
                if total > _SKIPPED:
                    return


@lru_cache(1024)
def _statuses(patterns: tuple[str, ...]) -> frozenset[int]:
    """Return the statuses of patterns such as 200 and 2xx. Raises ``RequestError``."""
    found: set[int] = set()
    for pattern in patterns:
        if re.fullmatch("[1-5][0-9]{2}", pattern):
            found.add(int(pattern))
        elif re.fullmatch("[1-5][xX]{2}", pattern):
            found.update(range(int(pattern[0]) * 100, int(pattern[0]) * 100 + 100))
        else:
            raise RequestError(f'expect.status "{pattern}": write a status such as 200, or a class such as 2xx')
    return frozenset(found)
