"""The body of a response: what history keeps of it, and the text that ``expect.bodyRegex`` is searched in.

A body is unpacked if the server says that it is packed, and read by its charset. One that can't be read has words for
the reason, because a pattern would silently never match it. ``gzip`` and ``deflate`` are known; no request asks for
them, so a server rarely sends them, and hardly ever anything else. Text that the server calls packed is read as it is.

What attempts hold of bodies is limited in total (``BODIES_LIMIT``), and shared fairly between namespaces. Each attempt
may hold ``FREE`` without asking. For more it acquires all that it may need at once, so that whoever holds memory never
waits for more.
"""

from __future__ import annotations

import codecs
import re
import zlib
from typing import TYPE_CHECKING, NamedTuple, Protocol

from scheduledjob.engine.threads import run_apart
from scheduledjob.jobs.output import bytes_to_keep, condensed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from scheduledjob.jobs.fair_share import Reservation
    from scheduledjob.jobs.values import Secrets

BODY_LIMIT = 1 << 20
"""Bytes of a body that are read, after it was unpacked."""

BODIES_LIMIT = 64 << 20
"""Bytes of responses that all attempts together may hold, in addition to ``FREE`` for each."""

FREE = 16 << 10
"""Bytes of a response that each attempt may hold without acquiring them."""

_PACKED_LIMIT = 4 << 20
"""Bytes of a packed body that are read, whatever it unpacks to."""

_PIECE = 16 << 10
_RAW_SHOWN = 4096
_MAX_CODINGS = 4
_BETWEEN_CODINGS = 4 << 20
"""Bytes that may pass from one coding to the next. There, a few bytes could become gigabytes that no result shows."""
_CHARSET = re.compile(r';\s*charset\s*=\s*"?([A-Za-z0-9_.:+-]{1,40})', re.IGNORECASE)
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DECLARED = re.compile(
    rb"""\s*(?=<)(?:<[?]xml\s[^>]*?\bencoding|.*?<meta\s[^<>]*?\bcharset)\s*=\s*["']?\s*([A-Za-z0-9_.:-]{1,40})""",
    re.IGNORECASE | re.DOTALL,
)
"""A charset that a document in XML or HTML declares itself."""
_DECLARATION_LIMIT = 1024
"""Bytes in which a document, or Content-Type, has to declare the charset."""
_ZEROS = (
    (re.compile(rb"(?:\0\0\0[^\0])+"), 4, "utf-32-be"),
    (re.compile(rb"(?:[^\0]\0\0\0)+"), 4, "utf-32-le"),
    (re.compile(rb"(?:\0[^\0])+"), 2, "utf-16-be"),
    (re.compile(rb"(?:[^\0]\0)+"), 2, "utf-16-le"),
)
"""Where the first characters of a text without a mark have zero bytes, and the size of a character."""
_NO_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_CODECS = re.compile(
    "ascii|iso8859-[0-9]+|cp[0-9]+|koi8-[rut]|utf-(16|32)(-[lb]e)?|mac-[a-z]+|big5(hkscs)?|gb(2312|k|18030)|hz|"
    "(shift_jis|euc_|iso2022_)[a-z0-9_]+|shift_jis|johab|tis-620"
)
"""Names of Python's codecs for text; those for other purposes may take quadratic time."""

_BYTE_CODECS = re.compile("utf-8|ascii|iso8859-[0-9]+|cp[0-9]+|koi8-[rut]|mac-[a-z]+|tis-620")
"""Those in which a character does not depend on the ones before it. (Some of cp9xx have two bytes for a character.)"""


class Body(NamedTuple):
    """What was read of a body."""

    output: bytes
    """The part that history keeps."""
    searched: bytes
    """The text for ``bodyRegex``; empty if there is none."""
    cut: bool
    """Whether the body is longer than what was read."""
    charset: str | None
    """The charset that the server or the first bytes name; None: UTF-8, as far as is known."""
    fault: str
    """Why it could not be unpacked; empty if it could."""
    is_plain: bool
    """Whether it is text, although the server calls it packed."""


async def collect(
    pieces: AsyncIterator[bytes],
    codings: Sequence[bytes],
    content_type: bytes | None,
    secrets: Secrets,
    memory: Reservation,
    *,
    length: int | None,
    whole: bool,
) -> Body:
    """Read a body up to ``BODY_LIMIT``. Without ``whole``, keep only what history needs.

    ``codings``: in the order in which they were applied. ``length``: if the server has said it.
    """
    head, tail = bytes_to_keep(secrets)
    most = tail + secrets.longest  # if the body is cut, its end is not shown
    keep_all = whole or not _is_read_in_parts(_charset(content_type, b""))
    available = BODY_LIMIT if length is None or codings else min(BODY_LIMIT, length)
    needed = available if keep_all else min(available, head + 2 * most + _PIECE)
    unpacker = _Unpacker(codings)
    kept = bytearray()
    raw = b""
    read = total = 0
    async for data in _with_end(pieces):
        read += len(data)
        if codings and len(raw) < _RAW_SHOWN:
            raw += data[: _RAW_SHOWN - len(raw)]
        for part in unpacker.unpack(data):
            if len(kept) + len(part) > FREE >= len(kept) and needed > FREE:
                await memory.change(needed)
            total += len(part)
            kept += part
            if not keep_all and total - len(part) < _DECLARATION_LIMIT <= total:
                keep_all = not _is_read_in_parts(_charset(content_type, bytes(kept[:_DECLARATION_LIMIT])))
                needed = available if keep_all else needed
            if total > BODY_LIMIT:
                break
            if not keep_all and len(kept) > head + 2 * most:
                del kept[head:-most]
        if total > BODY_LIMIT or read > _PACKED_LIMIT:
            break
    ended = total <= BODY_LIMIT and read <= _PACKED_LIMIT
    fault = unpacker.finish() if ended else unpacker.fault
    if not total and fault:
        kept += raw
        total = len(raw)
    cut = total > BODY_LIMIT
    if cut:
        del kept[len(kept) - (total - BODY_LIMIT) :]
        total = BODY_LIMIT
    searched = bytes(kept) if whole else b""
    charset = _charset(content_type, bytes(kept[:_DECLARATION_LIMIT]))
    if keep_all or total <= head + tail:
        text = await _text(bytes(kept), charset)
        first, last, total = text[:head], text[head:], len(text)
    else:
        first, last = await _text(bytes(kept[:head]), charset), await _text(bytes(kept[head:]), charset)
        total += len(first) + len(last) - len(kept)
    last = last[-(most if cut else tail) :]
    output = await condensed(first, last, total, secrets, cut=cut)
    return Body(output, searched, not ended, charset, fault, unpacker.is_plain)


async def _with_end(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for data in pieces:
        yield data
    yield b""


def _is_read_in_parts(charset: str | None) -> bool:
    """Whether a part of a text can be read without the rest."""
    try:
        return charset is None or _BYTE_CODECS.fullmatch(codecs.lookup(charset).name) is not None
    except LookupError:
        return True  # it is not read at all


async def _text(body: bytes, charset: str | None) -> bytes:
    """Return a body as history shows it: in UTF-8, so that a secret in it is masked in any charset."""
    if charset is None or body.startswith(codecs.BOM_UTF8):
        return body
    try:
        return await run_apart(lambda: in_utf8(body, charset)) if len(body) > FREE else in_utf8(body, charset)
    except LookupError:
        return body


def in_utf8(body: bytes, charset: str | None) -> bytes:
    """Return a text in UTF-8. Raises ``LookupError`` for a charset that is unknown here."""
    if charset is None:
        return body
    codec = codecs.lookup(charset).name
    if codec == "utf-8":
        return body.removeprefix(codecs.BOM_UTF8)
    if not _CODECS.fullmatch(codec):
        raise LookupError(charset)
    return body.decode(codec, "replace").removeprefix("\ufeff").encode()


def is_utf8(body: bytes, *, cut: bool) -> bool:
    """Whether a body can be read as UTF-8. If it was ``cut``, the end of its last character may be missing."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(body, final=not cut)
    except UnicodeDecodeError:
        return False
    return True


def _charset(content_type: bytes | None, body: bytes) -> str | None:
    """Return the charset of a body: from its byte order mark, ``Content-Type``, the document, or early zero bytes."""
    for bom, charset in _BOMS:
        if body.startswith(bom):
            return charset
    named = _CHARSET.search((content_type or b"")[:_DECLARATION_LIMIT].decode("latin-1"))
    if named is None:
        return _declared(content_type, body) or _by_zeros(body)
    # Without a mark, the order of the bytes is a matter of opinion.
    return (_by_zeros(body) if named[1].lower() in ("utf-16", "utf-32") else None) or named[1]


def _declared(content_type: bytes | None, body: bytes) -> str | None:
    if content_type is not None and not re.search(rb"html|xml", content_type[:_DECLARATION_LIMIT], re.IGNORECASE):
        return None
    found = _DECLARED.match(body)
    if found is None:
        return None
    charset = found[1].decode("ascii")
    # The declaration could be read, so the text is not in these.
    return None if charset.lower().startswith(("utf-16", "utf-32")) else charset


def _by_zeros(body: bytes) -> str | None:
    for pattern, size, charset in _ZEROS:
        start = body[: 8 * size]
        if start and len(start) % size == 0 and pattern.fullmatch(start):
            return charset
    return None


class _Coding(Protocol):
    def unpack(self, data: bytes) -> Iterator[bytes]:
        """Yield what is in ``data``. Raises ``zlib.error``."""

    def is_complete(self) -> bool:
        """Whether the packed data has an end, or there was none at all."""


class _Zlib:
    """``gzip``, with any number of members, or ``deflate``, with the header of zlib or without."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._has_members = window > zlib.MAX_WBITS
        self._stream = zlib.decompressobj(window)
        self._header = b""
        self._begun = False
        self._fed = False

    def unpack(self, data: bytes) -> Iterator[bytes]:
        self._fed = self._fed or bool(data)
        if not self._begun:
            data = self._header + data
            if len(data) < _HEADER:
                self._header = data
                return
        while data:
            if self._stream.eof:
                if not self._has_members or not data.startswith(b"\x1f"):  # padding after the last member
                    return
                self._stream = zlib.decompressobj(self._window)
            try:
                part = self._stream.decompress(data, _PIECE)
            except zlib.error:
                if self._begun or self._window != zlib.MAX_WBITS:
                    raise
                self._window = -zlib.MAX_WBITS  # some servers send deflate without the header
                self._stream = zlib.decompressobj(self._window)
                part = self._stream.decompress(data, _PIECE)
            self._begun = True
            if part:
                yield part
            data = self._stream.unconsumed_tail or self._stream.unused_data
            if not data and len(part) == _PIECE:
                rest = self._stream.decompress(b"", _PIECE)
                if rest:
                    yield rest

    def is_complete(self) -> bool:
        return self._stream.eof or not self._fed


_HEADER = 2
"""Bytes by which the header of zlib is recognised."""

_WINDOWS = {b"gzip": 16 + zlib.MAX_WBITS, b"x-gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}


_FIRST = 64
"""Bytes at the beginning of a body that tell whether it is text."""


class _TooMuchWorkError(Exception):
    """A body is larger between its codings than it may be."""


class _Text:
    """Tells whether bytes are text in UTF-8."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.is_broken = False

    def accepts(self, data: bytes) -> bool:
        """Return whether all data so far is text."""
        try:
            self._decoder.decode(data)
        except UnicodeDecodeError:
            self.is_broken = True
        self.is_broken = self.is_broken or _NO_TEXT.search(data) is not None
        return not self.is_broken


class _Unpacker:
    """Undoes the codings of a body. After a fault it yields nothing more. A body without a coding stays as it is."""

    def __init__(self, codings: Sequence[bytes]) -> None:
        self._names = [coding for coding in codings if coding != b"identity"]
        self.fault = ""
        self._between = 0
        self._first: bytes | None = b""
        self._text: _Text | None = None
        unknown = len(self._names) > _MAX_CODINGS or any(name not in _WINDOWS for name in self._names)
        if unknown:
            self._call_text(
                f"it is packed with {self._shown}, which is unknown here: send the header Accept-Encoding: gzip"
            )
        self._codings = [] if unknown else self._new_codings()

    def _new_codings(self) -> list[_Coding]:
        return [_Zlib(_WINDOWS[name]) for name in reversed(self._names)]

    def _call_text(self, fault: str) -> None:
        self.fault, self._text, self._first = fault, _Text(), None

    @property
    def _shown(self) -> str:
        return ", ".join(name.decode("ascii", "replace") for name in self._names[:_MAX_CODINGS])

    @property
    def is_plain(self) -> bool:
        """Whether the body was text so far, and not packed at all."""
        return self._text is not None and not self._text.is_broken

    def unpack(self, data: bytes) -> Iterator[bytes]:
        """Yield what is in ``data``; empty data stands for the end."""
        if not self._names:
            yield data
            return
        if self._first is not None:
            data, ended = self._first + data, not data
            if len(data) < _FIRST and not ended:
                self._first = data
                return
            self._first = None
            if _Text().accepts(data) and not (ended and self._opens(data)):
                self._call_text(f"it is not {self._shown}, although Content-Encoding says so")
        if self._text is not None and data and self._text.accepts(data):
            yield data
        if self.fault:
            return
        try:
            yield from self._through(data, 0)
        except _TooMuchWorkError:
            self.fault = f"it is packed with {self._shown} to more than {_BETWEEN_CODINGS >> 20} MiB between them"
        except zlib.error:
            self.fault = f"it is not {self._shown}, although Content-Encoding says so"

    def _opens(self, body: bytes) -> bool:
        """Whether a short body can be unpacked."""
        try:
            for _ in self._through(body, 0):
                pass
            return all(coding.is_complete() for coding in self._codings)
        except (_TooMuchWorkError, zlib.error):
            return False
        finally:
            self._codings = self._new_codings()

    def _through(self, data: bytes, layer: int) -> Iterator[bytes]:
        if layer == len(self._codings):
            yield data
            return
        for part in self._codings[layer].unpack(data):
            if layer + 1 < len(self._codings):
                self._between += len(part)
                if self._between > _BETWEEN_CODINGS:
                    raise _TooMuchWorkError
            yield from self._through(part, layer + 1)

    def finish(self) -> str:
        """Return the fault, after all data was unpacked."""
        if not self.fault and not all(coding.is_complete() for coding in self._codings):
            self.fault = f"it ends early for {self._shown}"
        return self.fault
