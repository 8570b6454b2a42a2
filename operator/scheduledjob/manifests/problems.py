"""Problems: what is wrong with a manifest, said in one line.

A person who made a mistake wants four things: the place, the field, what is wrong and what to write instead. A
``Problem`` holds them apart, so that a table or JSON can show them as columns, and prints them together in the form
that editors and CI systems turn into links: ``jobs/a.yaml:12: spec.suspend: ...``. Everything that came from the file
passes through ``quoted`` or ``plain`` first: a hostile document must not write control characters, or a megabyte, to
somebody's terminal.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Path = tuple[str | int, ...]
"""The way from a document's root to a field: keys and list indices."""

SHOWN = 60
"""Characters of a user's value that a message repeats."""

LEVELS_SHOWN = 20
"""Levels of a path that a message repeats."""

_BARE_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault of one manifest."""

    file: str
    line: int
    """Counted from 1; 0 where the fault is the whole file's."""
    column: int
    """Counted from 1; 0 where the fault is the whole file's."""
    field: str
    """``spec.triggers[0].cron``; empty where the fault is the document's or the file's."""
    message: str
    allowed: str = ""
    """What to write instead, where the message does not say it yet."""
    job: tuple[str, str] | None = None
    """(namespace, name) of the document at fault. None: it can't be told, so anything that stood in this file before
    may be meant."""

    def __str__(self) -> str:
        place = plain(self.file) + (f":{self.line}" if self.line else "")
        parts = [place, plain(self.field), self.message, self.allowed]
        return ": ".join(part for part in parts if part)


def plain(text: str) -> str:
    """Text of unknown origin, made safe to print in one line."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def shortened(text: str, limit: int = SHOWN) -> str:
    """The beginning of a text, and how long it was where it is cut."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def quoted(text: str) -> str:
    """A user's value as a message repeats it: in quotes, printable, not too long."""
    return f'"{plain(text[:SHOWN])}"' + (f"… ({len(text)} characters)" if len(text) > SHOWN else "")


def dotted(path: Path) -> str:
    """``spec.triggers[0].cron``; a key that is not a plain word stands in brackets and quotes."""
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
    """``a``, ``a or b``, ``a, b or c``."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {conjunction} {words[-1]}"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that the user most likely meant, judged without regard to case; None if nothing is near."""
    if len(word) > SHOWN:
        return None
    by_folded = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(word.casefold(), by_folded, n=1, cutoff=0.7)
    return by_folded[close[0]] if close else None
