"""Problems: what is wrong with a manifest, in one line.

A ``Problem`` has the place, the field, what is wrong and what to write instead. They are separate, so that a table or
JSON can show them as columns. As text they have the form that editors and CI systems turn into links:
``jobs/a.yaml:12: spec.suspend: ...``. Everything from the file passes through ``quoted`` or ``plain`` first, so that a
hostile document can't write control characters, or a megabyte, to a terminal.
"""

from __future__ import annotations

import difflib
import heapq
import re
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Path = tuple[str | int, ...]
"""The path from a document's root to a field: keys and list indices."""

SHOWN = 60
"""Maximum characters of a user's value in a message."""

COMPARED = 20
"""With how many words of a vocabulary a word is compared letter by letter."""

LEVELS_SHOWN = 20
"""Maximum levels of a path in a message."""

_BARE_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")


@dataclass(frozen=True, slots=True)
class Problem:
    """A fault in a manifest."""

    file: str
    line: int
    """Counted from 1; 0 for a fault of the whole file."""
    column: int
    """Counted from 1; 0 for a fault of the whole file."""
    field: str
    """``spec.triggers[0].cron``; empty for a fault of the document or the file."""
    message: str
    allowed: str = ""
    """What to write instead, unless the message says it."""
    job: tuple[str, str] | None = None
    """(namespace, name) of the document at fault. None if it is unknown: then it may be any job of this file."""

    def __str__(self) -> str:
        place = plain(self.file) + (f":{self.line}" if self.line else "")
        parts = [place, plain(self.field), self.message, self.allowed]
        return ": ".join(part for part in parts if part)


def plain(text: str) -> str:
    """Return text of unknown origin in a form that is safe to print in one line."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def shortened(text: str, limit: int = SHOWN) -> str:
    """Return the beginning of a text and, if it was cut, its length."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def quoted(text: str) -> str:
    """Return a user's value for a message: in quotes, printable, not too long."""
    return f'"{plain(text[:SHOWN])}"' + (f"… ({len(text)} characters)" if len(text) > SHOWN else "")


def dotted(path: Path) -> str:
    """Return ``spec.triggers[0].cron``. A key that is not a plain word is in brackets and quotes."""
    text = ""
    for part in path[:LEVELS_SHOWN]:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _BARE_KEY.match(part):
            text += f".{shortened(part)}" if text else shortened(part)
        else:
            text += f"[{quoted(part)}]"
    return text if len(path) <= LEVELS_SHOWN else f"{text}…"


def listed(words: Sequence[str], conjunction: str = "or") -> str:
    """Return ``a``, ``a or b``, ``a, b or c``."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {conjunction} {words[-1]}"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that the user most likely meant, ignoring case; None if no word is close."""
    if len(word) > SHOWN:
        return None
    by_folded = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(word.casefold(), by_folded, n=1, cutoff=0.7)
    return by_folded[close[0]] if close else None


class Vocabulary:
    """Many known words. To find the nearest one compares a word with the few that share most pairs of letters with it.

    A tenant's object may have a wrong word in each of many places, and a comparison with all of a thousand words takes
    milliseconds.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self._by_folded = {word.casefold(): word for word in words}
        self._with_pair: dict[str, list[str]] = {}
        for folded in self._by_folded:
            for pair in _pairs(folded):
                self._with_pair.setdefault(pair, []).append(folded)

    def nearest(self, word: str) -> str | None:
        """As the function ``nearest``."""
        if len(word) > SHOWN:
            return None
        pairs = _pairs(word.casefold())
        shared = Counter(chain.from_iterable(self._with_pair.get(pair, ()) for pair in pairs))
        likely = heapq.nlargest(COMPARED, shared, key=lambda folded: shared[folded] / (len(pairs) + len(folded)))
        return nearest(word, map(self._by_folded.__getitem__, likely))


def _pairs(text: str) -> set[str]:
    return {text[start : start + 2] for start in range(len(text) - 1)}
