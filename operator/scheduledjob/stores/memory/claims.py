"""Claiming due rows in the memory store, and renewing the leases on them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from scheduledjob.engine.capacity import tenant_of
from scheduledjob.engine.store import COUNTED, Batch, Quotas, Renewal, Renewer

from .agendas import due_rows, due_rows_of_tenants, next_wake
from .database import MemoryDatabase, MemoryPart

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from scheduledjob.domain.time.instants import Instant, Micros
    from scheduledjob.engine.stored_row import Key, Row

    from .entries import Entry
    from .rows import Installation


class MemoryClaims(MemoryPart):
    """The part of the store that claims rows and renews leases."""

    async def claim(
        self,
        replica: str,
        kinds: Iterable[str],
        *,
        limit: int,
        ahead: Micros,
        lease: Micros,
        by: Instant | None = None,
        quotas: Quotas | None = None,
    ) -> Batch:
        """As ``Store.claim``; ``next_wake`` covers the given kinds only.

        A lease cannot be claimed ahead of its end, so in ``next_wake`` it counts as due later by ``ahead``. A replica
        that claims again at ``next_wake - ahead`` then finds the next row, whether a replica owns it or not.
        """
        tables = self._tables
        with self._lock:
            now = self._clock()
            agendas = tables.agendas_of(kinds)
            rows: list[Row] = []
            late = by is not None and now > by
            left, later = frozenset[str](), None
            due: Sequence[Entry] = ()
            if quotas is not None and not late:
                due, left, later = due_rows_of_tenants(agendas, ahead, now, limit, quotas, tables.tenant_search)
            elif not late:
                due = due_rows(agendas, now + ahead, now, limit)
            for entry in due:
                recovered, due_at = entry.owner is not None, entry.wake_at
                entry.owner = replica
                entry.version += 1
                entry.wake_at = now + lease
                row = entry.row(recovered)
                row.due_at = due_at
                rows.append(row)
            # Only now, because this claim must not find its own leases again.
            for row in rows:
                tables.enter(tables.slugs[row.slug])
            return Batch(rows, now, next_wake(agendas, now, ahead) if quotas is None else later, late, left)

    async def queue_position(self, row: Row) -> tuple[int, bool]:
        with self._lock:
            agendas = [agenda for agenda in self._tables.agendas_of([row.kind]) if not agenda.leases]
            before = sum(agenda.count_before(tenant_of(row), row.wake_at or 0, COUNTED) for agenda in agendas)
        return before + 1, before < COUNTED

    @asynccontextmanager
    async def renewer(self, replica: str) -> AsyncIterator[Renewer]:
        yield _MemoryRenewer(self._database, self._tables, replica)


class _MemoryRenewer:
    """Renews under the lock that the store uses, so any thread may call it."""

    def __init__(self, database: MemoryDatabase, tables: Installation, replica: str) -> None:
        self._database = database
        self._tables = tables
        self._replica = replica

    async def renew(self, owned: Sequence[tuple[Key, int]], lease: Micros) -> Renewal:
        revisions: dict[Key, int] = {}
        with self._database.lock:
            wake_at = self._database.clock() + lease
            for key, version in owned:
                entry = self._tables.owned(key, self._replica, version)
                if entry is not None:
                    entry.wake_at = wake_at
                    self._tables.enter(entry)
                    revisions[key] = entry.revision
        return Renewal(revisions)
