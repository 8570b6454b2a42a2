"""What is read from and written to Firestore, in plain Python: documents, writes, queries, and their limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Value: TypeAlias = bool | int | str | bytes | Sequence[str] | Mapping[str, str] | None
Fields: TypeAlias = dict[str, Value]
Stamp: TypeAlias = int
"""When a document was last written: nanoseconds since the epoch, by the store's clock."""

MOST_WRITES = 500
"""In one request: Firestore's limit."""
MOST_BYTES = 8 << 20
"""In one request: Firestore's limit is 10 MiB, and ours is an estimate."""


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
    """The fields that are written; one that ``fields`` lacks is removed. None: the document becomes ``fields``."""
    exists: bool | None = None
    """Precondition: the document is there, or is not."""
    stamp: Stamp | None = None
    """Precondition: the document was last written then."""

    def size(self) -> int:
        """Bytes on the wire, roughly and rather too many."""
        total = 300 + len(self.path) + 40 * len(self.mask or ())
        for name, value in (self.fields or {}).items():
            total += 40 + len(name)
            if isinstance(value, str):
                total += 4 * len(value) if not value.isascii() else len(value)
            elif isinstance(value, bytes):
                total += len(value)
            elif isinstance(value, (Sequence, Mapping)):
                total += len(str(value)) * 2
        return total


@dataclass(slots=True)
class Query:
    """Documents of a collection, in order of one field and then of their ids."""

    collection: str
    order: str
    equals: dict[str, str | int] = field(default_factory=dict)
    within: dict[str, Sequence[str] | Sequence[int]] = field(default_factory=dict)
    """The field has one of the values. The product of the numbers of values is at most ``MOST_ALTERNATIVES``."""
    least: str | int | None = None
    """Bounds of the field of the order, both inclusive."""
    most: str | int | None = None
    more: str | int | None = None
    """A bound of the field of the order, exclusive."""
    less: str | int | None = None
    after: tuple[str | int, str] | None = None
    """(value of the field of the order, path): the documents that come after this place."""
    descending: bool = False
    limit: int = 1


MOST_ALTERNATIVES = 30


def packs(units: Sequence[Sequence[Write]]) -> list[list[int]]:
    """Which units go into one commit together, as their numbers: each unit whole, no commit above the limits."""
    found: list[list[int]] = []
    writes = size = 0
    for number, unit in enumerate(units):
        more = sum(write.size() for write in unit)
        if not found or writes + len(unit) > MOST_WRITES or size + more > MOST_BYTES:
            found.append([])
            writes = size = 0
        found[-1].append(number)
        writes += len(unit)
        size += more
    return found
