"""History: reads and prunes the records of ended runs.

A settlement already knows which runs newer ones push out (``layout`` says how), so dropping them reads nothing.
Expired runs are found by a query. It is made when a run that this process recorded expires, and otherwise once an
hour, because the processes that recorded the other runs may be gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scheduledjob.domain.time.instants import DAY, HOUR

from .layout import REPLICAS, RUNS, SCHEDULES, is_row, record_of, run_path
from .operations import Query, StoredDocument, Write

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Sequence

    from scheduledjob.domain.schedule.state import RunRecord
    from scheduledjob.domain.time.instants import Instant

    from .clock import FirestoreClock
    from .wire import Wire

LONG_AGO: Instant = 0


class FirestoreHistory:
    """The ended runs of one installation."""

    def __init__(self, wire: Wire, clock: FirestoreClock, shards: int, surplus: deque[str]) -> None:
        self._wire = wire
        self._clock = clock
        self._shards = list(range(shards))
        self._surplus = surplus
        self._expires: Instant = LONG_AGO
        """When to query for expired runs again."""
        self._next_tombstone_query: Instant = LONG_AGO
        self._next_replica_query: Instant = LONG_AGO

    def note(self, records: Sequence[RunRecord]) -> None:
        """Take in that this process has recorded these runs."""
        for record in records:
            self._expires = min(self._expires, record.expires)

    async def newest(self, slug: str | None, uid: str | None, before: Instant | None, limit: int) -> list[RunRecord]:
        """Return the newest runs. A slug has few uids, so runs of others are read and skipped, without an index."""
        query = Query(RUNS, "finished", descending=True, less=before, limit=limit)
        if slug is None:
            query.within["shard"] = self._shards
        else:
            query.equals["slug"] = slug
        found: list[RunRecord] = []
        while len(found) < limit:
            page = await self._wire.query(query)
            found += [record for record in map(record_of, page) if uid in {None, record.uid}]
            if len(page) < limit:
                break
            query.after = (page[-1].fields["finished"], page[-1].path)
        return found[:limit]

    async def recorded(self, run_ids: Sequence[str]) -> set[str]:
        found = await self._wire.get([run_path(run_id) for run_id in dict.fromkeys(run_ids)], ())
        return {run_id for run_id in run_ids if run_path(run_id) in found}

    async def prune(self, limit: int) -> int:
        paths: list[str] = []
        while self._surplus and len(paths) < limit:
            paths.append(self._surplus.popleft())
        now = self._clock.earliest()
        if self._expires <= now and len(paths) < limit:
            expired = await self._expired(now, limit - len(paths))
            known = set(paths)
            paths += [document.path for document in expired if document.path not in known]
        dropped = await self._drop(paths)
        await self._drop_expired_tombstones(now, limit)
        await self._drop_dead_replicas(now)
        return dropped

    async def _expired(self, now: Instant, limit: int) -> list[StoredDocument]:
        query = Query(RUNS, "expires", within={"shard": self._shards}, most=now, limit=limit)
        expired = await self._wire.query(query)
        if len(expired) < limit:
            self._expires = now + HOUR
        return expired

    async def _drop(self, paths: Sequence[str]) -> int:
        """Delete the documents, and return how many existed; another replica may have deleted some."""
        stamps = await self._wire.batch_write([Write(path, exists=True) for path in paths]) if paths else []
        return sum(stamp is not None for stamp in stamps)

    async def _drop_expired_tombstones(self, now: Instant, limit: int) -> None:
        """Delete documents that hold nothing but expired tombstones."""
        if now < self._next_tombstone_query:
            return
        query = Query(SCHEDULES, "forget_at", within={"shard": self._shards}, most=now, limit=limit)
        tombstones = [document for document in await self._wire.query(query) if not is_row(document)]
        await self._wire.batch_write([Write(tombstone.path, stamp=tombstone.stamp) for tombstone in tombstones])
        if len(tombstones) < limit:
            self._next_tombstone_query = now + HOUR

    async def _drop_dead_replicas(self, now: Instant) -> None:
        """Delete replicas that stopped without withdrawing, at least a day ago."""
        if now < self._next_replica_query:
            return
        self._next_replica_query = now + HOUR
        dead = await self._wire.query(Query(REPLICAS, "seen_at", most=now - DAY, limit=100))
        if dead:
            await self._wire.batch_write([Write(document.path, stamp=document.stamp) for document in dead])
