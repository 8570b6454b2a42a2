"""The requests of an HTTP job: the first one, from the spec, and those that redirects lead to.

Each request is checked before anything is sent: the headers and the URL are valid, and what is meant for a host
(credentials, values of Secrets, the client certificate) is sent to no other.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from multidict import CIMultiDict

from scheduledjob.domain.time.instants import rfc3339
from scheduledjob.jobs.values import Secrets, resolve

from .request_errors import RequestError, place
from .target import Target, join_target, parse_target
from .tls import DEFAULT, TlsSetting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from yarl import URL

    from scheduledjob.engine.executor import Attempt, Value
    from scheduledjob.jobs.curl.curl_spec import CurlSpec

    from .response import Head

_REDIRECTS = frozenset(range(300, 400)) - {304}
"""curl follows any status 3xx with a ``Location``, and even 304, which says only that the body did not change."""
_EXPECTATION_FAILED = 417
_METHOD = _HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_IN_HEADER = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_FROM_BODY = frozenset({"content-length", "transfer-encoding"})
_FOR_ONE_HOST = frozenset({"authorization", "cookie", "proxy-authorization", "host"})
_OF_BODY = ("Content-Type", "Content-Encoding", "Content-Language", "Content-Location")
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_DEFAULT_HEADERS = (("User-Agent", "scheduledjob"), ("Accept", "*/*"))
_PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))
_LINE_END = "\r\n"


class Proxy(NamedTuple):
    """A proxy, and what it gets. It resolves the names of the servers."""

    origin: URL
    tls: TlsSetting
    authorization: str = ""
    """The value of ``Proxy-Authorization``; empty: none."""


@dataclass(slots=True)
class Request:
    """The request of a hop."""

    method: str
    target: Target
    headers: CIMultiDict[str]
    body: bytes | None
    body_is_secret: bool = False
    tls: TlsSetting = DEFAULT
    server_name: str | None = None
    proxy: Proxy | None = None
    confined: set[str] = field(default_factory=set)
    """Headers, in lower case, that are sent to the first host only."""
    first: Request | None = None
    """The first request, if redirects led to this one."""

    @property
    def url(self) -> URL:
        """Scheme, host and port of its server."""
        return self.target.origin

    @property
    def size(self) -> int:
        """The bytes of its headers and its body."""
        return len(self.body or b"") + sum(map(len, self.headers.values()))

    def head(self) -> bytes:
        """Return the request line and the headers as they are sent."""
        through_proxy = self.proxy is not None and self.url.scheme == "http"
        host = host_and_port(self.target)
        origin = f"http://{host}" if through_proxy else ""
        lines = [f"{self.method} {origin}{self.target.path} HTTP/1.1"]
        if "Host" not in self.headers:
            lines.append(f"Host: {host}")
        lines += [f"{name}: {value}" for name, value in _DEFAULT_HEADERS if name not in self.headers]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if through_proxy and self.proxy is not None and self.proxy.authorization:
            lines.append(f"Proxy-Authorization: {self.proxy.authorization}")
        if self.body is not None or self.method in _WITH_BODY:
            lines.append(f"Content-Length: {len(self.body or b'')}")
        return "\r\n".join((*lines, "", "")).encode("utf-8", "surrogateescape")


async def first_request(attempt: Attempt, spec: CurlSpec, secrets: Secrets) -> Request:
    """Return the request of a spec, with references resolved. Raises ``RequestError``, which names the field."""

    async def of(what: str, value: Value | None) -> str | None:
        if value is None:
            return None
        try:
            return await resolve(value, attempt.references, secrets, any_bytes=not what.startswith("tls"))
        except (LookupError, ValueError) as error:
            raise RequestError(f"{what}: {error.args[0] if error.args else error}") from None

    if not _METHOD.fullmatch(spec.method) or spec.method.upper() == "CONNECT":
        raise RequestError(f'method "{spec.method}" can\'t be used: write one such as GET or POST')
    target = _target(spec.url)
    # If the spec has a body that is a reference to nothing, there is no body.
    body = attempt.payload if spec.body is None else _bytes(await of("body", spec.body))
    headers = _own_headers(attempt)
    request = Request(spec.method.upper(), target, headers, body)
    request.body_is_secret = attempt.payload_is_secret if spec.body is None else spec.body.secret is not None
    if (authorization := await _authorization(spec, target.origin, of, secrets)) is not None:
        headers["Authorization"] = authorization
    if target.origin.user is not None:
        request.target = target._replace(origin=target.origin.with_user(None))
    for name, value in spec.headers.items():
        text = await of(f"header {name}", value)
        if text is None:
            continue
        if value.secret is not None or value.config_map is not None:
            text = text.rstrip(_LINE_END)  # a value that comes from a file often ends with one
        if not _HEADER_NAME.fullmatch(name) or name.lower() in _FROM_BODY:
            raise RequestError(f'header "{name}" can\'t be set: leave it out')
        headers[name] = text
        if value.secret is not None:
            request.confined.add(name.lower())
    for name, text in headers.items():
        if _NOT_IN_HEADER.search(text):
            raise RequestError(f"header {name}: its value has a line break or another control character: leave it out")
    request.server_name = spec.server_name
    if spec.insecure_skip_verify or spec.ca or spec.client_certificate or spec.client_key:
        request.tls = TlsSetting(
            not spec.insecure_skip_verify,
            await of("tls.ca", spec.ca),
            await of("tls client certificate", spec.client_certificate),
            await of("tls client key", spec.client_key),
        )
    if spec.proxy is not None:
        user, password = await of("proxyAuth", spec.proxy_username), await of("proxyAuth", spec.proxy_password)
        request.proxy = _proxy(spec, user, password, request.tls, secrets)
    return request


def _proxy(spec: CurlSpec, user: str | None, password: str | None, tls: TlsSetting, secrets: Secrets) -> Proxy:
    try:
        origin = parse_target(spec.proxy or "").origin
    except ValueError:
        raise RequestError("proxy: write http://host:port or https://host:port") from None
    if user is None and password is None:
        authorization = _of_url(origin) or ""
    else:
        authorization = _basic("proxyAuth", user, password)
        if any(value is not None and value.secret is not None for value in (spec.proxy_username, spec.proxy_password)):
            secrets.remember(authorization.partition(" ")[2])
    return Proxy(origin.with_user(None), tls._replace(certificate=None, key=None), authorization)


def _target(text: str) -> Target:
    try:
        return parse_target(text)
    except ValueError:
        raise RequestError("url: write http://host/path or https://host/path") from None


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode(errors="surrogateescape")


def _own_headers(attempt: Attempt) -> CIMultiDict[str]:
    """Return the headers that describe the attempt. The user's headers of the same names replace them."""
    run_id = _ascii(attempt.run_id)
    return CIMultiDict(
        {
            "X-ScheduledJob-Name": _ascii(attempt.name),
            "X-ScheduledJob-Namespace": _ascii(attempt.namespace),
            "X-ScheduledJob-Uid": _ascii(attempt.uid),
            "X-ScheduledJob-Slot": rfc3339(attempt.slot),
            "X-ScheduledJob-Attempt": str(attempt.attempt),
            "X-ScheduledJob-Run-Id": run_id,
            "X-ScheduledJob-Version": str(attempt.version),
            "Idempotency-Key": run_id,
        }
    )


def _ascii(text: str) -> str:
    """Return text for a header. What is not printable ASCII is %-encoded: a slug of the library may be anything."""
    return text if text.isascii() and text.isprintable() else quote(text, safe=_PRINTABLE, errors="replace")


async def _authorization(
    spec: CurlSpec, url: URL, of: Callable[[str, Value | None], Awaitable[str | None]], secrets: Secrets
) -> str | None:
    bearer = await of("auth.bearer", spec.bearer)
    if bearer is not None:
        return f"Bearer {bearer.strip()}"
    user = await of("auth.basic username", spec.basic_username)
    password = await of("auth.basic password", spec.basic_password)
    if user is None and password is None:
        return _of_url(url)
    header = _basic("auth.basic", user, password)
    if any(value is not None and value.secret is not None for value in (spec.basic_username, spec.basic_password)):
        secrets.remember(header.partition(" ")[2])  # the server may echo its headers
    return header


def _of_url(url: URL) -> str | None:
    """Return the value of ``Authorization`` for the credentials in a URL, which may be any bytes; None: it has none."""
    if url.raw_user is None and url.raw_password is None:
        return None
    pair = unquote_to_bytes(url.raw_user or "") + b":" + unquote_to_bytes(url.raw_password or "")
    return f"Basic {base64.b64encode(pair).decode()}"


def _basic(what: str, user: str | None, password: str | None) -> str:
    if ":" in (user or ""):
        raise RequestError(f"{what}: a user name can't contain a colon")
    # A Secret that was made from a file often ends with a line break, which is not part of the value.
    pair = f"{(user or '').rstrip(_LINE_END)}:{(password or '').rstrip(_LINE_END)}"
    return f"Basic {base64.b64encode(pair.encode(errors='surrogateescape')).decode()}"


def redirected(request: Request, response: Head, spec: CurlSpec) -> Request | None:
    """Return the request that a redirect leads to, without what may not be sent there; None: it is no redirect."""
    if response.status == _EXPECTATION_FAILED and "Expect" in request.headers:
        return _without_expectation(request)
    location = response.first(b"location")
    if not spec.follow_redirects or response.status not in _REDIRECTS or not location:
        return None
    here, first = request.url, request.first or request
    try:
        target = join_target(request.target, location)
        url = target.origin.with_user(None)
    except ValueError:
        raise RequestError(f"{place(here)} redirected to something that is not an http or https URL") from None
    onward = replace(request, target=target._replace(origin=url), headers=request.headers.copy(), first=first)
    # As in browsers: 303 leads to a GET, and so do 301 and 302 after a POST.
    see_other = response.status == 303 and request.method != "HEAD"
    if see_other or (response.status in (301, 302) and request.method == "POST"):
        onward.method, onward.body, onward.body_is_secret = "GET", None, False
        for name in _OF_BODY:
            onward.headers.popall(name, None)
    if not _may_share(here, url):
        if onward.body and onward.body_is_secret:
            raise RequestError(
                f"{place(here)} redirected to {place(url)}, but a body from a Secret is not sent to another "
                "host: if that host is right, write its URL"
            )
        for name in list(onward.headers):
            if name.lower() in _FOR_ONE_HOST or name.lower() in request.confined:
                onward.headers.popall(name, None)
        onward.tls = request.tls._replace(certificate=None, key=None)
        onward.server_name = None
        if _may_share(first.url, url):  # back at the first host: the same virtual host, but without credentials
            onward.server_name = first.server_name
            if "Host" in first.headers:
                onward.headers["Host"] = first.headers["Host"]
    return onward


def _without_expectation(request: Request) -> Request:
    """Return the same request for a server that does not know ``Expect`` (RFC 9110, 10.1.1)."""
    headers = request.headers.copy()
    headers.popall("Expect")
    return replace(request, headers=headers)


def host_and_port(target: Target) -> str:
    """Return the value of a ``Host`` header, which omits the default port."""
    return target.host if target.origin.is_default_port() else f"{target.host}:{target.origin.port}"


def _may_share(first: URL, second: URL) -> bool:
    """Whether what is meant for the first may be sent to the second: same origin, or http to https of a host."""
    if first.raw_host != second.raw_host:
        return False
    if (first.scheme, first.port) == (second.scheme, second.port):
        return True
    return (first.scheme, first.port) == ("http", 80) and (second.scheme, second.port) == ("https", 443)
