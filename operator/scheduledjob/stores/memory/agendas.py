"""Agendas of the memory store: how due rows are found, the soonest first, or some of each tenant.

An agenda is ordered by ``wake_at``. Each kind has its own, so that kinds that a replica does not claim cost nothing.
Each kind has two: one for rows that no replica owns, which are claimed ahead of time, and one for leases, which are
not. Call each function under the database's lock.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scheduledjob.domain.time.instants import Instant, Micros
    from scheduledjob.engine.store import Quotas
    from scheduledjob.engine.stored_row import Key

    from .entries import Entry

MAX_PAIRS = 2048
"""How many agendas of tenants one claim with quotas looks at. The next one goes on behind them."""


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


class TenantSearch:
    """Where claims with quotas look for due rows: at all tenants in turn, at some of them if there are many."""

    def __init__(self) -> None:
        self._last = ""
        """The tenant with which the last claim ended; empty if it had looked at all of them."""

    def part_of(self, agendas: Mapping[str, Sequence[object]]) -> list[str]:
        """Return the tenants that the next claim looks at. ``agendas``: those in which each tenant may have rows."""
        if sum(map(len, agendas.values())) <= MAX_PAIRS:
            self._last = ""
            return list(agendas)
        in_order = sorted(agendas)
        first, pairs = bisect_right(in_order, self._last), 0
        part: list[str] = []
        for tenant in in_order[first:] + in_order[:first]:
            pairs += len(agendas[tenant])
            if part and pairs > MAX_PAIRS:
                break
            part.append(tenant)
        self._last = part[-1]
        return part


class TenantQueue:
    """The due rows of one tenant, the soonest of all its agendas first."""

    __slots__ = ("_agendas", "heads", "tenant")

    def __init__(self, tenant: str, agendas: Sequence[tuple[Agenda, Instant]]) -> None:
        """``agendas``: those in which the tenant may have rows, each with the latest ``wake_at`` that is due."""
        self.tenant = tenant
        self._agendas = agendas
        self.heads: list[tuple[Instant, int, int]] = []
        """A heap: ``wake_at`` and key of the first due row in each agenda, and the agenda's number."""
        for number, (agenda, horizon) in enumerate(agendas):
            if (head := agenda.head_of(tenant)) is not None and head[0] <= horizon:
                self.heads.append((*head, number))
        heapq.heapify(self.heads)

    def pop(self) -> Entry:
        """Remove the first row from its agenda, and return it."""
        key, entry = self.heads[0][1], self._pop_place()
        while self.heads and self.heads[0][1] == key:  # a row may have two places at the same instant
            self._pop_place()
        return entry

    def _pop_place(self) -> Entry:
        number = self.heads[0][2]
        agenda, horizon = self._agendas[number]
        entry, head = agenda.pop_of(self.tenant), agenda.head_of(self.tenant)
        if head is not None and head[0] <= horizon:
            heapq.heapreplace(self.heads, (*head, number))
        else:
            heapq.heappop(self.heads)
        return entry


def due_rows_of_tenants(
    agendas: Sequence[Agenda], ahead: Micros, now: Instant, limit: int, quotas: Quotas, search: TenantSearch
) -> tuple[list[Entry], frozenset[str], Instant | None]:
    """Remove rows from their agendas as the quotas allow, and return them, the first of each tenant first.

    Also returns the tenants of which more rows are due, and when the next row may be due that is not yet.
    """
    due_in: dict[str, list[tuple[Agenda, Instant]]] = {}
    next_due: Instant | None = None
    for agenda in agendas:
        horizon = now if agenda.leases else now + ahead
        due, later = agenda.due_tenants(horizon)
        for tenant in due:
            due_in.setdefault(tenant, []).append((agenda, horizon))
        if later is not None:
            next_due = earlier(next_due, later + (ahead if agenda.leases else 0))
    searched = search.part_of(due_in)
    if len(searched) < len(due_in):
        next_due = now  # the others come with the next claim
    turns: list[tuple[int, Instant, int, TenantQueue]] = []
    left: set[str] = set()
    for tenant in searched:
        queue = TenantQueue(tenant, due_in[tenant])
        if queue.heads and quotas.of(tenant) > 0:
            turns.append((1, *queue.heads[0][:2], queue))
        elif queue.heads:
            left.add(tenant)
    heapq.heapify(turns)
    found: list[Entry] = []
    while turns and len(found) < limit:
        turn, *_, queue = turns[0]
        found.append(queue.pop())
        if queue.heads and turn < quotas.of(queue.tenant):
            heapq.heapreplace(turns, (turn + 1, *queue.heads[0][:2], queue))
            continue
        heapq.heappop(turns)
        if queue.heads:
            left.add(queue.tenant)
    left.update(queue.tenant for *_, queue in turns)
    return found, frozenset(left), next_due


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
