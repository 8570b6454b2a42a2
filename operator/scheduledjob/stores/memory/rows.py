"""The rows of the memory store: one installation's tables.

Call each method under the database's lock. Due rows are found through the agendas of ``agendas.py``.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from itertools import islice
from typing import TYPE_CHECKING

from scheduledjob.domain.schedule.state import RunRecord, State, cut_off
from scheduledjob.engine.capacity import LIBRARY, tenant_of
from scheduledjob.engine.stored_row import DEFAULT_TENANT, Key, NewRow, Origin, Row, Settlement
from scheduledjob.stores.tombstones import decode_keep, tombstone_kept_for

from .agendas import Agenda, TenantSearch
from .history import History
from .hook_calls import HookCalls
from .presence import Locks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scheduledjob.domain.time.instants import Instant, Micros


class Entry:
    """A stored row. There may be a million of them, so it is small."""

    __slots__ = (
        "created_at", "definition", "edited_at", "first", "generation", "key", "kind", "origin", "owner",
        "payload", "payload_revision", "requests", "result", "revision", "slug", "state", "tenant", "uid", "version",
        "wake_at",
    )  # fmt: skip

    def __init__(self, key: int, new: NewRow, now: Instant) -> None:
        self.key = key
        self.slug = new.slug
        self.uid = new.uid
        self.created_at = new.created_at
        self.state = new.state
        self.wake_at = new.wake_at
        self.result: bytes | None = None
        self.owner: str | None = None
        self.version = 0
        self.revision = self.payload_revision = 0
        self.write_definition(new, now)

    def write_definition(self, new: NewRow, now: Instant) -> None:
        self.kind = sys.intern(new.kind)
        self.origin = Origin(new.origin).value
        self.definition = sys.intern(new.definition)
        self.first = new.first
        self.generation = new.generation
        self.requests = sys.intern(new.requests)
        self.tenant = sys.intern(tenant_of(new))
        self.edited_at = now
        self.revision += 1
        if not (new.keep_payload and self.revision > 1):
            self.payload = new.payload
            self.payload_revision = self.revision

    def differs(self, new: NewRow) -> bool:
        """Return whether ``new`` differs from the row."""
        if new.first is not None or (self.payload != new.payload and not new.keep_payload):
            return True
        return (self.kind, self.definition, self.named_tenant) != (new.kind, new.definition, new.tenant)

    def schedule_again(self, new: NewRow) -> None:
        """Note that a client of the library has scheduled an owned row again as it is."""
        self.origin, self.generation, self.requests = Origin(new.origin).value, 0, ""
        self.tenant = sys.intern(tenant_of(new))
        self.revision += 1
        if not new.keep_payload:
            self.payload_revision = self.revision

    @property
    def named_tenant(self) -> str:
        """The tenant as ``NewRow`` and ``Row`` name it. ``tenant`` is the one whose capacity the row uses."""
        return self.tenant if self.origin == LIBRARY else DEFAULT_TENANT

    def write_state(self, settlement: Settlement) -> None:
        self.state = settlement.state
        if settlement.writes_payload and self.payload_revision <= settlement.payload_base:
            self.payload = settlement.payload
        if settlement.result is not None:
            self.result = settlement.result

    def cut_off(self, now: Instant) -> list[RunRecord]:
        """Return records of the runs that end if the row is deleted now; none if a newer version has written it."""
        try:
            state, keep = State.decode(self.state), decode_keep(self.definition)
        except ValueError:
            return []
        return cut_off(state, uid=self.uid, slug=self.slug, now=now, owned=self.owner is not None, keep=keep)

    def row(self, recovered: bool = False) -> Row:
        # Python 3.11 calls with more than 15 keywords at eight times the cost: 3 % of a run in `memory`.
        return Row(
            self.key,
            self.slug,
            self.uid,
            self.kind,
            self.origin,
            definition=self.definition,
            revision=self.revision,
            edited_at=self.edited_at,
            first=self.first,
            payload=self.payload,
            result=self.result,
            created_at=self.created_at,
            version=self.version,
            wake_at=self.wake_at,
            state=self.state,
            recovered=recovered,
            owner=self.owner,
            generation=self.generation,
            requests=self.requests,
            tenant=self.named_tenant,
            payload_revision=self.payload_revision,
        )


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
