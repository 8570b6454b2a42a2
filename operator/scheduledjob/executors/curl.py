"""HTTP jobs: one request for each attempt, and what counts as success.

The executor has one pool of connections for all jobs; what belongs to one job (credentials, TLS setting) travels
with its requests and never stays in the pool: no cookies are kept, connections are shared only between equal TLS
settings, and proxies named in the environment are not used. Redirects are followed here and in
``curl_request.py``, not by aiohttp, because
each hop is judged again: which address it leads to, and which headers may go there. An attempt is one request:
nothing is sent twice, since repeating is the engine's decision.

A request dies with the process, so a lease that passes on needs no watchdog here; being cancelled closes the
connection.
"""

from __future__ import annotations

import asyncio
import re
import socket
from functools import lru_cache
from typing import TYPE_CHECKING

import aiohttp
import re2

from scheduledjob.engine.jobs import OUTPUT_LIMIT, Attempt, CurlSpec, Result
from scheduledjob.executors.curl_errors import ConnectionLostError, RequestError, in_words, place
from scheduledjob.executors.curl_request import Request, first_request, redirected
from scheduledjob.executors.reasons import one_line, timed_out
from scheduledjob.executors.resolver import ThreadResolver
from scheduledjob.executors.tls import context_of
from scheduledjob.executors.values import Secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiohttp.abc import AbstractResolver
    from aiohttp.connector import AddrInfoType

    from scheduledjob.executors.addresses import AddressFilter

BODY_LIMIT = 1 << 20
"""Bytes of a response that are read: for ``bodyRegex``, and so that the connection can be used again."""

MAX_REDIRECTS = 10

_KEEPALIVE = 2.0
"""Seconds an idle connection is kept: long enough for a burst, and shorter than the patience of servers, so that a
request seldom meets a connection that is being closed at that moment."""

_AT_ONCE = 16 << 10
"""Bytes of a body that are searched on the event loop; more go to a thread, since a pattern can be made slow."""


class CurlExecutor:
    """Runs ``CurlSpec`` attempts. ``addresses`` None: every address may be connected to."""

    def __init__(self, addresses: AddressFilter | None = None, resolver: AbstractResolver | None = None) -> None:
        self._addresses = addresses
        self._resolver = resolver
        self._sessions: list[aiohttp.ClientSession] = []

    async def start(self) -> None:
        self._sessions.append(self._session(self._open_socket if self._addresses is not None else None))
        if self._addresses is not None:
            # For hosts that the administrator allowed by name, whatever their address.
            self._sessions.append(self._session(None))

    def _session(self, socket_factory: Callable[[AddrInfoType], socket.socket] | None) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=0,  # the engine bounds how many attempts run at once
            keepalive_timeout=_KEEPALIVE,
            resolver=self._resolver or ThreadResolver(),
            socket_factory=socket_factory,
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            skip_auto_headers=("Accept-Encoding", "Content-Type"),
            headers={"User-Agent": "scheduledjob"},
            auto_decompress=False,  # a small body must not become a large one
            middlewares=(_never_twice,),
        )

    def _open_socket(self, info: AddrInfoType) -> socket.socket:
        # The last moment before the connection, with the very address that is connected to.
        assert self._addresses is not None
        family, kind, protocol, _, address = info
        self._addresses.check(str(address[0]))
        return socket.socket(family, kind, protocol)

    async def stop(self) -> None:
        for session in self._sessions:
            await session.close()
        self._sessions.clear()

    def extend(self, run_ids: Sequence[str], deadline: float) -> None:
        """Nothing to do: a request dies with the process, and stops with it."""

    async def run(self, attempt: Attempt) -> Result:
        secrets = Secrets()
        try:
            async with asyncio.timeout(attempt.timeout) as limit:
                result = await self._attempt(attempt, attempt.params, secrets)
        except TimeoutError as error:
            if limit.expired() and attempt.timeout is not None:
                return Result(False, timed_out(attempt.timeout))
            result = Result(False, f"TimeoutError: {error}")
        if result.reason:
            result.reason = one_line(secrets.mask_text(result.reason))
        return result

    async def _attempt(self, attempt: Attempt, spec: CurlSpec, secrets: Secrets) -> Result:
        try:
            request = await first_request(attempt, spec, secrets)
            expected = _statuses(spec.expect_status)
            pattern = _compiled(spec.expect_body) if spec.expect_body is not None else None
        except RequestError as error:
            return Result(False, str(error))
        hops = 0
        while True:
            try:
                response = await self._send(request)
                try:
                    onward = redirected(request, response, spec)
                    if onward is None:
                        return await _judge(response, spec, expected, pattern, secrets)
                finally:
                    # At the end of the body the connection is back in the pool already; before it, this closes it.
                    response.close()
            except (aiohttp.ClientError, RequestError, OSError) as error:
                led = f"redirected to {place(request.url)}: " if hops else ""
                return Result(False, led + in_words(error, request.url))
            hops += 1
            if hops > MAX_REDIRECTS:
                return Result(
                    False, f"more than {MAX_REDIRECTS} redirects, the last to {place(onward.url)}", response.status
                )
            request = onward

    async def _send(self, request: Request) -> aiohttp.ClientResponse:
        url = request.url
        trusted = self._addresses is not None and self._addresses.trusts(url.host or "")
        return await self._sessions[trusted].request(
            request.method,
            url,
            headers=request.headers,
            data=request.body,
            allow_redirects=False,
            ssl=context_of(request.tls) if url.scheme == "https" else True,
            server_hostname=request.server_name,
        )


async def _never_twice(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
        raise ConnectionLostError from error


async def _judge(
    response: aiohttp.ClientResponse,
    spec: CurlSpec,
    expected: frozenset[int],
    pattern: re2._Regexp | None,
    secrets: Secrets,
) -> Result:
    status = response.status
    body, cut = await _read(response, BODY_LIMIT if pattern is not None else OUTPUT_LIMIT + secrets.longest)
    output = _output(body, cut, secrets)
    if status in spec.complete_status:
        return Result(True, "", status, output, complete=True)
    if status not in expected:
        return Result(False, f"HTTP {status}, expected {' or '.join(spec.expect_status)}", status, output)
    if pattern is not None and not await _found(pattern, body):
        within = f" in its first {BODY_LIMIT >> 20} MiB" if cut else ""
        reason = f'HTTP {status}, but nothing in the body{within} matches expect.bodyRegex "{spec.expect_body}"'
        return Result(False, reason, status, output)
    return Result(True, "", status, output)


async def _read(response: aiohttp.ClientResponse, keep: int) -> tuple[bytes, bool]:
    """The last ``keep`` bytes of the body's first ``BODY_LIMIT``, and whether the body was longer than that."""
    kept = bytearray()
    total = 0
    async for chunk in response.content.iter_any():
        total += len(chunk)
        kept += chunk
        if total > BODY_LIMIT:
            del kept[len(kept) - (total - BODY_LIMIT) :]
            return bytes(kept[-keep:]), True
        if len(kept) > 2 * keep:
            del kept[:-keep]
    return bytes(kept[-keep:]), False


def _output(body: bytes, cut: bool, secrets: Secrets) -> bytes:
    """The last ``OUTPUT_LIMIT`` bytes, masked: also of a secret that lies on a cut nothing is shown."""
    if not secrets.longest:
        return body[-OUTPUT_LIMIT:]
    if cut:
        body = body[: -secrets.longest]
    start = max(0, len(body) - OUTPUT_LIMIT)
    for first, end in secrets.spans(body):
        if first < start < end:
            start = end
    return secrets.mask(body[start:])[-OUTPUT_LIMIT:]


async def _found(pattern: re2._Regexp, body: bytes) -> bool:
    if len(body) <= _AT_ONCE:
        return pattern.search(body) is not None
    return await asyncio.to_thread(pattern.search, body) is not None


@lru_cache(1024)
def _compiled(pattern: str) -> re2._Regexp:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 1 << 20  # bytes for one pattern; what does not fit is refused, not slow
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        what = error.args[0].decode(errors="replace") if error.args and isinstance(error.args[0], bytes) else str(error)
        raise RequestError(f'expect.bodyRegex "{pattern}": {what}; it is RE2 syntax') from None


@lru_cache(1024)
def _statuses(patterns: tuple[str, ...]) -> frozenset[int]:
    found: set[int] = set()
    for pattern in patterns:
        if re.fullmatch("[1-5][0-9]{2}", pattern):
            found.add(int(pattern))
        elif re.fullmatch("[1-5][xX]{2}", pattern):
            found.update(range(int(pattern[0]) * 100, int(pattern[0]) * 100 + 100))
        else:
            raise RequestError(f'expect.status "{pattern}": write a status such as 200, or a class such as 2xx')
    return frozenset(found)
