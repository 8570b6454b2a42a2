"""History: reading it, and dropping what its records say need not be kept.

Which runs newer ones have pushed out is known where they were settled (``layout`` says how), so dropping them reads
nothing. What has expired is found by a query; it is asked when something that this process has recorded expires,
else once an hour, because every process may be the one that is left.
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
        """When to look for expired runs again."""
        self._looks_for_tombstones: Instant = LONG_AGO
        self._looks_for_replicas: Instant = LONG_AGO

    def note(self, records: Sequence[RunRecord]) -> None:
        """This process has recorded these."""
        for record in records:
            self._expires = min(self._expires, record.expires)

    async def newest(self, slug: str | None, uid: str | None, before: Instant | None, limit: int) -> list[RunRecord]:
        """One slug has few uids and not many runs, so those of another uid are read and passed over: no index more."""
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
        there = await self._wire.get([run_path(name) for name in dict.fromkeys(run_ids)], ())
        return {name for name in run_ids if run_path(name) in there}

    async def prune(self, limit: int) -> int:
        paths: list[str] = []
        while self._surplus and len(paths) < limit:
            paths.append(self._surplus.popleft())
        now = self._clock.earliest()
        if self._expires <= now and len(paths) < limit:
            expired = await self._expired(now, limit - len(paths))
            known = set(paths)
            paths += [document.path for document in expired if document.path not in known]
        gone = await self._drop(paths)
        await self._drop_graves(now, limit)
        await self._drop_replicas(now)
        return gone

    async def _expired(self, now: Instant, limit: int) -> list[StoredDocument]:
        query = Query(RUNS, "expires", within={"shard": self._shards}, most=now, limit=limit)
        expired = await self._wire.query(query)
        if len(expired) < limit:
            self._expires = now + HOUR
        return expired

    async def _drop(self, paths: Sequence[str]) -> int:
        """Delete what is there; another replica may have been quicker."""
        stamps = await self._wire.batch_write([Write(path, exists=True) for path in paths]) if paths else []
        return sum(stamp is not None for stamp in stamps)

    async def _drop_graves(self, now: Instant, limit: int) -> None:
        """Forget slugs of which nothing is left but uids that may be taken again."""
        if now < self._looks_for_tombstones:
            return
        query = Query(SCHEDULES, "forget_at", within={"shard": self._shards}, most=now, limit=limit)
        tombstones = [document for document in await self._wire.query(query) if not is_row(document)]
        await self._wire.batch_write([Write(tombstone.path, stamp=tombstone.stamp) for tombstone in tombstones])
        if len(tombstones) < limit:
            self._looks_for_tombstones = now + HOUR

    async def _drop_replicas(self, now: Instant) -> None:
        """Forget replicas that ended without saying so, a day after."""
        if now < self._looks_for_replicas:
            return
        self._looks_for_replicas = now + HOUR
        gone = await self._wire.query(Query(REPLICAS, "seen_at", most=now - DAY, limit=100))
        if gone:
            await self._wire.batch_write([Write(document.path, stamp=document.stamp) for document in gone])
