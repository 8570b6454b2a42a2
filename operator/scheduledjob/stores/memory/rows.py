"""The rows of the memory store: one installation's tables.

Call each method under the database's lock. Due rows are found through the agendas of ``agendas.py``.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import islice
from typing import TYPE_CHECKING

from scheduledjob.stores.tombstones import tombstone_kept_for

from .agendas import Agenda, TenantSearch
from .entries import Entry
from .history import History
from .hook_calls import HookCalls
from .presence import Locks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scheduledjob.domain.time.instants import Instant, Micros
    from scheduledjob.engine.stored_row import Key, NewRow, Origin


class Installation:
    """The tables of one installation."""

    def __init__(self) -> None:
        self.keys: dict[Key, Entry] = {}
        self.slugs: dict[str, Entry] = {}
        self.history = History()
        self.locks = Locks()
        self.hook_calls = HookCalls()
        self.tenant_search = TenantSearch()
        self._last_key = 0
        self._agendas: dict[str, tuple[Agenda, Agenda]] = {}
        self._in_order: list[str] | None = None
        """The slugs, sorted; None after a row was created or removed."""
        self._tombstoned: dict[str, Instant] = {}
        """The uids that have tombstones, and when these expire."""

    def create(self, new: NewRow, now: Instant) -> Entry:
        self._last_key += 1
        entry = Entry(self._last_key, new, now)
        self.keys[entry.key] = self.slugs[entry.slug] = entry
        self._in_order = None
        self.enter(entry)
        return entry

    def edit(self, entry: Entry, new: NewRow, now: Instant) -> None:
        entry.write_definition(new, now)
        self._make_due(entry, now)

    def schedule_again(self, entry: Entry, new: NewRow) -> None:
        entry.schedule_again(new)
        self.enter(entry)  # a row that came from the operator has another tenant now

    def touch(self, entry: Entry, now: Instant) -> None:
        entry.revision += 1
        self._make_due(entry, now)

    def _make_due(self, entry: Entry, now: Instant) -> None:
        """Make the row due at once unless a replica owns it."""
        if entry.owner is None and (entry.wake_at is None or entry.wake_at > now):
            entry.wake_at = now
        self.enter(entry)

    def remove(self, entry: Entry) -> None:
        del self.keys[entry.key], self.slugs[entry.slug]
        self._in_order = None

    def tombstone(self, uid: str, now: Instant, definition: str = "") -> None:
        """Keep a tombstone of the uid, whose schedule had this definition."""
        self._tombstoned[uid] = max(self._tombstoned.get(uid, 0), now + tombstone_kept_for(definition))

    def revive(self, uid: str) -> None:
        """Delete the tombstone of the uid."""
        self._tombstoned.pop(uid, None)

    def is_tombstoned(self, uid: str, now: Instant) -> bool:
        return self._tombstoned.get(uid, now) > now

    def forget_tombstones(self, now: Instant, limit: int) -> None:
        expired = (uid for uid, until in self._tombstoned.items() if until <= now)
        for uid in list(islice(expired, limit)):
            del self._tombstoned[uid]

    def owned(self, key: Key, replica: str, version: int) -> Entry | None:
        """Return the row of that key if ``replica`` owns it at that version."""
        entry = self.keys.get(key)
        return entry if entry is not None and entry.owner == replica and entry.version == version else None

    def move_leases(self, jump: Micros) -> None:
        """Move the ends of leases and locks: the clock has jumped, but no more time has passed for their owners."""
        for entry in self.keys.values():
            if entry.owner is not None and entry.wake_at is not None:
                entry.wake_at += jump
                self.enter(entry)
        self.locks.move(jump)

    def page(self, origin: Origin | None, after: str, limit: int) -> list[Entry]:
        if self._in_order is None:
            self._in_order = sorted(self.slugs)
        found: list[Entry] = []
        for position in range(bisect_right(self._in_order, after), len(self._in_order)):
            if len(found) >= limit:
                break
            entry = self.slugs[self._in_order[position]]
            if origin is None or entry.origin == origin:
                found.append(entry)
        return found

    def enter(self, entry: Entry) -> None:
        """Enter the row in the agenda that its kind and owner call for, at its ``wake_at``."""
        if entry.wake_at is None:
            return
        if entry.kind not in self._agendas:
            self._agendas[entry.kind] = (Agenda(self.keys, entry.kind, False), Agenda(self.keys, entry.kind, True))
        self._agendas[entry.kind][entry.owner is not None].push(entry.wake_at, entry)

    def agendas_of(self, kinds: Iterable[str]) -> list[Agenda]:
        return [agenda for kind in set(kinds) for agenda in self._agendas.get(kind, ())]
