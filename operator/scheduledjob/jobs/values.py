"""Resolves the values of a job, and masks those that are secret.

An environment variable, a header or a body is written in a manifest, or refers to a Secret or ConfigMap. References are
resolved when an attempt starts, so a rotated Secret takes effect with the next attempt. ``Secrets`` remembers the
values from Secrets while the attempt runs, and masks them in everything that is kept: output, reasons and errors. Of a
value or line above 1 KiB it masks each KiB by itself. A value is found even if colours, line breaks or the NULs of
UTF-16 stand between its characters, and whichever of them are escaped. It can't mask a value that a job compresses or
encrypts.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary

from .fair_share import FairThreads
from .secret_forms import (
    BETWEEN_HEX,
    ESCAPES,
    HEX_GROUP,
    INDENTATION,
    INDENTED,
    INVISIBLE,
    LINE_BREAKS,
    SHORTEST_ENCODED,
    FoldedText,
)
from .secret_search import SecretSearch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scheduledjob.engine.executor import References, Value

_T = TypeVar("_T")
_R = TypeVar("_R")

MASK = b"***"

_SHORTEST_LINE = 8
"""Bytes. In a secret with several lines, shorter lines (``{``, ``-----``) would mask half of any output."""
_SHORTEST_BROKEN = 8
"""Bytes. Shorter values are not searched across line breaks: lines of an output may begin and end with anything."""
PIECE = 1024
"""Bytes. A longer value or line is masked in pieces of this length, which bounds the search at each position."""
MOST_SECRET_BYTES = 4 << 20
"""Above this, an output is withheld: the search would need too much memory."""
_MOST_FORMS = 24 << 20
"""The same for all forms of the secrets together."""
MOST_SECRET_VALUES = 2500
"""The same for the number of values: each has dozens of forms."""
WITHHELD = b"[left out: the Secrets of this job have more than 4 MiB or 2500 values, too much to mask them]"
_INLINE = 8192
"""Bytes of output that are searched in the event loop. It takes some milliseconds at most."""
_PREPARED_INLINE = 512
"""Bytes of secrets whose forms are made in the event loop."""
_MOST_PREPARED_INLINE = 16
"""The same for the number of values."""
_THREADS = 2
"""Threads for long searches. More would compete with the event loop for the interpreter."""
_threads: WeakKeyDictionary[asyncio.AbstractEventLoop, FairThreads] = WeakKeyDictionary()


class Secrets:
    """The secret values of an attempt."""

    def __init__(self, *values: bytes, namespace: str = "") -> None:
        """``namespace``: namespaces share the threads for long searches."""
        self.namespace = namespace
        self._values: set[bytes] = set()
        self._size = 0
        self._search: SecretSearch | None = None
        self.longest = 0
        """Bytes of the longest string that is searched. To recognise a secret at a cut, keep this much of the output
        beyond the cut."""
        for value in values:
            self.remember(value)

    def remember(self, value: str | bytes) -> None:
        """Mask this value from now on: as it is, without white space around it, and each line of it."""
        whole = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
        if whole in self._values or not whole.strip():
            return
        self._size += len(whole)
        self._search = None
        if len(self._values) >= MOST_SECRET_VALUES:
            self._size = MOST_SECRET_BYTES + 1
        if self._size > MOST_SECRET_BYTES:
            self._values.clear()
            return
        self._values.add(whole)
        self.longest = max(self.longest, self._reach(whole))

    @property
    def size(self) -> int:
        """The bytes of all values."""
        return sum(map(len, self._values))

    def include(self, others: Secrets) -> None:
        """Mask the values of ``others``, too."""
        for value in others._values:
            self.remember(value)
        if others._size > MOST_SECRET_BYTES:
            self._values.clear()
            self._size = others._size

    def spans(self, data: bytes) -> list[tuple[int, int]]:
        """Return where secrets are in ``data``: half-open ranges, in order; those that touch are merged."""
        if not self._is_ready():
            return [(0, len(data))] if data else []
        if self._search is None:
            return []
        found = self._search.spans(data)
        if INVISIBLE.search(data):
            found += _spans_in(FoldedText(data, INVISIBLE), self._search)
        for pattern, sign in ((LINE_BREAKS, LINE_BREAKS), (INDENTATION, INDENTED)):
            if sign.search(data):
                in_lines = _spans_in(FoldedText(data, pattern), self._search)
                found += [(start, end) for start, end in in_lines if end - start >= _SHORTEST_BROKEN]
        if HEX_GROUP.search(data):
            found += _spans_in(FoldedText(data, BETWEEN_HEX), self._search, _SHORTEST_BROKEN)
        for sign, escape, character in ESCAPES:
            if sign.search(data):
                found += _spans_in(FoldedText(data, escape, character), self._search, SHORTEST_ENCODED)
        return _merged(found)

    def mask(self, data: bytes) -> bytes:
        """Return ``data`` with each secret replaced by ``***``. In an event loop, await ``masked``."""
        if not self._is_ready():
            return WITHHELD if data else data
        pieces: list[bytes] = []
        end = 0
        for start, next_end in self.spans(data):
            pieces += (data[end:start], MASK)
            end = next_end
        return b"".join((*pieces, data[end:]))

    def _is_ready(self) -> bool:
        """Prepare the search. Returns False if there are too many secrets."""
        if self._size <= MOST_SECRET_BYTES and self._search is None and self._values:
            forms: set[bytes] = set()
            size = 0
            for value in self._values:
                for form in self._forms(value):
                    if form not in forms:
                        forms.add(form)
                        size += len(form)
                if size > _MOST_FORMS:
                    self._size = MOST_SECRET_BYTES + 1
                    return False
            self._search = SecretSearch(forms)
        return self._size <= MOST_SECRET_BYTES

    def _reach(self, value: bytes) -> int:
        """Return how many bytes a string that is searched for a value may have in an output."""
        return min(len(value), PIECE)

    def _forms(self, value: bytes) -> Iterator[bytes]:
        """Return the strings that are searched for a secret value."""
        return _forms(value)

    def mask_text(self, text: str) -> str:
        """Return a reason or an error message with each secret replaced by ``***``. Or await ``masked_text``."""
        return self.mask(text.encode("utf-8", "surrogateescape")).decode("utf-8", "replace")

    async def masked(self, data: bytes) -> bytes:
        """Return what ``mask`` returns. A search that takes long runs in a thread, so that the event loop goes on."""
        return await self.searched(self.mask, data, len(data))

    async def masked_text(self, text: str) -> str:
        """Return what ``mask_text`` returns. A search that takes long runs in a thread."""
        return await self.searched(self.mask_text, text, len(text))

    async def searched(self, search: Callable[[_T], _R], subject: _T, size: int) -> _R:
        """Return ``search(subject)``: in a thread if so many bytes, or the secrets themselves, are large."""
        is_prepared = (
            self._search is not None
            or self._size > MOST_SECRET_BYTES
            or (self._size <= _PREPARED_INLINE and len(self._values) <= _MOST_PREPARED_INLINE)
        )
        if size <= _INLINE and is_prepared:
            return search(subject)
        loop = asyncio.get_running_loop()
        threads = _threads.get(loop)
        if threads is None:
            threads = _threads[loop] = FairThreads(_THREADS, "compute")
        return await threads.run(self.namespace, lambda: search(subject))


def _spans_in(folded: FoldedText, search: SecretSearch, shortest: int = 1) -> list[tuple[int, int]]:
    return [folded.unfolded(start, end) for start, end in search.spans(folded.text) if end - start >= shortest]


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _forms(value: bytes) -> Iterator[bytes]:
    """Return the strings that are searched for a secret value."""
    yield from pieces(value)
    stripped = value.strip()
    if stripped != value:
        yield from pieces(stripped)
    lines = value.splitlines()
    if len(lines) > 1:
        for line in lines:
            text = line.strip()
            if len(text) >= _SHORTEST_LINE:
                yield from pieces(text)
        yield from pieces(FoldedText(stripped, LINE_BREAKS).text)  # for an output without its line breaks


def pieces(text: bytes) -> Iterator[bytes]:
    """Split a string so that its pieces cover it. All pieces of a long string have the same length."""
    for start in range(0, max(1, len(text) - PIECE + 1), PIECE):
        piece = text[start : start + PIECE]
        if piece.strip():
            yield piece
    if len(text) > PIECE and text[-PIECE:].strip():
        yield text[-PIECE:]


async def resolve(
    value: Value, references: References | None, secrets: Secrets | None = None, *, any_bytes: bool = False
) -> str | None:
    """Return the text of a value; None for an optional reference to something that does not exist.

    A value from a Secret is added to ``secrets``. Raises ``LookupError`` if a reference can't be resolved, and
    ``ValueError`` if its value is not text; both name the kind, the name and the key. With ``any_bytes``, bytes that
    are no text are escaped as by ``os.fsdecode``.
    """
    kind, reference = ("Secret", value.secret) if value.secret is not None else ("ConfigMap", value.config_map)
    if reference is None:
        return value.value
    name, key = reference
    if references is None:
        if value.optional:
            return None
        raise LookupError(f"{kind} {name}, key {key}: there are no {kind}s here; give the value itself")
    try:
        found = await references.resolve(kind, name, key)
    except LookupError:
        if value.optional:
            return None
        raise
    if kind == "Secret" and secrets is not None:
        secrets.remember(found)
    try:
        return found.decode(errors="surrogateescape" if any_bytes else "strict")
    except UnicodeDecodeError as error:
        raise ValueError(f"{kind} {name}, key {key}: byte {error.start} is not UTF-8 text") from None
