"""Finding what is due and taking it, for few reads and without a transaction.

A claim reads rows in order of ``wake_at`` and writes itself into each, on condition that the document is as it was
read. A failed condition is a row that somebody else has won, or a client has edited; it costs one read and nothing
more. So a row has one owner at a time whatever the replicas do.

What is read is billed, so the order of questions matters. A look reads one document: the one with the earliest
``wake_at``. It is either not due, and then says when to come back, or it is taken, and a second tells whether there
is more. Only then, or when the last batch was full, are the due rows asked for with the limit of the claim, and one
more document tells what comes after them. That is one read for a look in vain, at most two for each row taken, and
close to one when there are many. What is due soon is claimed ahead of its time, so the round trips delay nothing.

Replicas that look at once find the same rows, and whoever writes later loses all of them. The loser therefore goes on
from a random place among what is due, and begins there in its next claim too; as ids are hashes, a place in their
order splits even rows that are all due at one instant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scheduledjob.engine.store import Batch, Row, StoreUnavailable

from .layout import SCHEDULES, row_of
from .operations import MOST_ALTERNATIVES, Query, StoredDocument, Write
from .retrying import rng

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from scheduledjob.domain.time.instants import Instant, Micros

    from .clock import FirestoreClock
    from .owned_rows import OwnedRows
    from .wire import Wire

SPREAD = 4
"""How far, in portions like the one that was lost, a replica goes on behind it."""
ROUNDS = 6
"""How often one claim looks again for rows in place of those that others won."""
LONG_AGO: Instant = 0


class FirestoreClaims:
    """The claims of one process."""

    def __init__(self, wire: Wire, clock: FirestoreClock, owned: OwnedRows, shards: int) -> None:
        self._wire = wire
        self._clock = clock
        self._owned = owned
        self._shards = list(range(shards))
        self._full = False
        """The last batch was, so there is probably more."""
        self._lost: list[Instant] = []
        """``wake_at`` of the rows that were last lost to others, in order."""

    async def claim(
        self,
        replica: str,
        kinds: Iterable[str],
        *,
        limit: int,
        ahead: Micros,
        lease: Micros,
        by: Instant | None = None,
    ) -> Batch:
        """As ``Store.claim``; ``next_wake`` looks at the kinds asked for only.

        A lease can't be claimed ahead of its end, so there it counts as ``ahead`` later than it ends. A write that is
        held back on its way can do no more harm than one that is not: it is refused if its row has changed since it was
        read, and the lease that it gives ends as if it had not been late. So ``by`` bounds its beginning here.
        """
        began = self._clock.earliest()
        if by is not None and began > by:
            return Batch([], began, began, late=True)
        # The lease counts from here, because nothing was sent yet.
        jumps = self._clock.jumps
        lease_end = self._clock.latest() + lease
        groups = list(self._groups(kinds))
        rows: list[Row] = []
        next_wake: Instant | None = None
        for _ in range(ROUNDS):
            if len(rows) >= limit or not groups:
                break
            now = self._clock.earliest()
            start = self._somewhere(now + ahead)
            try:
                found, next_wake = await self._find(groups, now, ahead, limit - len(rows), start)
                taken = await self._take(found, replica, lease_end)
            except StoreUnavailable:
                if not rows:
                    raise
                break  # what was taken must reach its owner
            rows += taken.values()
            self._lost = [wake_of(each) for each in found if each.path not in taken]
            if not self._lost and start is None:
                break
        if self._clock.jumps != jumps:
            # The clock had stood still, so these leases may end before their owner would think. They are left to
            # pass: nothing of them has begun.
            return Batch([], self._clock.earliest(), self._clock.earliest())
        self._full = len(rows) >= limit
        return Batch(rows, self._clock.earliest(), None if self._full else next_wake)

    def _groups(self, kinds: Iterable[str]) -> Iterator[list[str]]:
        """The kinds in portions of what one query may ask for; nearly always that is all of them."""
        wanted = sorted(set(kinds))
        size = max(1, MOST_ALTERNATIVES // len(self._shards))
        for start in range(0, len(wanted), size):
            yield wanted[start : start + size]

    def _somewhere(self, horizon: Instant) -> tuple[Instant, str] | None:
        """A random place among what is due, when rows were lost last time; None: begin at the front."""
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
        """Rows to take, soonest first, and when to look for the next."""
        free: list[StoredDocument] = []
        next_wake: Instant | None = None
        for kinds in groups:
            due, beyond = await self._look(kinds, now, now + ahead, limit, start)
            free += [each for each in due if _free(each, now)]
            for each in [*due, *beyond]:
                wake_at = wake_of(each) + (ahead if _leased(each) else 0)
                if wake_at > now + ahead and (next_wake is None or wake_at < next_wake):
                    next_wake = wake_at
        free.sort(key=wake_of)
        if start is not None:
            # Only a part was looked at: what is next may be any time.
            next_wake = now + ahead
        return free[:limit], next_wake

    async def _look(
        self, kinds: list[str], now: Instant, horizon: Instant, limit: int, start: tuple[Instant, str] | None
    ) -> tuple[list[StoredDocument], list[StoredDocument]]:
        """The rows with ``wake_at`` within the horizon until ``limit`` are free, and at most one beyond it."""
        due: list[StoredDocument] = []
        if start is None and not self._full:
            while len(due) < min(2, limit):
                next_one = await self._query(kinds, limit=1, after=_place(due[-1]) if due else None)
                if not next_one or wake_of(next_one[0]) > horizon:
                    return due, next_one
                due += next_one
        while (missing := limit - sum(_free(each, now) for each in due)) > 0:
            after = _place(due[-1]) if due else start
            page = await self._query(kinds, limit=missing, after=after, most=horizon)
            due += page
            if len(page) < missing:
                return due, await self._query(kinds, limit=1, more=horizon) if start is None else []
        return due, []

    async def _query(self, kinds: list[str], *, limit: int, **bounds: Any) -> list[StoredDocument]:
        bounds.setdefault("least", None if bounds.keys() & {"more"} else LONG_AGO)
        return await self._wire.query(
            Query(SCHEDULES, "wake_at", within={"kind": kinds, "shard": self._shards}, limit=limit, **bounds)
        )

    async def _take(self, found: Sequence[StoredDocument], replica: str, lease_end: Instant) -> dict[str, Row]:
        """Write this replica into each; by path those that are its own now."""
        writes = [
            Write(
                each.path,
                {"owner": replica, "version": each.fields["version"] + 1, "wake_at": lease_end},
                ("owner", "version", "wake_at"),
                stamp=each.stamp,
            )
            for each in found
        ]
        stamps = await self._wire.batch_write(writes) if writes else []
        taken: dict[str, Row] = {}
        for document, write, stamp in zip(found, writes, stamps, strict=True):
            if stamp is None:
                continue
            recovered = _leased(document)
            document.fields |= write.fields or {}
            self._owned.see(document, stamp)
            row = row_of(document)
            row.recovered = recovered
            taken[document.path] = row
        return taken


def wake_of(document: StoredDocument) -> Instant:
    wake_at: Instant = document.fields["wake_at"]
    return wake_at


def _leased(document: StoredDocument) -> bool:
    return document.fields.get("owner") is not None


def _free(document: StoredDocument, now: Instant) -> bool:
    """A row that is owned is free only when its lease has passed, not ahead of that."""
    return not _leased(document) or wake_of(document) <= now


def _place(document: StoredDocument) -> tuple[Instant, str]:
    return wake_of(document), document.path
