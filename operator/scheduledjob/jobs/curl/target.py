"""Where a request goes: the server, and the path as it is sent.

A path is sent as it was written, as curl does: its percent-escapes stay, and only bytes that no request line may hold
are escaped. The segments ``.`` and ``..`` are removed. yarl would rewrite escapes, which changes what a server sees of
a signed URL, so it parses only the authority here.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote

from yarl import URL

_ABSOLUTE = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]*):/{1,3}([^/?#]*)([^#]*)")  # the number of slashes is that of curl
_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*:")
_PORT = re.compile(r":[0-9]*$")
_ZONE = re.compile(r"%[^\]]*(?=\])")
_NOT_IN_HOST = re.compile(r"[\x00-\x20\x7f/:#?!@{}\[\]\\$'\"^`*<>=;,&()|%+]")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_NOT_SENDABLE = re.compile(rb"[\x20\x80-\xff]")
_ESCAPES = [bytes((byte,)) if 0x20 < byte < 0x80 else b"%%%02x" % byte for byte in range(256)]
_LONGEST_HOST = 1024
"""Characters of a host as it is written. A name has at most 253, and a long one takes seconds to convert to ASCII."""


class Target(NamedTuple):
    """The destination of a request."""

    origin: URL
    """Scheme, host and port, and the user and password of the URL."""
    path: str
    """Path and query, in ASCII."""
    host: str
    """The host for the header ``Host``: as it was written, without the zone of an IPv6 address."""


def parse_target(text: str) -> Target:
    """Return the target of an absolute http or https URL. Raises ``ValueError`` for any other text."""
    if text.partition("://")[2].startswith("/"):
        raise ValueError("no host")
    return _absolute(text.encode())


def join_target(base: Target, location: bytes) -> Target:
    """Return the target of a ``Location`` header in a response of ``base``. Raises ``ValueError``."""
    if _SCHEME.match(location):
        return _absolute(location)
    if location.startswith(b"//"):
        return _absolute(base.origin.scheme.encode() + b":" + location)
    reference = location.partition(b"#")[0]
    path = base.path.partition("?")[0].encode()
    if reference.startswith(b"/"):
        path = b""
    elif not reference.startswith(b"?"):
        path = path[: path.rindex(b"/") + 1]
    return Target(base.origin, _sendable(path + reference), base.host)


def _absolute(text: bytes) -> Target:
    match = _ABSOLUTE.match(text)
    if match is None or match[1].lower() not in (b"http", b"https"):
        raise ValueError("not an http or https URL")
    credentials, at, written = match[2].decode().rpartition("@")
    if len(written) > _LONGEST_HOST:
        raise ValueError("a host that is too long")
    if written.startswith("["):
        written = written.replace("%25", "%")  # curl takes the zone of an address with and without this escape
    elif "%" in written:
        written = unquote(written, errors="strict")
    origin = URL(f"{match[1].decode().lower()}://{credentials}{at}{written}/")
    host = _PORT.sub("", written)
    bracketed = host.startswith("[")
    if not origin.raw_host or origin.raw_path != "/" or (not bracketed and _NOT_IN_HOST.search(host)):
        raise ValueError("no host")
    if bracketed:
        host = _ZONE.sub("", host)
    elif not host.isascii():
        host = origin.raw_host
    return Target(origin, _sendable(match[3]), host)


def _sendable(path: bytes) -> str:
    """Return a path with its query as it is sent."""
    if _CONTROL.search(path):
        raise ValueError("a control character")
    path, mark, query = path.partition(b"?")
    return (_escaped(_without_dots(path)) + mark + _escaped(query.replace(b" ", b"+"))).decode("ascii")


def _escaped(text: bytes) -> bytes:
    return text if _NOT_SENDABLE.search(text) is None else b"".join(map(_ESCAPES.__getitem__, text))


def _without_dots(path: bytes) -> bytes:
    kept: list[bytes] = []
    segments = path.split(b"/")[1:]
    for number, segment in enumerate(segments, 1):
        if segment == b"..":
            del kept[-1:]
        elif segment != b".":
            kept.append(segment)
            continue
        if number == len(segments):
            kept.append(b"")
    return b"/" + b"/".join(kept)
