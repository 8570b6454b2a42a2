"""Claiming due rows with few reads and without a transaction, and renewing the leases on them.

A claim reads rows in order of ``wake_at`` and writes the replica as owner into each, on condition that the document
is as it was read. If the condition fails, another replica has won the row or a client has edited it; that costs one
read. So a row has one owner at a time, whatever the replicas do.

Each document that is read is billed, so the order of the queries matters. A claim first reads one document, the one
with the earliest ``wake_at``. If it is not due, it shows when to poll again. If it is due, the claim takes it, and a
second document shows whether there is more. Only then, or if the last batch was full, the claim reads the due rows up
to its limit, and one more document that shows when the next is due. So a claim that finds nothing costs one read, and
each claimed row at most two, or little more than one if there are many. Rows that are due soon are claimed ahead of
time, so these round trips delay nothing.

Replicas that claim at the same time find the same rows, and the one that writes later loses them all. So the loser
continues at a random place among the due rows, and starts there in its next claim too. As ids are hashes, such a place
splits even rows that are all due at the same instant.

A claim with quotas reads the due rows of each tenant by themselves. Some of its reads look for tenants that nobody has
named yet, a few in each claim, in turns. A row that an older version wrote says nothing of its tenant. It is found at
the front of all due rows, and the claim that takes it adds the tenant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scheduledjob.engine.capacity import tenant_of
from scheduledjob.engine.store import Batch, Quotas, Renewal, StoreUnavailable
from scheduledjob.engine.stored_row import DEFAULT_TENANT, Key, Row

from .layout import SCHEDULES, path_of, row_of
from .operations import MAX_ALTERNATIVES, Query, StoredDocument, Write
from .owned_rows import FIELDS, UNKNOWN, owned_by
from .retrying import gather_all, pause, rng

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from scheduledjob.domain.time.instants import Instant, Micros

    from .clock import FirestoreClock
    from .owned_rows import KnownRow, OwnedRows
    from .wire import Wire

SPREAD = 4
"""How far behind the lost rows a replica continues at most, as a multiple of the time that they span."""
ROUNDS = 6
"""How often one claim queries again for rows in place of those that other replicas won."""
RENEWAL_ATTEMPTS = 8
"""How often one call renews rows again that others keep changing."""
LONG_AGO: Instant = 0
TENANTS_SEARCHED = 16
"""How many tenants without a quota of their own one claim looks for."""
FRONT = 4
"""How many rows at the front of all due rows a claim with quotas reads."""
POSITIONS = 50
"""How many rows of a queue are counted. Each is a read."""
PARALLEL = 8
"""How many queries of one claim run at the same time."""


class FirestoreClaims:
    """The claims of one process."""

    def __init__(self, wire: Wire, clock: FirestoreClock, owned: OwnedRows, shards: int) -> None:
        self._wire = wire
        self._clock = clock
        self._owned = owned
        self._shards = list(range(shards))
        self._full = False
        """The last batch was full, so more rows are probably due."""
        self._lost: list[Instant] = []
        """``wake_at`` of the rows that other replicas won in the last round, in order."""
        self._searched = ""
        """The tenant after which the next claim with quotas begins to look for others."""

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

        A lease cannot be claimed ahead of its end, so in ``next_wake`` it counts as due later by ``ahead``. Here ``by``
        limits the time at which the claim starts. A write that is delayed does no harm: it is refused if its row has
        changed since it was read, and its lease ends as if it had not been delayed.
        """
        began = self._clock.earliest()
        if by is not None and began > by:
            return Batch([], began, began, late=True)
        # The lease starts here, before anything is sent.
        jumps = self._clock.jumps
        lease_end = self._clock.latest() + lease
        groups = list(self._groups(kinds))
        if quotas is not None:
            return await self._claim_fairly(replica, groups, quotas, limit, ahead, lease_end, jumps)
        rows: list[Row] = []
        next_wake: Instant | None = None
        for _ in range(ROUNDS):
            if len(rows) >= limit or not groups:
                break
            now = self._clock.earliest()
            start = self._random_start(now + ahead)
            try:
                found, next_wake = await self._find(groups, now, ahead, limit - len(rows), start)
                taken = await self._take(found, replica, lease_end)
            except StoreUnavailable:
                if not rows:
                    raise
                break  # return the rows that are claimed already
            rows += taken.values()
            self._lost = [wake_of(document) for document in found if document.path not in taken]
            if not self._lost and start is None:
                break
        if self._clock.jumps != jumps:
            # The clock stood still, so these leases may end earlier than the replica would expect. Let them end, as no
            # run of these rows has started.
            return Batch([], self._clock.earliest(), self._clock.earliest())
        self._full = len(rows) >= limit
        return Batch(rows, self._clock.earliest(), None if self._full else next_wake)

    async def _claim_fairly(
        self,
        replica: str,
        groups: Sequence[list[str]],
        quotas: Quotas,
        limit: int,
        ahead: Micros,
        lease_end: Instant,
        jumps: int,
    ) -> Batch:
        now = self._clock.earliest()
        horizon = now + ahead
        quota_of = dict.fromkeys(await self._other_tenants(groups), quotas.others) | quotas.tenants
        by_tenant: dict[str, list[StoredDocument]] = {}
        for front in [await self._query(kinds, limit=FRONT, most=horizon) for kinds in groups]:
            for document in front:
                if "tenant" not in document.fields and _is_free(document, now):
                    tenant = tenant_of(row_of(document))
                    by_tenant.setdefault(tenant, []).append(document)
                    quota_of.setdefault(tenant, quotas.others)
        asked = [(tenant, kinds) for tenant in quota_of for kinds in groups]
        for start in range(0, len(asked), PARALLEL):
            part = asked[start : start + PARALLEL]
            found = await gather_all(
                [
                    self._query(kinds, limit=min(quota_of[tenant], limit) + 1, most=horizon, tenant=tenant)
                    for tenant, kinds in part
                ]
            )
            for (tenant, _), page in zip(part, found, strict=True):
                by_tenant.setdefault(tenant, []).extend(document for document in page if _is_free(document, now))
        left: set[str] = set()
        turns: list[tuple[int, Instant, StoredDocument]] = []
        for tenant, due in by_tenant.items():
            due.sort(key=wake_of)
            quota = quota_of[tenant]
            if len(due) > quota:
                left.add(tenant)
            turns += [(turn, wake_of(document), document) for turn, document in enumerate(due[:quota])]
        turns.sort(key=lambda turn: turn[:2])
        left |= {tenant_of(row_of(document)) for *_, document in turns[limit:]}
        taken = await self._take([document for *_, document in turns[:limit]], replica, lease_end)
        if self._clock.jumps != jumps:
            return Batch([], self._clock.earliest(), self._clock.earliest())  # as in ``claim``
        next_wake: Instant | None = None
        for page in [await self._query(kinds, limit=1, more=horizon) for kinds in groups]:
            for document in page:
                wake_at = wake_of(document) + (ahead if _is_owned(document) else 0)
                next_wake = wake_at if next_wake is None else min(next_wake, wake_at)
        return Batch(list(taken.values()), self._clock.earliest(), next_wake, left=frozenset(left))

    async def _other_tenants(self, groups: Sequence[list[str]]) -> set[str]:
        """Return the next tenants that have rows, in turns. Each costs a read."""
        found: set[str] = set()
        for _ in range(TENANTS_SEARCHED):
            pages = await gather_all([self._next_tenant(kinds) for kinds in groups])
            following = [str(document.fields["tenant"]) for page in pages for document in page]
            if not following:
                # From the start again. "" sorts before every tenant's name, so it is named by itself.
                self._searched = ""
                found.add(DEFAULT_TENANT)
                break
            self._searched = min(following)
            found.add(self._searched)
        return found

    async def _next_tenant(self, kinds: list[str]) -> list[StoredDocument]:
        return await self._wire.query(
            Query(SCHEDULES, "tenant", within={"kind": kinds, "shard": self._shards}, limit=1, more=self._searched)
        )

    async def queue_position(self, row: Row) -> tuple[int, bool]:
        most = (row.wake_at or 0) - 1
        found = await self._query([row.kind], limit=POSITIONS, most=most, tenant=tenant_of(row))
        return sum(not _is_owned(document) for document in found) + 1, len(found) < POSITIONS

    def _groups(self, kinds: Iterable[str]) -> Iterator[list[str]]:
        """Split the kinds into groups that fit into one query; nearly always there is only one group."""
        wanted = sorted(set(kinds))
        size = max(1, MAX_ALTERNATIVES // len(self._shards))
        for start in range(0, len(wanted), size):
            yield wanted[start : start + size]

    def _random_start(self, horizon: Instant) -> tuple[Instant, str] | None:
        """Return a random place among the due rows if rows were lost last time; None: start at the front."""
        if not self._lost:
            return None
        first, last = self._lost[0], self._lost[-1]
        if 2 * self._lost.count(last) >= len(self._lost):
            wake_at = last  # many are due at one instant, perhaps many more
        else:
            wake_at = min(horizon, last + int(rng.random() * SPREAD * (last - first)))
        return wake_at, f"{SCHEDULES}/{rng.getrandbits(160):040x}"

    async def _find(
        self, groups: Sequence[list[str]], now: Instant, ahead: Micros, limit: int, start: tuple[Instant, str] | None
    ) -> tuple[list[StoredDocument], Instant | None]:
        """Return the rows to claim, the soonest first, and when the next is due."""
        free: list[StoredDocument] = []
        next_wake: Instant | None = None
        for kinds in groups:
            due, beyond = await self._find_due(kinds, now, now + ahead, limit, start)
            free += [document for document in due if _is_free(document, now)]
            for document in [*due, *beyond]:
                wake_at = wake_of(document) + (ahead if _is_owned(document) else 0)
                if wake_at > now + ahead and (next_wake is None or wake_at < next_wake):
                    next_wake = wake_at
        free.sort(key=wake_of)
        if start is not None:
            # The rows before that place were not read, so the next may be due at any time.
            next_wake = now + ahead
        return free[:limit], next_wake

    async def _find_due(
        self, kinds: list[str], now: Instant, horizon: Instant, limit: int, start: tuple[Instant, str] | None
    ) -> tuple[list[StoredDocument], list[StoredDocument]]:
        """Return rows due by ``horizon``, until ``limit`` of them are free, and at most one that is due later."""
        due: list[StoredDocument] = []
        if start is None and not self._full:
            while len(due) < min(2, limit):
                following = await self._query(kinds, limit=1, after=_place(due[-1]) if due else None)
                if not following or wake_of(following[0]) > horizon:
                    return due, following
                due += following
        while (missing := limit - sum(_is_free(document, now) for document in due)) > 0:
            after = _place(due[-1]) if due else start
            page = await self._query(kinds, limit=missing, after=after, most=horizon)
            due += page
            if len(page) < missing:
                return due, await self._query(kinds, limit=1, more=horizon) if start is None else []
        return due, []

    async def _query(
        self, kinds: list[str], *, limit: int, tenant: str | None = None, **bounds: Any
    ) -> list[StoredDocument]:
        bounds.setdefault("least", None if bounds.keys() & {"more"} else LONG_AGO)
        query = Query(SCHEDULES, "wake_at", within={"kind": kinds, "shard": self._shards}, limit=limit, **bounds)
        if tenant is not None:
            query.equals["tenant"] = tenant
        return await self._wire.query(query)

    async def _take(self, found: Sequence[StoredDocument], replica: str, lease_end: Instant) -> dict[str, Row]:
        """Write the replica as owner into each row, and return by path those that it won."""
        writes = [
            Write(
                document.path,
                {
                    "owner": replica,
                    "version": document.fields["version"] + 1,
                    "wake_at": lease_end,
                    "tenant": tenant_of(row_of(document)),
                },
                ("owner", "version", "wake_at", "tenant"),
                stamp=document.stamp,
            )
            for document in found
        ]
        stamps = await self._wire.batch_write(writes) if writes else []
        taken: dict[str, Row] = {}
        for document, write, stamp in zip(found, writes, stamps, strict=True):
            if stamp is None:
                continue
            recovered, due_at = _is_owned(document), wake_of(document)
            document.fields |= write.fields or {}
            self._owned.remember(document, stamp)
            row = row_of(document)
            row.recovered, row.due_at = recovered, due_at
            taken[document.path] = row
        return taken


class FirestoreRenewer:
    """Renews leases over its own wire, which is opened in the lease thread's event loop.

    The end of a lease is the latest time at which the renewal can have started, plus the lease (``clock`` says why).
    Each row is renewed on its own: those that others keep writing are reported as busy, and cost the others nothing.
    """

    def __init__(self, wire: Wire, clock: FirestoreClock, owned: OwnedRows, replica: str) -> None:
        self._wire = wire
        self._clock = clock
        self._owned = owned
        self._replica = replica

    async def renew(self, owned: Sequence[tuple[Key, int]], lease: Micros) -> Renewal:
        revisions: dict[Key, int] = {}
        began = self._clock.reading()
        todo = dict(owned)
        await self._read({key: version for key, version in owned if self._known(key, version) is None}, todo)
        for attempt in range(RENEWAL_ATTEMPTS):
            if not todo:
                break
            jumps = self._clock.jumps
            # The lease starts when the call does, as its owner reckons.
            until = self._clock.latest(began) + lease
            try:
                renewed, refused = await self._write(todo, until)
                if self._clock.jumps == jumps:
                    for key in renewed:
                        revisions[key] = renewed[key]
                        del todo[key]
                # Otherwise the clock stood still and ``until`` was too early, so these rows are written again.
                if todo:
                    await self._read({key: todo[key] for key in refused}, todo)
                    await pause(attempt)
            except StoreUnavailable:
                if not revisions:
                    raise
                break  # what was renewed counts
        return Renewal(revisions, todo.keys())

    async def _write(self, owned: dict[Key, int], until: Instant) -> tuple[dict[Key, int], list[Key]]:
        """Return the revisions of the rows that were renewed, and the keys of those that were refused."""
        writes: list[Write] = []
        revisions: dict[Key, int] = {}
        for key, version in owned.items():
            known = self._known(key, version) or UNKNOWN
            revisions[key] = known.revision
            writes.append(Write(path_of(key), {"wake_at": until}, ("wake_at",), stamp=known.stamp))
        refused: list[Key] = []
        for key, stamp in zip(list(revisions), await self._wire.batch_write(writes), strict=True):
            if stamp is None:
                refused.append(key)
                del revisions[key]
            else:
                self._owned.renewed(key, stamp)
        return revisions, refused

    def _known(self, key: Key, version: int) -> KnownRow | None:
        return self._owned.get(key, self._replica, version)

    async def _read(self, unknown: dict[Key, int], todo: dict[Key, int]) -> None:
        """Read rows again, and remove those from ``todo`` that the replica no longer owns."""
        if not unknown:
            return
        documents = await self._wire.get([path_of(key) for key in unknown], FIELDS)
        for key, version in unknown.items():
            document = documents.get(path_of(key))
            if document is not None and owned_by(document, key, self._replica, version):
                self._owned.remember(document)
            else:
                del todo[key]


def wake_of(document: StoredDocument) -> Instant:
    wake_at: Instant = document.fields["wake_at"]
    return wake_at


def _is_owned(document: StoredDocument) -> bool:
    return document.fields.get("owner") is not None


def _is_free(document: StoredDocument, now: Instant) -> bool:
    """Return whether the row may be claimed. An owned row may be claimed only after its lease has ended."""
    return not _is_owned(document) or wake_of(document) <= now


def _place(document: StoredDocument) -> tuple[Instant, str]:
    return wake_of(document), document.path
