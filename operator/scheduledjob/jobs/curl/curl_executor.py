"""Runs HTTP jobs: an attempt is one request, and the response decides whether it succeeds.

The executor has a pool of connections for all jobs. What belongs to a job (credentials, TLS settings) never stays in
the pool: no cookies are kept, connections are shared only between equal TLS settings, and proxies from the environment
are not used. Redirects are followed here and in ``request.py``, not by aiohttp, because each hop is checked again: its
address, and which headers may go there. No request is sent twice, because only the engine decides about retries.

A request ends with the process, so it can't outlive its lease. A cancellation closes the connection.
"""

from __future__ import annotations

import asyncio
import re
import socket
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import aiohttp

from scheduledjob.engine.executor import Attempt, Result
from scheduledjob.jobs.output import bytes_to_keep, condensed
from scheduledjob.jobs.reasons import of_exception, one_line, timed_out
from scheduledjob.jobs.values import Secrets, secrets_of

from .body_search import BodySearch, compiled_pattern
from .request import Request, first_request, redirected
from .request_errors import ConnectionLostError, RequestError, in_words, place
from .resolver import ThreadResolver
from .tls import context_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiohttp.abc import AbstractResolver
    from aiohttp.connector import AddrInfoType

    from scheduledjob.jobs.curl.curl_spec import CurlSpec

    from .addresses import AddressFilter

BODY_LIMIT = 1 << 20
"""Bytes of a response that are read: for ``bodyRegex``, and to be able to reuse the connection."""

MAX_REDIRECTS = 10

_KEEPALIVE = 2.0
"""Seconds that an idle connection is kept: long enough for a burst, and shorter than servers keep it, so that a request
seldom uses a connection that is being closed."""


class CurlExecutor:
    """Runs attempts whose params are ``CurlSpec``. ``addresses`` None: all addresses are allowed."""

    def __init__(self, addresses: AddressFilter | None = None, resolver: AbstractResolver | None = None) -> None:
        self._addresses = addresses
        self._resolver = resolver
        self._sessions: list[aiohttp.ClientSession] = []
        self._search = BodySearch()

    async def start(self) -> None:
        self._sessions.append(self._session(self._open_socket if self._addresses is not None else None))
        if self._addresses is not None:
            # For hosts that the administrator has allowed by name, whatever their address is.
            self._sessions.append(self._session(None))

    def _session(self, socket_factory: Callable[[AddrInfoType], socket.socket] | None) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=0,  # the engine limits how many attempts run at once
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
            auto_decompress=False,  # a small body must not become large
            middlewares=(_prevent_resend,),
        )

    def _open_socket(self, info: AddrInfoType) -> socket.socket:
        # aiohttp calls this right before it connects to this address.
        assert self._addresses is not None
        family, kind, protocol, _, address = info
        self._addresses.check(str(address[0]))
        return socket.socket(family, kind, protocol)

    async def stop(self) -> None:
        for session in self._sessions:
            await session.close()
        self._sessions.clear()
        self._search.stop()

    def extend(self, run_ids: Sequence[str], deadline: float) -> None:
        """Nothing to do: a request ends with the process."""

    async def run(self, attempt: Attempt) -> Result:
        secrets = secrets_of(attempt)
        try:
            async with asyncio.timeout(attempt.timeout) as limit:
                result = await self._attempt(attempt, attempt.params, secrets)
        except TimeoutError as error:
            if limit.expired() and attempt.timeout is not None:
                return Result(False, timed_out(attempt.timeout))
            result = Result(False, of_exception(error))
        if result.reason:
            result.reason = one_line(await secrets.masked_text(result.reason))
        return result

    async def _attempt(self, attempt: Attempt, spec: CurlSpec, secrets: Secrets) -> Result:
        try:
            request = await first_request(attempt, spec, secrets)
            expected = _statuses(spec.expect_status)
            if spec.expect_body is not None:
                compiled_pattern(spec.expect_body)  # an invalid one is reported before anything is sent
        except RequestError as error:
            return Result(False, str(error))
        hops = 0
        while True:
            try:
                response = await self._send(request)
                try:
                    next_request = redirected(request, response, spec)
                    if next_request is None:
                        return await self._check_response(response, spec, expected, secrets)
                finally:
                    # If the whole body was read, the connection is in the pool again. Otherwise this closes it.
                    response.close()
            except (aiohttp.ClientError, RequestError, OSError) as error:
                via = f"redirected to {place(request.url)}: " if hops else ""
                return Result(False, via + in_words(error, request.url))
            hops += 1
            if hops > MAX_REDIRECTS:
                return Result(
                    False,
                    f"more than {MAX_REDIRECTS} redirects, the last to {place(next_request.url)}",
                    response.status,
                )
            request = next_request

    async def _send(self, request: Request) -> aiohttp.ClientResponse:
        url = request.url
        trusted = self._addresses is not None and self._addresses.trusts(url.host or "")
        session = self._sessions[1 if trusted else 0]  # the second one checks no address
        return await session.request(
            request.method,
            url,
            headers=request.headers,
            data=request.body,
            allow_redirects=False,
            ssl=context_of(request.tls) if url.scheme == "https" else True,
            server_hostname=request.server_name,
        )

    async def _check_response(
        self, response: aiohttp.ClientResponse, spec: CurlSpec, expected: frozenset[int], secrets: Secrets
    ) -> Result:
        status = response.status
        body = await _read(response, secrets, whole=spec.expect_body is not None)
        if status in spec.complete_status:
            return Result(True, "", status, body.output, complete=True)
        if status not in expected:
            return Result(False, f"HTTP {status}, expected {' or '.join(spec.expect_status)}", status, body.output)
        if spec.expect_body is not None and not await self._search.find(spec.expect_body, body.searched):
            within = f" in its first {BODY_LIMIT >> 20} MiB" if body.cut else ""
            reason = f'HTTP {status}, but nothing in the body{within} matches expect.bodyRegex "{spec.expect_body}"'
            return Result(False, reason, status, body.output)
        return Result(True, "", status, body.output)


class _Body(NamedTuple):
    output: bytes
    """The part of the body that history keeps."""
    searched: bytes
    """The text for ``bodyRegex``; empty if there is none."""
    cut: bool
    """Whether the body is longer than what was read."""


async def _prevent_resend(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Raise a lost connection as an error for which aiohttp does not send the request again."""
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
        raise ConnectionLostError from error


async def _read(response: aiohttp.ClientResponse, secrets: Secrets, *, whole: bool) -> _Body:
    """Read the body up to ``BODY_LIMIT``. Without ``whole``, keep only what history needs."""
    head, tail = bytes_to_keep(secrets)
    kept = bytearray()
    total = 0
    async for chunk in response.content.iter_any():
        total += len(chunk)
        kept += chunk
        if total > BODY_LIMIT:
            break
        if not whole and len(kept) > head + 2 * tail:
            del kept[head:-tail]
    cut = total > BODY_LIMIT
    if cut:
        del kept[len(kept) - (total - BODY_LIMIT) :]
    searched = bytes(kept) if whole else b""
    if cut:
        # The end may be the beginning of a secret whose rest was not read, so it is not shown.
        del kept[len(kept) - secrets.longest :]
        total = BODY_LIMIT - secrets.longest
    if total <= head + tail:
        return _Body(await condensed(bytes(kept), b"", total, secrets), searched, cut)
    return _Body(await condensed(bytes(kept[:head]), bytes(kept[-tail:]), total, secrets), searched, cut)


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
