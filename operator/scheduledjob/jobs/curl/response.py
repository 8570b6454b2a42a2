"""Reads HTTP/1.1 responses, and accepts what curl accepts.

Servers that jobs call are often small programs that bend the rules: lines that end in a bare line feed, a length that
is given twice, a body after HEAD. A library that refuses those fails a run whose request had its effect. What could
hide a second response or cut off a body is refused: two lengths that differ, a zero byte, a line without a colon.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Protocol

from scheduledjob.domain.time.instants import SECOND, Micros

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LINE_LIMIT = 100 << 10
"""Bytes of a line of a response's head, as in curl."""

CHUNK_LINE_LIMIT = 16 << 10
"""Bytes of the line before a chunk, and of a trailer."""

HEAD_LIMIT = 300 << 10
"""Bytes of the whole head of a response, with interim responses and trailers, as in curl."""

_STATUS = re.compile(rb"HTTP/(1\.[01]|2(?:\.0)?) +([1-9][0-9]{2})(?:[^0-9\0][^\0]*)?", re.IGNORECASE)
_LENGTH = re.compile(rb"\+?([0-9]{1,40})(?:[^0-9A-Za-z].*)?", re.DOTALL)
_LARGEST = (1 << 63) - 1
"""A larger length is ignored, as in curl: the body ends with the connection."""
_CHUNK_SIZE = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,16})(?:[^0-9A-Fa-f].*)?", re.DOTALL)
_KEPT = frozenset(
    (
        b"connection",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"date",
        b"location",
        b"retry-after",
        b"transfer-encoding",
    )
)
_ASK_TO_WAIT = frozenset({429, 503})
_SECONDS = re.compile(rb"0*([0-9]+)(\.[0-9]*)?(?: ?s(?:ec(?:ond)?s?)?)?(?:\s*[,;].*)?", re.IGNORECASE)
_LONGEST_TIME = 64
"""Bytes of a date or a number of seconds that are read. A longer one would take long to parse."""
_LONGEST_WAIT = 366 * 86_400
"""Seconds."""
_LONGEST_LIST = 8 << 10
"""Bytes of a list in a header that are read. Its elements are options, and servers send only a few."""
_BODILESS = frozenset({204, 304})
_LEADING_EMPTY_LINES = 4


class BadResponseError(Exception):
    """The server sent something that is not an HTTP response. The message says what."""


class StreamEndedError(Exception):
    """The connection ended before all bytes that were announced had arrived; ``__cause__`` says how.

    ``in_line``: the bytes that arrived of the line that was read.
    """

    def __init__(self, in_line: int = 0) -> None:
        super().__init__(in_line)
        self.in_line = in_line


class LineTooLongError(Exception):
    """A line is longer than the limit."""


class Stream(Protocol):
    """The bytes that a server sends."""

    async def read_line(self, limit: int) -> bytes:
        """Return the next line without its end. Raises ``StreamEndedError`` and ``LineTooLongError``."""

    async def read(self, limit: int) -> bytes:
        """Return between 1 and ``limit`` bytes; nothing at the end. Raises ``StreamEndedError`` if it broke off."""


@dataclass(slots=True)
class Head:
    """The status and the headers of a response."""

    status: int
    http_1_0: bool = False
    headers: dict[bytes, list[bytes]] = field(default_factory=dict)
    """By name in lower case; only those that matter here."""
    size: int = 0
    """Bytes of the head so far, interim responses included."""

    def first(self, name: bytes) -> bytes | None:
        """Return the first value of a header that is not empty."""
        return next(filter(None, self.headers.get(name, ())), None)

    def tokens(self, name: bytes) -> list[bytes]:
        """Return the elements of a header that is a list, in lower case."""
        joined = b",".join(self.headers.get(name, ()))[:_LONGEST_LIST]
        return [token for token in (part.strip().lower() for part in joined.split(b",")) if token]

    @property
    def keep_alive(self) -> bool:
        """Whether the server leaves the connection open after this response."""
        tokens = self.tokens(b"connection")
        return b"keep-alive" in tokens if self.http_1_0 else b"close" not in tokens


async def read_head(stream: Stream) -> Head:
    """Return the head of the final response. Raises ``BadResponseError`` and ``StreamEndedError``."""
    size = 0
    while True:
        head = await _read_one_head(stream, size)
        if head.status >= 200 or head.status == 101:
            return head
        size = head.size


async def _read_one_head(stream: Stream, size: int) -> Head:
    line = b""
    for _ in range(_LEADING_EMPTY_LINES):
        line = await _line(stream, size)
        if line:
            break
    status = _STATUS.fullmatch(line)
    if status is None:
        raise BadResponseError(f"its first line is {_shown(line)}")
    head = Head(int(status[2]), status[1] == b"1.0", size=size + len(line))
    name = b""
    while line := await _header(stream, head):
        head.size += len(line) + 2
        if b"\0" in line:
            raise BadResponseError("a header has a zero byte")
        if line[0] in b" \t":  # the value of the line before goes on
            if name in _KEPT:
                head.headers[name][-1] = (head.headers[name][-1] + b" " + line.strip()).strip()
            continue
        written, colon, value = line.partition(b":")
        if not colon:
            raise BadResponseError(f"a header without a colon: {_shown(line)}")
        name = written.strip().lower()
        if name in _KEPT:
            head.headers.setdefault(name, []).append(value.strip())
    return head


async def _header(stream: Stream, head: Head) -> bytes:
    """Return the next line of a head; empty at its end, which some small servers mark by closing the connection."""
    try:
        return await _line(stream, head.size)
    except StreamEndedError as error:
        if error.in_line or error.__cause__ is not None or head.status < 200:
            raise
        return b""


async def _line(stream: Stream, size: int, limit: int = LINE_LIMIT) -> bytes:
    try:
        line = await stream.read_line(limit)
    except LineTooLongError:
        what = "a header" if limit == LINE_LIMIT else "a line between the chunks"
        raise BadResponseError(f"{what} is longer than {limit >> 10} KiB") from None
    if size + len(line) > HEAD_LIMIT:
        raise BadResponseError(f"its headers are longer than {HEAD_LIMIT >> 10} KiB")
    return line


def retry_after(head: Head) -> Micros | None:
    """Return how long the server asks to wait before the next request; None: it does not.

    A date counts from the ``Date`` of the response, so that a wrong clock on either side does not matter.
    """
    value = head.first(b"retry-after")
    if head.status not in _ASK_TO_WAIT or not value:
        return None
    if seconds := _SECONDS.fullmatch(value[:_LONGEST_TIME]):
        whole, fraction = seconds.groups(default=b"")
        # Of a number that long, only the length matters. A part of a second counts as a whole one.
        return min(int(whole[:20]) + bool(fraction.strip(b".0")), _LONGEST_WAIT) * SECOND
    until = _date(value)
    if until is None:
        return None
    now = _date(head.first(b"date") or b"") or datetime.now(UTC)
    return max(0, min(int((until - now).total_seconds()), _LONGEST_WAIT)) * SECOND


def _date(value: bytes) -> datetime | None:
    try:
        found = parsedate_to_datetime(value[:_LONGEST_TIME].decode("latin-1"))
    except (ValueError, OverflowError):
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found


@dataclass(slots=True)
class Framing:
    """How the end of a body is recognised."""

    length: int | None
    """None: the body is chunked, or ends with the connection."""
    chunked: bool = False
    reusable: bool = True
    """Whether the connection can carry another request after the body."""
    codings: tuple[bytes, ...] = ()
    """Other codings of ``Transfer-Encoding``, in the order in which they were applied."""


def framing_of(head: Head, method: str) -> Framing:
    """Return the framing of the body of the response to a request with ``method``. Raises ``BadResponseError``."""
    codings = [coding for coding in head.tokens(b"transfer-encoding") if coding != b"identity"]
    if method == "HEAD" or head.status in _BODILESS or head.status < 200:
        # Some servers send a body nevertheless. It would be taken for the next response.
        announced = bool(codings) or any(value != b"0" for value in head.headers.get(b"content-length", ()))
        return Framing(0, reusable=head.keep_alive and method != "HEAD" and head.status == 204 and not announced)
    if codings:
        chunked = codings[-1] == b"chunked"
        # If it also has a length, something between here and the server may have read another body than this one.
        reusable = chunked and head.keep_alive and b"content-length" not in head.headers
        return Framing(None, chunked, reusable, tuple(codings[:-1] if chunked else codings))
    length = _length(head)
    return Framing(length, reusable=head.keep_alive and length is not None)


def _length(head: Head) -> int | None:
    lengths: set[int] = set()
    for value in head.headers.get(b"content-length", ()):
        for part in set(value.rstrip(b", \t").split(b",")):
            match = _LENGTH.fullmatch(part.strip())
            if match is None:
                raise BadResponseError(f"its Content-Length is {_shown(value)}")
            lengths.add(int(match[1]))
    if len(lengths) > 1:
        raise BadResponseError("it has two Content-Lengths that differ")
    length = lengths.pop() if lengths else None
    return None if length is not None and length > _LARGEST else length


async def read_body(stream: Stream, framing: Framing, size: int, piece: int) -> AsyncIterator[bytes]:
    """Yield the body in pieces of at most ``piece`` bytes. ``size``: bytes of the head, which trailers add to.

    Raises ``StreamEndedError`` for a body that ends early and ``BadResponseError`` for chunks that can't be read.
    """
    if framing.chunked:
        async for data in _read_chunks(stream, size, piece):
            yield data
        return
    left = framing.length
    while left is None or left > 0:
        data = await stream.read(piece if left is None else min(piece, left))
        if not data:
            if left is None:
                return
            raise StreamEndedError
        if left is not None:
            left -= len(data)
        yield data


async def _read_chunks(stream: Stream, size: int, piece: int) -> AsyncIterator[bytes]:
    while True:
        line = await _line(stream, size, CHUNK_LINE_LIMIT)
        match = _CHUNK_SIZE.fullmatch(line)
        if match is None:
            raise BadResponseError(f"the size of a chunk is {_shown(line)}")
        left = int(match[1], 16)
        if not left:
            break
        while left:
            data = await stream.read(min(piece, left))
            if not data:
                raise StreamEndedError
            left -= len(data)
            yield data
        if await _line(stream, size, CHUNK_LINE_LIMIT):
            raise BadResponseError("a chunk is longer than its size")
    while line := await _line(stream, size, CHUNK_LINE_LIMIT):
        if b":" not in line and line[0] not in b" \t":
            raise BadResponseError(f"a trailer without a colon: {_shown(line)}")
        size += len(line) + 2


def _shown(data: bytes) -> str:
    """Return the beginning of some bytes for a reason."""
    text = data[:40].decode("ascii", "backslashreplace")
    return f'"{text}"' if len(data) <= 40 else f'"{text}…"'
