"""The rows of the memory store: one installation's tables, and how due rows are found in them.

Call each method under the database's lock. Due rows are found through *agendas*, which are ordered by ``wake_at``.
Each kind has its own, so that kinds that a replica does not claim cost nothing. Each kind has two: one for rows that
no replica owns, which are claimed ahead of time, and one for leases, which are not.
"""

from __future__ import annotations

import heapq
import sys
from bisect import bisect_right
from itertools import islice
from typing import TYPE_CHECKING

from scheduledjob.domain.schedule.state import RunRecord, State, cut_off
from scheduledjob.engine.capacity import LIBRARY, tenant_of
from scheduledjob.engine.stored_row import DEFAULT_TENANT, Key, NewRow, Origin, Row, Settlement
from scheduledjob.stores.tombstones import decode_keep, tombstone_kept_for

from .history import History
from .hook_calls import HookCalls
from .presence import Locks

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from scheduledjob.domain.time.instants import Instant, Micros
    from scheduledjob.engine.store import Quotas


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


class Agenda:
    """The rows of one kind that no replica owns, or those that replicas own (``leases``), by ``wake_at``.

    Each tenant has a heap of its rows, and another heap has the fronts of these heaps. When a row moves, its old place
    stays in its heap and is dropped when it comes to the front. When old places may be half of a heap, they are all
    removed.
    """

    __slots__ = ("_fronts", "_keys", "_kind", "_tenants", "leases")

    def __init__(self, keys: dict[Key, Entry], kind: str, leases: bool) -> None:
        self._keys = keys
        self._kind = kind
        self.leases = leases
        self._tenants: dict[str, TenantHeap] = {}
        self._fronts: list[tuple[Instant, str]] = []
        """The ``wake_at`` of each tenant's front. One that differs from ``TenantHeap.front`` is out of date."""

    def push(self, wake_at: Instant, entry: Entry) -> None:
        tenant = entry.tenant
        heap = self._tenants.get(tenant)
        if heap is None:
            heap = self._tenants[tenant] = TenantHeap()
        if len(heap.places) >= heap.enough:
            heap.places = [place for place in set(heap.places) if self._holds(place, tenant)]
            heapq.heapify(heap.places)
            heap.enough = 2 * len(heap.places) + 64
        heapq.heappush(heap.places, (wake_at, entry.key))
        if heap.front is None or wake_at < heap.front:
            heap.front = wake_at
            heapq.heappush(self._fronts, (wake_at, tenant))

    def due_tenants(self, horizon: Instant) -> tuple[set[str], Instant | None]:
        """Return the tenants that may have rows due by ``horizon``, and when the next of the others may be due."""
        due: set[str] = set()
        later: Instant | None = None
        fronts, positions = self._fronts, [0]
        while positions:  # descend the heap as far as it is due
            position = positions.pop()
            if position < len(fronts):
                wake_at, tenant = fronts[position]
                if wake_at <= horizon:
                    due.add(tenant)
                    positions += (2 * position + 1, 2 * position + 2)
                else:
                    later = earlier(later, wake_at)
        return due, later

    def head(self) -> tuple[Instant, int] | None:
        """Return the earliest (``wake_at``, key) that is not an old place."""
        fronts = self._fronts
        while fronts:
            wake_at, tenant = fronts[0]
            heap = self._tenants.get(tenant)
            if heap is None or heap.front != wake_at:
                heapq.heappop(fronts)
                continue
            place = self._front_of(heap, tenant)
            if place is None:
                heapq.heappop(fronts)
                del self._tenants[tenant]
            elif place[0] == wake_at:
                return place
            else:
                heap.front = place[0]
                heapq.heapreplace(fronts, (place[0], tenant))
        return None

    def pop(self) -> Entry:
        """Remove and return the row that ``head`` has just returned."""
        return self._keys[heapq.heappop(self._tenants[self._fronts[0][1]].places)[1]]

    def head_of(self, tenant: str) -> tuple[Instant, int] | None:
        """As ``head``, among the rows of one tenant."""
        heap = self._tenants.get(tenant)
        return None if heap is None else self._front_of(heap, tenant)

    def pop_of(self, tenant: str) -> Entry:
        """Remove and return the row that ``head_of`` has just returned."""
        return self._keys[heapq.heappop(self._tenants[tenant].places)[1]]

    def suits(self, entry: Entry) -> bool:
        """Return whether the row belongs to this agenda."""
        return entry.kind == self._kind and (entry.owner is not None) is self.leases

    def _front_of(self, heap: TenantHeap, tenant: str) -> tuple[Instant, int] | None:
        places = heap.places
        while places:
            if self._holds(places[0], tenant):
                return places[0]
            heapq.heappop(places)
        return None

    def _holds(self, place: tuple[Instant, int], tenant: str) -> bool:
        entry = self._keys.get(place[1])
        return (
            entry is not None
            and entry.wake_at == place[0]
            and (entry.owner is not None) is self.leases
            and entry.tenant == tenant
            and entry.kind == self._kind
        )

    def count_before(self, tenant: str, wake_at: Instant, most: int) -> int:
        """Return how many rows of the tenant are due before ``wake_at``, of the ``most`` that are likely to be."""
        heap = self._tenants.get(tenant)
        places = [] if heap is None else heap.places
        return sum(place[0] < wake_at and self._holds(place, tenant) for place in islice(places, most))


class TenantHeap:
    """The places of one tenant's rows in an agenda."""

    __slots__ = ("enough", "front", "places")

    def __init__(self) -> None:
        self.places: list[tuple[Instant, int]] = []
        self.front: Instant | None = None
        """The ``wake_at`` under which the agenda's fronts have this heap; never later than the first place."""
        self.enough = 64


def due_rows_of_tenants(
    agendas: Sequence[Agenda], ahead: Micros, now: Instant, limit: int, quotas: Quotas
) -> tuple[list[Entry], frozenset[str], Instant | None]:
    """Remove rows from their agendas as the quotas allow, and return them, the first of each tenant first.

    Also returns the tenants of which more rows are due, and when the next row may be due that is not yet.
    """
    turns: list[tuple[int, Instant, Entry]] = []
    left: set[str] = set()
    tenants: set[str] = set()
    next_due: Instant | None = None
    horizon = now + ahead
    for agenda in agendas:
        due, later = agenda.due_tenants(now if agenda.leases else horizon)
        tenants |= due
        if later is not None:
            next_due = earlier(next_due, later + (ahead if agenda.leases else 0))
    for tenant in tenants:
        heads = [
            (*head, number)
            for number, agenda in enumerate(agendas)
            if (head := agenda.head_of(tenant)) is not None and head[0] <= (now if agenda.leases else horizon)
        ]
        heapq.heapify(heads)
        quota, taken = min(limit, quotas.tenants.get(tenant, quotas.others)), set[int]()
        while heads and len(taken) < quota:
            wake_at, key, number = heads[0]
            agenda = agendas[number]
            entry = agenda.pop_of(tenant)
            if key not in taken:  # a row may have two places at the same instant
                taken.add(key)
                turns.append((len(taken), wake_at, entry))
            head = agenda.head_of(tenant)
            if head is not None and head[0] <= (now if agenda.leases else horizon):
                heapq.heapreplace(heads, (*head, number))
            else:
                heapq.heappop(heads)
        if any(head[1] not in taken for head in heads):
            left.add(tenant)
    turns.sort(key=lambda turn: turn[:2])
    for _, wake_at, entry in turns[limit:]:
        left.add(entry.tenant)
        next(agenda for agenda in agendas if agenda.suits(entry)).push(wake_at, entry)
    return [entry for *_, entry in turns[:limit]], frozenset(left), next_due


def due_rows(agendas: Sequence[Agenda], horizon: Instant, now: Instant, limit: int) -> list[Entry]:
    """Remove the rows that may be claimed from their agendas and return them, the soonest first."""
    heads = [(*head, number) for number, agenda in enumerate(agendas) if (head := agenda.head()) is not None]
    heapq.heapify(heads)
    found: list[Entry] = []
    taken: set[int] = set()
    while heads and len(found) < limit:
        wake_at, key, number = heads[0]
        agenda = agendas[number]
        if wake_at > (now if agenda.leases else horizon):
            heapq.heappop(heads)
            continue
        entry = agenda.pop()
        if key not in taken:  # a row may have two places at the same instant
            taken.add(key)
            found.append(entry)
        if (head := agenda.head()) is not None:
            heapq.heapreplace(heads, (*head, number))
        else:
            heapq.heappop(heads)
    return found


def next_wake(agendas: Sequence[Agenda], now: Instant, ahead: Micros) -> Instant | None:
    """Return the earliest ``wake_at`` that is not due within ``ahead``; None if more rows could be claimed now."""
    earliest: Instant | None = None
    for agenda in agendas:
        if (head := agenda.head()) is not None:
            wake_at = head[0] + (ahead if agenda.leases else 0)
            if wake_at <= now + ahead:
                return None
            earliest = earlier(earliest, wake_at)
    return earliest


def earlier(first: Instant | None, second: Instant | None) -> Instant | None:
    if first is None or second is None:
        return second if first is None else first
    return min(first, second)
