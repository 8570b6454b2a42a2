"""Finds secrets in an output: all occurrences of many byte strings, in one pass over the output.

A Secret of 1 MiB can have 100,000 lines, so a search for each line would take minutes. Here the lines are sorted once,
and at each position of the output a binary search finds the longest one that begins there. The time grows with the size
of the output, times the logarithm of the number of secrets, whatever a job prints.
"""

from __future__ import annotations

from bisect import bisect_right
from heapq import merge
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_KEY: Final = 8
"""Bytes. Positions whose next bytes begin no secret are skipped without a binary search."""
_SORTED_AT_ONCE: Final = 8192
"""How many strings are sorted at a time. During a sort, Python's other threads can't run."""
_FEW: Final = 16
"""For up to this many secrets, ``in`` shows faster that an output has none of them."""


class SecretSearch:
    """Finds the secrets ``forms`` in byte strings. The longest one bounds the work at each position."""

    __slots__ = ("_forms", "_key", "_keys", "_longest", "_prefixes", "steps")

    def __init__(self, forms: Iterable[bytes]) -> None:
        self._forms = _sorted({form for form in forms if form})
        self._key = min(_KEY, min(map(len, self._forms), default=_KEY))
        self._keys = {form[: self._key] for form in self._forms}
        self._longest = max(map(len, self._forms), default=0)
        self._prefixes = _prefix_lengths(self._forms)
        self.steps = 0
        """Binary searches so far."""

    def spans(self, data: bytes) -> list[tuple[int, int]]:
        """Return where secrets are in ``data``: half-open ranges, in order; those that touch are merged."""
        if len(self._forms) <= _FEW and not any(form in data for form in self._forms):
            return []
        key, keys = self._key, self._keys
        found: list[tuple[int, int]] = []
        start, end = 0, -1
        for at in [at for at in range(len(data) - key + 1) if data[at : at + key] in keys]:
            length = self._length_at(data, at)
            if not length:
                continue
            if at > end:
                if end >= 0:
                    found.append((start, end))
                start = at
            end = max(end, at + length)
        if end >= 0:
            found.append((start, end))
        return found

    def _length_at(self, data: bytes, at: int) -> int:
        """Return the length of the longest secret that begins at a position, or 0."""
        self.steps += 1
        window = data[at : at + self._longest]
        # A secret that begins the window sorts before it, and all that sort between the two begin with that secret. So
        # the answer is the last secret that does not sort after the window, or a prefix of that one.
        index = bisect_right(self._forms, window) - 1
        if index < 0:
            return 0
        form = self._forms[index]
        if window.startswith(form):
            return len(form)
        lengths = self._prefixes.get(index, ())
        fitting = bisect_right(lengths, _common(form, window)) if lengths else 0
        return lengths[fitting - 1] if fitting else 0


def _sorted(forms: set[bytes]) -> list[bytes]:
    pending = list(forms)
    parts = [sorted(pending[at : at + _SORTED_AT_ONCE]) for at in range(0, len(pending), _SORTED_AT_ONCE)]
    return parts[0] if len(parts) == 1 else list(merge(*parts))


def _prefix_lengths(forms: list[bytes]) -> dict[int, tuple[int, ...]]:
    """Return, by index, the lengths of the other strings that the string begins with, in ascending order."""
    lengths: dict[int, tuple[int, ...]] = {}
    nested: list[tuple[bytes, tuple[int, ...]]] = []
    for index, form in enumerate(forms):
        while nested and not form.startswith(nested[-1][0]):
            nested.pop()
        outer = nested[-1][1] if nested else ()
        if outer:
            lengths[index] = outer
        nested.append((form, (*outer, len(form))))
    return lengths


def _common(one: bytes, other: bytes) -> int:
    """Return how many bytes at the start of both are equal."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low
