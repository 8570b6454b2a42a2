"""What this process knows of the rows that it owns: enough to write them without reading them first.

A write is let through only if the document is still as it was when this process last saw it (its stamp); so for each
owned row the stamp is kept, with the few things that a settlement depends on and that can't have changed while the
stamp holds. What is not known here, because it was long ago or a client's edit moved the stamp, is read again: the
map is bounded, and being wrong costs one read and nothing else. The lease thread renews through the same map.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .layout import key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scheduledjob.engine.store import Key

    from .operations import Stamp, StoredDocument

MOST = 50_000
SEEN = ("born", "owner", "version", "revision", "recent", "buried")
"""The fields to read of a row that has to be known again."""


@dataclass(slots=True, frozen=True)
class Known:
    stamp: Stamp
    owner: str
    version: int
    revision: int
    recent: Sequence[str]
    tombstoned: Sequence[str] = ()


NOTHING = Known(0, "", 0, 0, ())
"""No document has this stamp, so a write that relies on it is refused."""


class OwnedRows:
    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._known: OrderedDict[Key, Known] = OrderedDict()

    def get(self, key: Key, replica: str, version: int) -> Known | None:
        """What is known of the row as one that ``replica`` owns at that version."""
        with self._lock:
            known = self._known.get(key)
        return known if known is not None and (known.owner, known.version) == (replica, version) else None

    def see(self, document: StoredDocument, stamp: Stamp | None = None) -> None:
        """``stamp``: of a write that this process made after reading the document."""
        fields = document.fields
        known = Known(
            stamp or document.stamp,
            fields.get("owner") or "",
            fields["version"],
            fields["revision"],
            fields.get("recent") or (),
            fields.get("buried") or (),
        )
        with self._lock:
            self._known[key_of(document)] = known
            self._known.move_to_end(key_of(document))
            while len(self._known) > self._most:
                self._known.popitem(last=False)

    def settled(self, key: Key, stamp: Stamp, recent: Sequence[str]) -> None:
        """This process settled the row and keeps it, which raised its version."""
        self._wrote(key, stamp, lambda known: replace(known, version=known.version + 1, recent=recent))

    def renewed(self, key: Key, stamp: Stamp) -> None:
        """This process renewed the row's lease."""
        self._wrote(key, stamp, lambda known: known)

    def _wrote(self, key: Key, stamp: Stamp, change: Callable[[Known], Known]) -> None:
        with self._lock:
            known = self._known.get(key)
            if known is not None:
                # The answers of two writes may come in either order.
                self._known[key] = replace(change(known), stamp=max(stamp, known.stamp))

    def forget(self, key: Key) -> None:
        with self._lock:
            self._known.pop(key, None)


def owned_by(document: StoredDocument | None, key: Key, replica: str, version: int) -> bool:
    """Return whether the row is still the same object's, owned by ``replica`` at that version."""
    return (
        document is not None
        and key_of(document) == key
        and document.fields.get("owner") == replica
        and document.fields.get("version") == version
    )
