"""The client of the API server: JSON in, JSON out, no classes for what Kubernetes calls things.

An operator that makes a thousand Pods in a second spends its time here, so a request is an encode, a header that is
ready made, and a decode. What every caller needs is done once: the credentials are kept fresh, an answer that says to
try later (429, 5xx) and no answer at all are tried again, a bounded number of times with the pauses that the server
asked for, and what remains is an ``ApiError`` with the server's own words.

A request that was tried again may have been carried out the first time: a creation then ends as ``AlreadyExists``, a
deletion as ``NotFound``. As whatever we create has a name that its purpose determines, the caller can judge that, and
nobody else can.

An ``Api`` belongs to the event loop in which it was entered; several of them may share one ``Access``.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import aiohttp
import msgspec

from .access import Access, ConfigError
from .api_errors import (
    MOST_TEXT,
    ApiError,
    ApiUnavailable,
    Forbidden,
    Gone,
    ListExpired,
    Unauthorized,
    from_status,
    later,
    refusal,
)

if TYPE_CHECKING:
    from types import TracebackType

Params: TypeAlias = Mapping[str, str | int]
Observer: TypeAlias = Callable[[str, str, int, float], None]
"""(verb as RBAC calls it, resource, HTTP status or 0, seconds): one call for each try."""

MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"

TIMEOUT = 30.0
"""Seconds for one try of a request."""
ATTEMPTS = 5
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
"""Seconds before the second try, doubled before each further one, up to the longest."""
LONGEST_ASKED_PAUSE = 30.0
"""Seconds: a Retry-After beyond this is not waited for in full."""
CONNECTIONS = 64
KEPT_ALIVE = 60.0
"""Seconds an idle connection is kept: less than the 90 after which the API server closes it."""
SETTLING = 30.0
"""Seconds after an outage in which the API server may refuse what RBAC allows: it has not read the roles yet."""

rng = random.Random()  # noqa: S311  # spreads load, guards nothing


class Api:
    """A pool of connections to the API server, open inside ``async with``."""

    def __init__(self, access: Access, *, connections: int = CONNECTIONS, on_request: Observer | None = None) -> None:
        self.access = access
        self._connections = connections
        self._on_request = on_request
        self._opened: aiohttp.ClientSession | None = None
        self._headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": user_agent()}
        self._failed_at = float("-inf")

    @classmethod
    def from_config(
        cls, kubeconfig: str | None = None, context: str | None = None, *, on_request: Observer | None = None
    ) -> Self:
        """``kubeconfig``: a path; None: ``KUBECONFIG``, else the Pod's service account, else ``~/.kube/config``."""
        return cls(Access(kubeconfig, context), on_request=on_request)

    async def __aenter__(self) -> Self:
        """Read the configuration; nothing is sent yet. Raises ConfigError."""
        await asyncio.to_thread(self.access.load)
        connector = aiohttp.TCPConnector(
            limit=self._connections, keepalive_timeout=KEPT_ALIVE, ssl=self.access.tls or False
        )
        self._opened = aiohttp.ClientSession(
            connector=connector, headers=self._headers, auto_decompress=True, cookie_jar=aiohttp.DummyCookieJar()
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._opened is not None:
            await self._opened.close()

    async def get(self, path: str, params: Params | None = None, *, attempts: int = ATTEMPTS) -> Any:
        return await self.request("GET", path, params=params, attempts=attempts)

    async def post(self, path: str, body: object, params: Params | None = None, *, attempts: int = ATTEMPTS) -> Any:
        return await self.request("POST", path, params=params, body=body, attempts=attempts)

    async def patch(
        self,
        path: str,
        body: object,
        params: Params | None = None,
        *,
        content_type: str = MERGE_PATCH,
        attempts: int = ATTEMPTS,
    ) -> Any:
        return await self.request("PATCH", path, params=params, body=body, content_type=content_type, attempts=attempts)

    async def delete(
        self, path: str, body: object = None, params: Params | None = None, *, attempts: int = ATTEMPTS
    ) -> Any:
        """``body``: DeleteOptions (``preconditions``, ``gracePeriodSeconds``, ``propagationPolicy``)."""
        return await self.request("DELETE", path, params=params, body=body, attempts=attempts)

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        body: object = None,
        content_type: str = "application/json",
        seconds: float = TIMEOUT,
        attempts: int = ATTEMPTS,
    ) -> Any:
        """The answer's JSON, decoded. Raises ApiError; ``seconds`` is the time for each attempt."""
        answer = await self.read(
            method, path, params=params, body=body, content_type=content_type, seconds=seconds, attempts=attempts
        )
        return _object(answer)

    async def read(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        body: object = None,
        content_type: str = "application/json",
        seconds: float = TIMEOUT,
        attempts: int = ATTEMPTS,
    ) -> bytes:
        """The answer as it is: a Pod's log. ``body``: bytes as they are, anything else as JSON."""
        data = body if isinstance(body, bytes) else None if body is None else msgspec.json.encode(body)
        for attempt in range(1, attempts + 1):
            try:
                status, answer, asked = await self._try(method, path, params, data, content_type, seconds)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                failure: ApiError = no_answer(error, seconds)
                asked = 0.0
            else:
                if status < 400:
                    return answer
                failure = refusal(status, answer)
                failure.retry_after = asked
                if not later(status) and not self._unsettled(failure):
                    raise failure
            if attempt == attempts:
                break
            await asyncio.sleep(pause(attempt, asked))
        raise failure

    async def pages(self, path: str, params: Params | None = None, *, limit: int = 500) -> AsyncIterator[Any]:
        """The pages of one consistent list, each a decoded list object.

        Raises ListExpired where the API server forgets the list before its last page: then what came before is not
        all there is, and the caller starts over.
        """
        query: dict[str, str | int] = {**(params or {}), "limit": limit}
        count = 0
        while True:
            try:
                page = await self.get(path, query)
            except Gone as error:
                if not count:
                    raise
                message = f"the list of {path} expired after {count} pages: {error.message}"
                raise ListExpired(410, "Expired", message) from error
            count += 1
            yield page
            if not (token := page["metadata"].get("continue")):
                return
            query["continue"] = token

    async def watch(
        self,
        path: str,
        params: Params | None = None,
        *,
        silence: float | None = None,
        on_open: Callable[[], None] | None = None,
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Events (``type``, ``object``) until the server ends the watch, which it does by ``timeoutSeconds``.

        One try: whoever watches knows from where to go on. ``on_open`` is called when the watch has begun, which an
        event may not show for long. Raises ApiError, also for an event of type ERROR, and ApiUnavailable when nothing
        at all, not even a bookmark, came for ``silence`` seconds. Close it (``aclosing``) to end it from here.
        """
        query = {**(params or {}), "watch": "true", "allowWatchBookmarks": "true"}
        limits = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=silence)
        started = time.monotonic()
        status = 0
        try:
            async with await self._send("GET", path, query, None, "", limits) as answer:
                status = answer.status
                self._observe("watch", path, status, started)
                if status >= 400:
                    refused = refusal(status, await answer.read())
                    refused.retry_after = _asked(answer)
                    raise refused
                if on_open is not None:
                    on_open()
                pieces: list[bytes] = []
                async for chunk in answer.content.iter_any():
                    *lines, rest = chunk.split(b"\n")
                    for line in lines:
                        pieces.append(line)
                        if whole := b"".join(pieces):
                            yield _event(whole)
                        pieces.clear()
                    pieces.append(rest)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._failed_at = time.monotonic()
            if not status:
                self._observe("watch", path, 0, started)
            raise no_answer(error, silence) from error

    async def stream(self, path: str, params: Params | None = None) -> AsyncGenerator[bytes, None]:
        """The answer in pieces as they come, until the server ends it: the log of a Pod that is followed.

        One try. Raises ApiError. Close it (``aclosing``) to end it from here.
        """
        limits = aiohttp.ClientTimeout(total=None, sock_connect=10.0)
        started, status = time.monotonic(), 0
        try:
            async with await self._send("GET", path, params, None, "", limits) as answer:
                status = answer.status
                self._observe("get", path, status, started)
                if status >= 400:
                    raise refusal(status, await answer.read())
                async for piece in answer.content.iter_any():
                    yield piece
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._failed_at = time.monotonic()
            if not status:
                self._observe("get", path, 0, started)
            raise no_answer(error, None) from error

    async def _try(
        self, method: str, path: str, params: Params | None, data: bytes | None, content_type: str, seconds: float
    ) -> tuple[int, bytes, float]:
        """(status, body, seconds to wait that the server asked for) of one try, two where the credentials were old."""
        limits = aiohttp.ClientTimeout(total=seconds)
        for renewed in (False, True):
            started, status = time.monotonic(), 0
            shown = self.access.authorization
            try:
                async with await self._send(method, path, params, data, content_type, limits) as answer:
                    status = answer.status
                    body = await answer.read()
                    asked = _asked(answer)
            finally:
                self._observe(_verb(method, path), path, status, started)
                if status == 0 or status >= 500:
                    self._failed_at = time.monotonic()
            if status != 401 or renewed:
                break
            try:
                await asyncio.to_thread(self.access.renew, shown)
            except ConfigError as error:
                raise Unauthorized(401, "Unauthorized", str(error)) from error
        return status, body, asked

    async def _send(
        self,
        method: str,
        path: str,
        params: Params | None,
        data: bytes | None,
        content_type: str,
        limits: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        if self._opened is None:
            raise RuntimeError("the client is not open: async with Api.from_config() as api")
        if self.access.due():
            try:
                await asyncio.to_thread(self.access.refresh)
            except ConfigError as error:
                raise Unauthorized(401, "Unauthorized", str(error)) from error
        headers = {}
        if self.access.authorization is not None:
            headers["Authorization"] = self.access.authorization
        if data is not None:
            headers["Content-Type"] = content_type
        return await self._opened.request(
            method,
            self.access.server + path,
            params=params,
            data=data,
            headers=headers,
            timeout=limits,
            proxy=self.access.proxy,
            server_hostname=self.access.server_name,
            allow_redirects=False,
        )

    def _unsettled(self, failure: ApiError) -> bool:
        """Whether RBAC refused it while the API server may not know its roles: it was away a moment ago."""
        by_rbac = isinstance(failure, Forbidden) and 'User "' in failure.message
        return by_rbac and time.monotonic() - self._failed_at < SETTLING

    def _observe(self, verb: str, path: str, status: int, started: float) -> None:
        if self._on_request is not None:
            self._on_request(verb, resource_of(path)[0], status, time.monotonic() - started)


def user_agent() -> str:
    try:
        return f"scheduledjob/{version('scheduledjob')}"
    except PackageNotFoundError:
        return "scheduledjob/0"


def pause(attempt: int, asked: float) -> float:
    """Seconds after this many tries, at least those that the server asked for."""
    own = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(attempt - 1, 30)) * rng.uniform(0.5, 1.0)
    return max(own, min(asked, LONGEST_ASKED_PAUSE) * rng.uniform(1.0, 1.1))


def _asked(answer: aiohttp.ClientResponse) -> float:
    return retry_after(answer.headers.get("Retry-After")) if later(answer.status) else 0.0


def retry_after(header: str | None) -> float:
    """Seconds; the API server sends a number, and a date (which a proxy may send) is as good as nothing."""
    return float(header) if header is not None and header.isdecimal() else 0.0


def no_answer(error: BaseException, seconds: float | None) -> ApiUnavailable:
    words = f"no answer within {seconds:g} s" if isinstance(error, TimeoutError) and seconds else str(error)
    return ApiUnavailable(0, "", f"the API server can't be reached: {words or type(error).__name__}")


def resource_of(path: str) -> tuple[str, bool]:
    """(``pods``, ``scheduledjobs/status`` ..., whether one object is named) of a path of the API."""
    parts = path.strip("/").split("/")
    rest = parts[2:] if parts[0] == "api" else parts[3:]
    if len(rest) > 2 and rest[0] == "namespaces":
        rest = rest[2:]
    if not rest:
        return "", False
    return (f"{rest[0]}/{rest[2]}" if len(rest) > 2 else rest[0]), len(rest) > 1


_VERBS = {"POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}


def _verb(method: str, path: str) -> str:
    return _VERBS.get(method) or ("get" if resource_of(path)[1] else "list")


def _object(answer: bytes) -> dict[str, Any]:
    """The object in an answer. Whatever else answers for the API server (a proxy with a page, say) is no answer."""
    with suppress(ValueError):  # msgspec's errors are ValueErrors
        found = msgspec.json.decode(answer)
        if isinstance(found, dict) and "kind" in found:
            return found
    raise _not_understood(answer)


def _not_understood(answer: bytes) -> ApiUnavailable:
    text = answer[: 4 * MOST_TEXT].decode(errors="replace").strip()[:MOST_TEXT]
    return ApiUnavailable(0, "", f"the API server can't be reached: what answers for it says {text!r}")


def _event(line: bytes) -> dict[str, Any]:
    try:
        event: dict[str, Any] = msgspec.json.decode(line, type=dict[str, Any])
    except ValueError:
        event = {}
    if not isinstance(event.get("object"), dict) or "type" not in event:
        raise _not_understood(line)
    if event["type"] == "ERROR":
        raise from_status(event["object"].get("code") or 0, event["object"])
    return event
