"""What this process knows of the rows that it owns: enough to write them without reading them first.

A write has the precondition that the document is as this process last saw it (its stamp). So the stamp of each owned
row is kept, with the few fields that a settlement depends on, which cannot change without the stamp. A row that is
unknown here, or whose stamp a client's edit has changed, is read again. So the map can be bounded: a missing entry
costs only one read. The lease thread renews through the same map.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .layout import key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scheduledjob.engine.stored_row import Key

    from .operations import Stamp, StoredDocument

MAX_ROWS = 50_000
FIELDS = ("born", "owner", "version", "revision", "payload_revision", "recent", "buried")
"""The fields to read of an unknown row."""


@dataclass(slots=True, frozen=True)
class KnownRow:
    stamp: Stamp
    owner: str
    version: int
    revision: int
    recent: Sequence[str]
    tombstoned: Sequence[str] = ()
    payload_revision: int = 0


UNKNOWN = KnownRow(stamp=0, owner="", version=0, revision=0, recent=())
"""No document has this stamp, so a write with it as precondition is refused."""


class OwnedRows:
    def __init__(self, max_rows: int = MAX_ROWS) -> None:
        self._max_rows = max_rows
        self._lock = threading.Lock()
        self._known: OrderedDict[Key, KnownRow] = OrderedDict()

    def get(self, key: Key, replica: str, version: int) -> KnownRow | None:
        """Return what is known of the row, if ``replica`` owns it at that version."""
        with self._lock:
            known = self._known.get(key)
        return known if known is not None and (known.owner, known.version) == (replica, version) else None

    def remember(self, document: StoredDocument, stamp: Stamp | None = None) -> None:
        """Remember a row; ``stamp`` is that of a write which this process made after reading the document."""
        fields = document.fields
        known = KnownRow(
            stamp=stamp or document.stamp,
            owner=fields.get("owner") or "",
            version=fields["version"],
            revision=fields["revision"],
            recent=fields.get("recent") or (),
            tombstoned=fields.get("buried") or (),
            payload_revision=fields.get("payload_revision", 0),
        )
        with self._lock:
            self._known[key_of(document)] = known
            self._known.move_to_end(key_of(document))
            while len(self._known) > self._max_rows:
                self._known.popitem(last=False)

    def settled(self, key: Key, stamp: Stamp, recent: Sequence[str]) -> None:
        """Take in that this process settled the row and keeps it, which raised its version."""
        self._update(key, stamp, lambda known: replace(known, version=known.version + 1, recent=recent))

    def renewed(self, key: Key, stamp: Stamp) -> None:
        """Take in that this process renewed the row's lease."""
        self._update(key, stamp, lambda known: known)

    def _update(self, key: Key, stamp: Stamp, change: Callable[[KnownRow], KnownRow]) -> None:
        with self._lock:
            known = self._known.get(key)
            if known is not None:
                # The answers of two writes may arrive in either order.
                self._known[key] = replace(change(known), stamp=max(stamp, known.stamp))

    def forget(self, key: Key) -> None:
        with self._lock:
            self._known.pop(key, None)


def owned_by(document: StoredDocument | None, key: Key, replica: str, version: int) -> bool:
    """Return whether the document still holds the row of that key, and ``replica`` owns it at that version."""
    return (
        document is not None
        and key_of(document) == key
        and document.fields.get("owner") == replica
        and document.fields.get("version") == version
    )
