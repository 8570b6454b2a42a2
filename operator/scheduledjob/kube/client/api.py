"""The client of the API server: it sends and returns JSON, without classes for the types of Kubernetes.

An operator that creates a thousand Pods a second spends its time here, so a request costs little more than an encode
and a decode. The client keeps the credentials fresh. It retries a request that got no answer, or one that says to try
later (429, 5xx), a limited number of times, with the pauses that the server asks for. What remains is an ``ApiError``
with the server's own message.

A retried request may have succeeded the first time: a creation then fails with ``AlreadyExists``, a deletion with
``NotFound``. The operator gives whatever it creates a name that its purpose determines, so the caller can tell.

An ``Api`` belongs to the event loop in which it was entered. Several of them may share an ``Access``.
"""

from __future__ import annotations

import asyncio
import io
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypedDict, Unpack

import aiohttp
import msgspec

from scheduledjob.engine.threads import wait_apart

from .access import Access, ConfigError
from .api_errors import (
    MAX_TEXT,
    ApiError,
    ApiUnavailable,
    Forbidden,
    Gone,
    ListExpired,
    Unauthorized,
    error_of_answer,
    error_of_status,
    is_retryable,
)
from .shallow_json import decode

if TYPE_CHECKING:
    from types import TracebackType

Params: TypeAlias = Mapping[str, str | int]
RequestObserver: TypeAlias = Callable[[str, str, int, float], None]
"""(verb as in RBAC, resource, HTTP status or 0, seconds), called for each attempt."""

MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"

TIMEOUT = 30.0
"""Seconds for each attempt."""
CONNECT_TIMEOUT = 10.0
"""Seconds to connect for a watch or a stream."""
ATTEMPTS = 5
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
"""Seconds before the second attempt, doubled before each further one, up to the longest."""
SENT_AT_ONCE = 1 << 18
"""Bytes of a body that are sent at once. A longer one is sent in pieces, so that the event loop goes on."""
LONGEST_ASKED_PAUSE = 30.0
"""Seconds: the most that a Retry-After is obeyed."""
CONNECTIONS = 64
KEPT_ALIVE = 60.0
"""Seconds that an idle connection is kept: less than the 90 after which the API server closes it."""
SETTLING = 30.0
"""Seconds after an outage in which the API server may forbid what RBAC allows: it may not have read the roles yet."""

rng = random.Random()  # noqa: S311  # spreads load, guards nothing


class RequestOptions(TypedDict, total=False):
    """The optional arguments of a request."""

    params: Params | None
    body: object
    """Bytes are sent as they are, anything else as JSON."""
    content_type: str
    """``application/json`` by default."""
    seconds: float
    """Seconds for each attempt; ``TIMEOUT`` by default."""
    attempts: int
    """``ATTEMPTS`` by default."""


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    timeout: aiohttp.ClientTimeout
    params: Params | None = None
    data: bytes | None = None
    content_type: str = ""


class Api:
    """A pool of connections to the API server, open inside ``async with``."""

    def __init__(
        self, access: Access, *, connections: int = CONNECTIONS, on_request: RequestObserver | None = None
    ) -> None:
        self.access = access
        self._connections = connections
        self._on_request = on_request
        self._session: aiohttp.ClientSession | None = None
        self._headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": user_agent()}
        self._failed_at = float("-inf")

    @classmethod
    def from_config(
        cls, kubeconfig: str | None = None, context: str | None = None, *, on_request: RequestObserver | None = None
    ) -> Self:
        """``kubeconfig``: a path; None: ``KUBECONFIG``, else the Pod's service account, else ``~/.kube/config``."""
        return cls(Access(kubeconfig, context), on_request=on_request)

    async def __aenter__(self) -> Self:
        """Read the configuration. Nothing is sent yet. Raises ConfigError."""
        await wait_apart(self.access.load)
        connector = aiohttp.TCPConnector(
            limit=self._connections, keepalive_timeout=KEPT_ALIVE, ssl=self.access.tls or False
        )
        self._session = aiohttp.ClientSession(
            connector=connector, headers=self._headers, auto_decompress=True, cookie_jar=aiohttp.DummyCookieJar()
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

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

    async def request(self, method: str, path: str, **options: Unpack[RequestOptions]) -> Any:
        """Return the decoded JSON of the answer. Raises ApiError."""
        return _decode_object(await self.read(method, path, **options))

    async def read(self, method: str, path: str, **options: Unpack[RequestOptions]) -> bytes:
        """Return the answer as it is, as for a Pod's log. Raises ApiError."""
        body = options.get("body")
        seconds, attempts = options.get("seconds", TIMEOUT), options.get("attempts", ATTEMPTS)
        request = _Request(
            method,
            path,
            aiohttp.ClientTimeout(total=seconds),
            params=options.get("params"),
            data=body if isinstance(body, bytes) else None if body is None else msgspec.json.encode(body),
            content_type=options.get("content_type", "application/json"),
        )
        for attempt in range(1, attempts + 1):
            try:
                status, answer, asked_pause = await self._attempt(request)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                failure: ApiError = no_answer(error, seconds)
                asked_pause = 0.0
            else:
                if status < 400:
                    return answer
                failure = error_of_answer(status, answer)
                failure.retry_after = asked_pause
                if not is_retryable(status) and not self._is_settling(failure):
                    raise failure
            if attempt == attempts:
                break
            await asyncio.sleep(pause(attempt, asked_pause))
        raise failure

    async def pages(self, path: str, params: Params | None = None, *, limit: int = 500) -> AsyncIterator[Any]:
        """Yield the pages of a consistent list, as decoded list objects.

        Raises ListExpired if the API server forgets the list before its last page. The list is incomplete then, and the
        caller has to start over.
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
        """Yield events (``type``, ``object``) until the server ends the watch, after ``timeoutSeconds``.

        There is no second attempt, because the caller knows where to continue. ``on_open`` is called when the watch has
        begun; the first event may take long. Raises ApiError, also for an event of type ERROR, and ApiUnavailable if
        nothing, not even a bookmark, comes for ``silence`` seconds. Close the generator (``aclosing``) to end it.
        """
        query = {**(params or {}), "watch": "true", "allowWatchBookmarks": "true"}
        async with self._open_stream("watch", path, query, silence) as answer:
            if on_open is not None:
                on_open()
            pieces: list[bytes] = []
            async for chunk in answer.content.iter_any():
                *lines, rest = chunk.split(b"\n")
                for line in lines:
                    pieces.append(line)
                    if whole := b"".join(pieces):
                        yield _decode_event(whole)
                    pieces.clear()
                pieces.append(rest)

    async def stream(self, path: str, params: Params | None = None) -> AsyncGenerator[bytes, None]:
        """Yield the answer in pieces as they come, until the server ends it: the log of a Pod that is followed.

        There is no second attempt. Raises ApiError. Close the generator (``aclosing``) to end the stream.
        """
        async with self._open_stream("get", path, params, None) as answer:
            async for piece in answer.content.iter_any():
                yield piece

    @asynccontextmanager
    async def _open_stream(
        self, verb: str, path: str, params: Params | None, silence: float | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=silence)
        started, status = time.monotonic(), 0
        try:
            async with await self._send(_Request("GET", path, timeout, params)) as answer:
                status = answer.status
                self._observe(verb, path, status, started)
                if status >= 400:
                    refused = error_of_answer(status, await answer.read())
                    refused.retry_after = _asked_pause(answer)
                    raise refused
                yield answer
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._failed_at = time.monotonic()
            if not status:
                self._observe(verb, path, 0, started)
            raise no_answer(error, silence) from error

    async def _attempt(self, request: _Request) -> tuple[int, bytes, float]:
        """Return (status, body, seconds to wait that the server asked for).

        After a 401 the credentials are read again, and the request is sent a second time.
        """
        for renewed in (False, True):
            started, status = time.monotonic(), 0
            authorization = self.access.authorization
            try:
                async with await self._send(request) as answer:
                    status = answer.status
                    body = await answer.read()
                    asked_pause = _asked_pause(answer)
            finally:
                self._observe(_verb(request.method, request.path), request.path, status, started)
                if status == 0 or status >= 500:
                    self._failed_at = time.monotonic()
            if status != 401 or renewed:
                break
            try:
                await wait_apart(self.access.renew, authorization)
            except ConfigError as error:
                raise Unauthorized(401, "Unauthorized", str(error)) from error
        return status, body, asked_pause

    async def _send(self, request: _Request) -> aiohttp.ClientResponse:
        if self._session is None:
            raise RuntimeError("the client is not open: async with Api.from_config() as api")
        if self.access.due():
            try:
                await wait_apart(self.access.refresh)
            except ConfigError as error:
                raise Unauthorized(401, "Unauthorized", str(error)) from error
        headers = {}
        if self.access.authorization is not None:
            headers["Authorization"] = self.access.authorization
        if request.data is not None:
            headers["Content-Type"] = request.content_type
        return await self._session.request(
            request.method,
            self.access.server + request.path,
            params=request.params,
            data=_in_pieces(request.data),
            headers=headers,
            timeout=request.timeout,
            proxy=self.access.proxy,
            server_hostname=self.access.server_name,
            allow_redirects=False,
        )

    def _is_settling(self, failure: ApiError) -> bool:
        """Whether RBAC refused the request shortly after an outage, when the API server may not know its roles yet."""
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


def pause(attempt: int, asked_pause: float) -> float:
    """Return the seconds to wait after this many attempts, at least those that the server asked for."""
    backoff = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(attempt - 1, 30)) * rng.uniform(0.5, 1.0)
    return max(backoff, min(asked_pause, LONGEST_ASKED_PAUSE) * rng.uniform(1.0, 1.1))


def _asked_pause(answer: aiohttp.ClientResponse) -> float:
    return retry_after(answer.headers.get("Retry-After")) if is_retryable(answer.status) else 0.0


def retry_after(header: str | None) -> float:
    """Return the seconds of a Retry-After header. A date, which only a proxy sends, counts as 0."""
    return float(header) if header is not None and header.isdecimal() else 0.0


def no_answer(error: BaseException, seconds: float | None) -> ApiUnavailable:
    """Return the error for a request that failed without an answer, after ``seconds`` if it timed out."""
    reason = f"no answer within {seconds:g} s" if isinstance(error, TimeoutError) and seconds else str(error)
    return ApiUnavailable(0, "", f"the API server can't be reached: {reason or type(error).__name__}")


def resource_of(path: str) -> tuple[str, bool]:
    """Return (``pods``, ``scheduledjobs/status`` ..., whether the path names an object) of a path of the API."""
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


def _decode_object(answer: bytes) -> dict[str, Any]:
    """Anything that is not an object of Kubernetes does not come from the API server, but from a proxy, for example."""
    with suppress(ValueError):  # msgspec's errors are ValueErrors
        decoded = decode(answer)
        if isinstance(decoded, dict) and "kind" in decoded:
            return decoded
    raise _foreign_answer(answer)


def _foreign_answer(answer: bytes) -> ApiUnavailable:
    text = answer[: 4 * MAX_TEXT].decode(errors="replace").strip()[:MAX_TEXT]
    return ApiUnavailable(0, "", f"the API server can't be reached: something else answered {text!r}")


def _decode_event(line: bytes) -> dict[str, Any]:
    try:
        event = decode(line)
    except ValueError:
        event = None
    if not isinstance(event, dict) or not isinstance(event.get("object"), dict) or "type" not in event:
        raise _foreign_answer(line)
    if event["type"] == "ERROR":
        raise error_of_status(event["object"].get("code") or 0, event["object"])
    return event


def _in_pieces(data: bytes | None) -> bytes | io.BytesIO | None:
    return data if data is None or len(data) <= SENT_AT_ONCE else io.BytesIO(data)
