"""The forms in which a secret may appear in an output, and the output without what may stand between its characters.

Programs rarely print a secret as it is: a URL has it percent-encoded, a header has it in base64 behind a user name, a
log has it as JSON, an error quotes it. For short values, each such form is searched (``encoded_forms``). A terminal
colours characters, ``base64`` and ``fold`` break lines, and UTF-16 has a NUL beside each letter: a ``FoldedText`` is
the output without them, and knows where its bytes were. Programs do not agree on which characters they escape, so
``ESCAPES`` lists the ways in which a ``FoldedText`` undoes escapes, whichever characters they stand for.
"""

from __future__ import annotations

import base64
import binascii
import html
import json
import re
import shlex
from bisect import bisect_right
from contextlib import suppress
from itertools import accumulate
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus, unquote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SHORTEST_ENCODED = 4
"""Bytes. The encoded forms of shorter values are not searched."""
LONGEST_ENCODED = 8192
"""Bytes. The encoded forms of longer values are not searched: nobody puts them into a URL or a header."""
_SHORTEST_CORE = 6
"""Characters of base64 that are searched within a longer text in base64."""
_SHORTEST_FOLDED = 8
"""Characters of a value that is searched in capital and in small letters, too."""
_NEVER_ESCAPED = re.compile("[A-Za-z0-9_.-]*")
_BASE64_TO_URL = bytes.maketrans(b"+/", b"-_")
_SAFE_IN_URLS = ("", "/", "!$&'()*+,;=:@/?-._~")

# Each alternative begins with another byte, so that the time is linear. A sequence that never ends is bounded.
_INVISIBLE = rb"\x1b(?:\[[0-?]{0,64}[ -/]{0,8}[@-~]|\][^\x07\x1b]{0,512}(?:\x07|\x1b\\)|[@-Z^_])|\x00"
INVISIBLE = re.compile(_INVISIBLE)
"""What a terminal does not show, and the NULs of UTF-16."""
LINE_BREAKS = re.compile(_INVISIBLE + rb"|[\r\n]")
"""The same, and line breaks."""
INDENTATION = re.compile(_INVISIBLE + rb"|\\?\r?\n[ \t]*|\r")
"""The same, with the backslash before a line break and the indentation after it."""
INDENTED = re.compile(rb"\n[ \t]|\\\r?\n")
"""Where the two differ."""

BETWEEN_HEX = re.compile(rb"(?<=[0-9A-Fa-f]{2})(?:,? ?0[xX]|[ :-]+)(?=[0-9A-Fa-f]{2})")
"""What stands between bytes in hexadecimal: as ``xxd``, and lists of bytes in C, group them."""
HEX_GROUP = re.compile(rb"[0-9A-Fa-f]{2}(?:,? ?0[xX]|[ :-]+)[0-9A-Fa-f]{2}")
"""A sign that an output may have them."""


def _percent(found: re.Match[bytes]) -> bytes:
    return b" " if found[0] == b"+" else bytes((int(found[0][1:], 16),))


_LETTERS = {b"a": b"\a", b"b": b"\b", b"e": b"\x1b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


def _backslash(found: re.Match[bytes]) -> bytes:
    quote, utf_16, code, octets, octal, character = found.groups()
    if quote:
        return b"'"
    if utf_16:
        units = bytes.fromhex(utf_16.replace(rb"\u", b"").decode())
        return units.decode("utf-16-be", "replace").encode()
    if code:
        return chr(min(int(code, 16), 0x10FFFF)).encode("utf-8", "replace")
    if octets:
        data = bytes.fromhex(octets.replace(rb"\x", b"").decode())
        try:
            data.decode()
        except UnicodeDecodeError:  # in YAML, they are code points
            return data.decode("latin-1").encode()
        return data
    return bytes((int(octal, 8) & 0xFF,)) if octal else _LETTERS.get(character, character)


def _entity(found: re.Match[bytes]) -> bytes:
    return html.unescape(found[0].decode("ascii")).encode("utf-8", "replace")


_PERCENT = rb"%[0-9A-Fa-f]{2}"
ESCAPES: tuple[tuple[re.Pattern[bytes], re.Pattern[bytes], Callable[[re.Match[bytes]], bytes]], ...] = (
    (re.compile(_PERCENT), re.compile(_PERCENT), _percent),
    (re.compile(rb"\+"), re.compile(_PERCENT + rb"|\+"), _percent),
    (
        re.compile(rb"\\|'\"'"),
        re.compile(
            rb"""('\\''|'"'"')|"""  # a quote within quotes, as shells write it
            rb"((?:\\u[dD][89abAB][0-9A-Fa-f]{2})?\\u[0-9A-Fa-f]{4})|\\u\{([0-9A-Fa-f]{1,6})\}|"
            rb"((?:\\x[89A-Fa-f][0-9A-Fa-f]){1,4}|\\x[0-7][0-9A-Fa-f])|\\([0-7]{1,3})|\\(.)",
            re.DOTALL,
        ),
        _backslash,
    ),
    (
        re.compile(rb"&[#A-Za-z]"),
        re.compile(rb"&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,7});"),
        _entity,
    ),
)
"""Ways to escape characters: a sign that an output may have it, the escapes, and what returns what one stands for."""


_LONGEST_FILE = 1 << 16
"""Bytes. Longer values are not read as a file of settings."""
_MOST_PARTS = 256
_SHORTEST_PART = 6
_A_WORD = re.compile("[a-z]{1,11}")
"""A setting such as ``auth: disabled``. To mask words would make an output unreadable."""
_SHORTEST_TOKEN = 16
"""Characters of a user in a URL that may be a token."""
_SHORTEST_PATH = 20
"""Characters of the path of a URL that may be a secret, as in the URL of a webhook."""
_CREDENTIALS = re.compile(r"(?:://|^|[\s\"'=])[^\s/:@\"'=]{0,256}:([^\s/@]{1,1024})@", re.MULTILINE)
_ANY_CREDENTIALS = re.compile(r"://[^\s/:@]{0,256}:([^\s\"'<>,]{1,1024})@")
"""The same for a password with a ``/`` or ``@`` that is not escaped."""
_URL_TOKEN = re.compile(rf"://([^\s/:@]{{{_SHORTEST_TOKEN},1024}})(?::x-oauth-basic)?@")
_WEBHOOK = re.compile(rf"https?://[^\s/?#@]{{1,256}}(/[^\s#]{{{_SHORTEST_PATH - 1},}})", re.IGNORECASE)
_USER_AND_PASSWORD = re.compile(r"[^\s:/\"'{}=,]{1,256}:([^\s{}]+)")
_PASSWORD_FILE = re.compile(r"^[^\s:]{1,256}:(?:\d{1,5}|\*):[^\s:]{1,256}:[^\s:]{1,256}:(.+)$", re.MULTILINE)
"""A line of .pgpass."""
_NETRC = re.compile(r"(?:^|\s)(?:machine\s|default\s)")
_NETRC_PASSWORD = re.compile(r"\s(?:password|account)\s{1,40}(\S+)")
_AUTHORIZATION = re.compile(
    r"^[ \t]*(?:[\w-]{0,40}authorization[\"']?[ \t]*[:=][ \t]*[\"']?)?(?:bearer|basic|token|apikey)[ \t]+([^\s\"']+)",
    re.IGNORECASE | re.MULTILINE,
)
"""The credentials of a header, with or without its name."""
_SCHEME = re.compile("bearer|basic|token|apikey|digest|negotiate", re.IGNORECASE)
_ELEMENT = re.compile(r"<([\w:.-]{1,100})>([^<]{1,1024})</")
_SECRET_NAME = re.compile("pass|pwd|secret|token|key|credential|auth|private|signature|cookie|sig$", re.IGNORECASE)
_SETTING = re.compile(
    r"""(?:^|[\s;?&,{])["']?([\w./:-]{1,100})["']?[ \t]{0,40}[:=][ \t]{0,40}"""
    r"""(?:"([^"\n]{1,1024})"|'([^'\n]{1,1024})'|["']?([^\s"',;&]+))""",
    re.MULTILINE,
)
_LINE = re.compile(r"""^[ \t-]*([\w./-]{1,100})[ \t]{0,40}[:=][ \t]{0,40}([^\s"'][^\n]*)$""", re.MULTILINE)
"""A setting whose value is the rest of the line."""


def secret_parts(value: bytes) -> list[bytes]:
    """Return the passwords and tokens in a value that is a URL, a header, JSON, or a file of settings such as ``.env``.

    A program that gets a whole file prints a part of it. Of settings, those whose name sounds secret are returned.
    """
    if not _SHORTEST_PART < len(value) <= _LONGEST_FILE:
        return []
    text = value.decode("utf-8", "replace")
    found = [*_credentials(text), *_secret_settings(text)]
    found = [part for part in dict.fromkeys(found) if len(part) >= _SHORTEST_PART and not _A_WORD.fullmatch(part)]
    return [part.encode("utf-8", "replace") for part in found[:_MOST_PARTS]]


def _credentials(text: str) -> Iterator[str]:
    """Yield the credentials in URLs, headers and files of users and passwords."""
    for pattern in (_CREDENTIALS, _ANY_CREDENTIALS, _URL_TOKEN):
        for password in pattern.findall(text):
            yield password
            yield unquote(password)
    for credentials in _AUTHORIZATION.findall(text):
        yield credentials
        yield _password_in_base64(credentials)
    yield from _PASSWORD_FILE.findall(text)
    if _NETRC.search(text):
        yield from _NETRC_PASSWORD.findall(text)
    lines = text.split()
    if "://" not in text and len(lines) <= _MOST_PARTS and all(map(_USER_AND_PASSWORD.fullmatch, lines)):
        yield from (line.partition(":")[2] for line in lines)
    if len(lines) == 1 and (webhook := _WEBHOOK.fullmatch(lines[0])):
        yield webhook[1]


def _secret_settings(text: str) -> Iterator[str]:
    """Yield the values of settings whose name sounds secret."""
    settings: list[tuple[str, str]] = []
    with suppress(ValueError, RecursionError):
        if text.lstrip()[:1] in ("{", "["):
            settings = list(_leaves(json.loads(text)))
    if not settings:
        settings = [(name, "".join(values)) for name, *values in _SETTING.findall(text)]
        settings += _LINE.findall(text)
        settings += [(name, html.unescape(value)) for name, value in _ELEMENT.findall(text)]
    for name, setting in settings:
        if _SECRET_NAME.search(name) and not _SCHEME.fullmatch(setting):
            yield setting
            yield setting.partition(" #")[0].rstrip()
            if "%" in setting:
                yield unquote(setting)
            if name == "auth":  # of a registry: a user and a password
                yield _password_in_base64(setting)


def _password_in_base64(credentials: str) -> str:
    """Return the password of a user and a password in base64, or an empty text if it is something else."""
    try:
        return base64.b64decode(credentials).decode().partition(":")[2]
    except ValueError:
        return ""


def _leaves(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the texts and numbers in a JSON value, with the name of the innermost object's field."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, str(value)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, str(key))
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item, name)


def encoded_forms(value: bytes) -> Iterator[bytes]:
    """Yield the other forms of a value of ``SHORTEST_ENCODED`` to ``LONGEST_ENCODED`` bytes."""
    text = value.decode("utf-8", "surrogateescape")
    for form in () if _NEVER_ESCAPED.fullmatch(text) else _text_forms(text):
        if form != text:
            yield form.encode("utf-8", "surrogateescape")
    for folded in {text.lower(), text.upper()} - {text}:  # as in names of hosts
        if len(folded) >= _SHORTEST_FOLDED and not _A_WORD.fullmatch(folded.lower()):
            yield folded.encode("utf-8", "surrogateescape")
    if not text.isascii():
        for charset in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
            yield text.encode(charset, "surrogatepass")
        with suppress(UnicodeEncodeError):
            yield text.encode("latin-1")
    for separator in (b"", b" ", b":"):
        hexadecimal = binascii.hexlify(value, separator) if separator else binascii.hexlify(value)
        yield hexadecimal
        yield hexadecimal.upper()
    for packed in _base64_forms(value):
        yield packed
        if b"+" in packed or b"/" in packed:
            yield packed.translate(_BASE64_TO_URL)


def _text_forms(text: str) -> Iterator[str]:
    for safe in _SAFE_IN_URLS:
        percent = quote(text, safe=safe, errors="surrogateescape")
        yield percent
        yield re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), percent)
    yield quote_plus(text, errors="surrogateescape")
    yield quote_plus(quote(text, safe="", errors="surrogateescape"))
    for ascii_only in (True, False):
        escaped = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        yield escaped
        yield escaped.replace("/", "\\/")  # PHP
        yield json.dumps(escaped, ensure_ascii=ascii_only)[1:-1]  # JSON in JSON
    # The encoders of Go and of JavaScript frameworks.
    yield re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", json.dumps(text, ensure_ascii=False)[1:-1])
    yield repr(text)[1:-1]
    yield repr(text.encode("utf-8", "surrogateescape"))[2:-1]
    yield html.escape(text)
    yield html.escape(text, quote=False)
    yield html.escape(text).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")
    yield shlex.quote(text)
    yield re.sub(r"([^\w%+,./:=@-])", r"\\\1", text, flags=re.ASCII)  # ``printf %q``
    yield text.replace("'", "''")  # SQL and YAML
    yield text.replace("\\", "\\\\")


def _base64_forms(value: bytes) -> Iterator[bytes]:
    """Yield the value in base64, and what all texts in base64 have in common in which it stands at the same offset.

    A character of base64 is six bits, so there are three offsets. At its ends, a character may contain bits of others.
    """
    whole = base64.b64encode(value)
    yield whole
    yield whole.rstrip(b"=")
    for offset in range(3):
        packed = base64.b64encode(b"\0" * offset + value)
        core = packed[-(-offset * 8 // 6) : (offset + len(value)) * 8 // 6]
        if len(core) >= _SHORTEST_CORE:
            yield core


class FoldedText:
    """A text without the parts that a pattern matches, or with others in their place."""

    def __init__(
        self, text: bytes, folded: re.Pattern[bytes], replacement: Callable[[re.Match[bytes]], bytes] | None = None
    ) -> None:
        self._starts: list[int] = []
        """Where its pieces were in the text."""
        self._ends: list[int] = []
        """Where those that were replaced ended in the text; 0 for the others."""
        pieces: list[bytes] = []
        end = 0
        for found in folded.finditer(text):
            if found.start() > end:
                self._starts.append(end)
                self._ends.append(0)
                pieces.append(text[end : found.start()])
            end = found.end()
            if replacement is not None and (piece := replacement(found)):
                self._starts.append(found.start())
                self._ends.append(end)
                pieces.append(piece)
        if end < len(text):
            self._starts.append(end)
            self._ends.append(0)
            pieces.append(text[end:])
        self.text = b"".join(pieces)
        self._own_starts = [0, *accumulate(map(len, pieces))]

    def unfolded(self, start: int, end: int) -> tuple[int, int]:
        """Return the range in the original text of a range that is not empty. It contains whole escapes."""
        first, last = self._piece(start), self._piece(end - 1)
        begin = self._starts[first] if self._ends[first] else self._original(first, start)
        return begin, self._ends[last] or self._original(last, end - 1) + 1

    def _piece(self, at: int) -> int:
        return bisect_right(self._own_starts, at) - 1

    def _original(self, piece: int, at: int) -> int:
        return self._starts[piece] + at - self._own_starts[piece]
