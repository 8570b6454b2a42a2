"""History: reads and prunes the records of ended runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .columns import record_of
from .part import PostgresPart
from .queries import SQL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.domain.schedule.state import RunRecord
    from scheduledjob.domain.time.instants import Instant

    from .connections import Connection

_FOREVER: Instant = 2**63 - 1
_LAST_SLUG = "\U0010ffff" * 8
"""Sorts after every slug in use."""

EXAMINED = 20
"""How many records ``prune`` examines for each one that it may drop, while it examines the whole history."""


class PostgresHistory(PostgresPart):
    """The part of the store that keeps history."""

    _prune_from = _LAST_SLUG
    _prune_more = 1

    async def history(
        self, slug: str | None = None, *, uid: str | None = None, before: Instant | None = None, limit: int = 100
    ) -> list[RunRecord]:
        end = _FOREVER if before is None else before
        async with self._pool.connection("reading history") as connection:
            if slug is None:
                lines = await connection.fetch(SQL["select_history"], self._installation, end, limit)
            else:
                lines = await connection.fetch(SQL["select_history_of_slug"], self._installation, end, limit, slug, uid)
        return [record_of(line) for line in lines]

    async def recorded(self, run_ids: Sequence[str]) -> set[str]:
        async with self._pool.connection("reading history") as connection:
            found = await connection.fetch(SQL["select_recorded"], self._installation, run_ids)
        return {record[0] for record in found}

    async def prune(self, limit: int = 1000) -> int:
        """Drop at most ``limit`` records that have expired or that newer ones push out, and return how many.

        Records are pushed out only by a new record of the same slug. So the replica that wrote it looks there, and what
        a call costs follows from what has ended and expired since. But a replica may have died before it looked. So
        each store examines the whole history once, in parts that are sized by ``limit``.
        """
        async with self._pool.transaction("pruning history") as connection:
            if not await connection.fetchval(SQL["try_lock_pruning"], self._installation):
                return 0
            await connection.execute(SQL["delete_expired_tombstones"], self._installation, limit)
            dropped: int = await connection.fetchval(SQL["prune_expired"], self._installation, limit)
            dropped += await self._prune_grown(connection, limit - dropped)
            if dropped < limit and not self.history_grew.examined:
                dropped += await self._examine_part(connection, limit - dropped)
        return dropped

    async def _prune_grown(self, connection: Connection, limit: int) -> int:
        """Drop what new records of this store push out."""
        slugs = self.history_grew.take(max(0, limit))
        if not slugs:
            return 0
        dropped: int = await connection.fetchval(SQL["prune_slugs"], self._installation, slugs, limit)
        if dropped == limit:
            self.history_grew.add(slugs)  # there may be more to drop
        return dropped

    async def _examine_part(self, connection: Connection, limit: int) -> int:
        """Examine part of history from where the last call stopped, and return how many records were dropped."""
        examined = EXAMINED * limit * self._prune_more
        record = await connection.fetchrow(SQL["prune_history"], self._installation, self._prune_from, examined, limit)
        assert record is not None  # an aggregate
        dropped, seen, last = record
        if dropped == limit:
            return limit  # there may be more to drop in this part
        if seen < examined:
            self._prune_from, self._prune_more = _LAST_SLUG, 1
            self.history_grew.examined = True
        elif last == self._prune_from:  # one slug fills the whole part and has nothing to drop: examine more
            self._prune_more *= 2
        else:
            self._prune_from, self._prune_more = last, 1
        return int(dropped)
