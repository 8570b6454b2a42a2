"""Firestore's documents, writes and queries as plain Python values, and their limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Value: TypeAlias = bool | int | str | bytes | Sequence[str] | Mapping[str, str] | None
Fields: TypeAlias = dict[str, Value]
Stamp: TypeAlias = int
"""When a document was last written: nanoseconds since the epoch, by the store's clock."""

MAX_WRITES = 500
"""Firestore's limit for one request."""
MAX_BYTES = 8 << 20
"""Our limit for one request. Firestore's is 10 MiB, but ``Write.size`` is an estimate."""


@dataclass(slots=True)
class StoredDocument:
    path: str
    fields: dict[str, Any]
    stamp: Stamp


@dataclass(slots=True)
class Write:
    """One write. Without ``fields`` the document is deleted."""

    path: str
    fields: Fields | None = None
    mask: Sequence[str] | None = None
    """The fields to write; one that ``fields`` lacks is removed. None: the document becomes ``fields``."""
    exists: bool | None = None
    """Precondition: the document exists, or does not."""
    stamp: Stamp | None = None
    """Precondition: the document was last written at this time."""

    def size(self) -> int:
        """Estimate the bytes on the wire, rather too many than too few."""
        total = 300 + len(self.path) + 40 * len(self.mask or ())
        for name, value in (self.fields or {}).items():
            total += 40 + len(name)
            if isinstance(value, str):
                total += _text_size(value)
            elif isinstance(value, bytes):
                total += len(value)
            elif isinstance(value, (Sequence, Mapping)):
                total += 2 * _text_size(str(value))
        return total


def _text_size(text: str) -> int:
    """Return the most bytes that the text may take as UTF-8."""
    return len(text) if text.isascii() else 4 * len(text)


@dataclass(slots=True)
class Query:
    """A query for documents of a collection, in order of one field and then of their ids."""

    collection: str
    order: str
    equals: dict[str, str | int] = field(default_factory=dict)
    within: dict[str, Sequence[str] | Sequence[int]] = field(default_factory=dict)
    """The field has one of these values. The product of the numbers of values is at most ``MAX_ALTERNATIVES``."""
    least: str | int | None = None
    """The lower bound of the ordering field, inclusive."""
    most: str | int | None = None
    """The upper bound of the ordering field, inclusive."""
    more: str | int | None = None
    """The lower bound of the ordering field, exclusive."""
    less: str | int | None = None
    """The upper bound of the ordering field, exclusive."""
    after: tuple[str | int, str] | None = None
    """(value of the ordering field, path): return only documents behind this place."""
    descending: bool = False
    limit: int = 1


MAX_ALTERNATIVES = 30


def write_over(existing: StoredDocument | None, path: str, fields: Fields) -> Write:
    """Return the write that replaces the document, on condition that it is as it was read."""
    return Write(path, fields, exists=False) if existing is None else Write(path, fields, stamp=existing.stamp)


def pack_commits(units: Sequence[Sequence[Write]]) -> list[list[int]]:
    """Distribute units over commits, and return the numbers of each commit's units.

    A unit stays whole, and no commit exceeds the limits.
    """
    found: list[list[int]] = []
    writes = size = 0
    for number, unit in enumerate(units):
        more = sum(write.size() for write in unit)
        if not found or writes + len(unit) > MAX_WRITES or size + more > MAX_BYTES:
            found.append([])
            writes = size = 0
        found[-1].append(number)
        writes += len(unit)
        size += more
    return found


class ContendedCommits:
    """Distributes the units of one call over commits, again after each conflict.

    A document that others keep writing fails the commit that it is in. So a unit whose document was written since the
    last attempt is committed by itself. The first write of a unit is that of its document.
    """

    def __init__(self) -> None:
        self._stamps: dict[str, Stamp | None] = {}
        self._contended: set[str] = set()

    def pack(self, units: Sequence[Sequence[Write]]) -> list[list[int]]:
        """As ``pack_commits``."""
        for write, *_ in units:
            if self._stamps.setdefault(write.path, write.stamp) != write.stamp:
                self._contended.add(write.path)
        alone = [[number] for number, unit in enumerate(units) if unit[0].path in self._contended]
        others = [number for number, unit in enumerate(units) if unit[0].path not in self._contended]
        packed = pack_commits([units[number] for number in others])
        return [[others[place] for place in places] for places in packed] + alone
