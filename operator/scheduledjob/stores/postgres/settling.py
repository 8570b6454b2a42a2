"""Settling: an owner's writes of its rows, with the history that belongs to them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from scheduledjob.engine.store import StoreUnavailable
from scheduledjob.engine.stored_row import Disposition, Key, Settlement

from .columns import SLUG, Columns, collapse_constants, record_columns
from .connections import retry_rollbacks, waited_in_vain
from .part import PostgresPart
from .queries import SQL

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from scheduledjob.domain.schedule.state import RunRecord

    from .connections import Connection

CHUNK = 1000
"""The most settlements in one statement."""

SKIP_LOCKED_FOR = 5.0
"""For so many seconds after a wait for a client's lock, writes leave out locked rows. Each row costs a lock then."""

MIN_RATE = 64 * 1024
"""Bytes that a link to the server carries in a second at least. A large write takes longer on a slower one than its
time limit."""

# Looked up for each settlement, see `engine/ownership.py`.
_, RELEASE, REMOVE = Disposition

_queries = {
    (query, of_free): SQL[query].format(of_free=of_free)
    for query in ("settle_removed", "settle_written")
    for of_free in ("", SQL["of_free_rows"])
}


class PostgresSettling(PostgresPart):
    """The part of the store that settles rows."""

    _clients_lock_until = float("-inf")
    """Until this second of the monotonic clock, statements leave out the rows that clients have locked."""

    async def settle(self, replica: str, settlements: Sequence[Settlement]) -> list[bool | None]:
        results: list[bool | None] = []
        for chunk in _chunks(settlements):
            try:
                results += await self._settle_chunk(replica, chunk)
            except StoreUnavailable as error:
                if not waited_in_vain(error):
                    raise
                self._clients_lock_until = time.monotonic() + SKIP_LOCKED_FOR
                results += await self._settle_chunk(replica, chunk)
        released = (
            settlement.wake_at
            for settlement in settlements
            if settlement.disposition is RELEASE and settlement.wake_at is not None
        )
        if (due := min(released, default=None)) is not None:
            self._watermark.lower(due)
        return results

    async def _settle_chunk(self, replica: str, chunk: list[Settlement]) -> list[bool | None]:
        # In the same order everywhere, so that two writers never wait for each other.
        in_order = sorted(chunk, key=_key)
        only_free = time.monotonic() < self._clients_lock_until
        of_free = SQL["of_free_rows"] if only_free else ""
        removed = [settlement for settlement in in_order if settlement.disposition is REMOVE]
        settled = await self._settle("settle_removed", of_free, replica, removed) if removed else set()
        # A removal is also refused if the definition has changed: then the other query releases the row.
        written = [settlement for settlement in in_order if settlement.key not in settled]
        settled |= await self._settle("settle_written", of_free, replica, written) if written else set()
        if len(settled) == len(chunk):
            return [True] * len(chunk)
        left = [settlement for settlement in in_order if settlement.key not in settled] if only_free else []
        owned = await self._find_owned(replica, left) if left else set()
        return [
            True if settlement.key in settled else None if settlement.key in owned else False for settlement in chunk
        ]

    async def _find_owned(self, replica: str, settlements: list[Settlement]) -> set[Key]:
        """Return the rows that the replica still owns at the settlements' versions: they were left out, not refused."""
        columns = [[settlement.key for settlement in settlements], [settlement.version for settlement in settlements]]
        async with self._pool.connection("completing") as connection:
            lines = await connection.fetch(SQL["select_owned"], self._installation, replica, *columns)
        return {line[0] for line in lines}

    @retry_rollbacks(waits=0)
    async def _settle(self, query: str, of_free: str, replica: str, chunk: list[Settlement]) -> set[Key]:
        records = record_columns([settlement.records[0] if settlement.records else None for settlement in chunk])
        self.history_grew.add(filter(None, records[SLUG]))
        columns: Columns = [
            [settlement.key for settlement in chunk],
            [settlement.version for settlement in chunk],
            [settlement.revision for settlement in chunk],
            *records,
        ]
        size = 0
        if query == "settle_written":
            payloads = [settlement.payload for settlement in chunk]
            results = [settlement.result for settlement in chunk]
            size = sum(map(len, filter(None, payloads))) + sum(map(len, filter(None, results)))
            columns += [
                [settlement.disposition for settlement in chunk],
                [settlement.state for settlement in chunk],
                [settlement.wake_at for settlement in chunk],
                payloads,
                results,
                [settlement.payload_base if settlement.writes_payload else -1 for settlement in chunk],
            ]
        columns = collapse_constants(columns)
        several = any(len(settlement.records) > 1 or settlement.hooks for settlement in chunk)
        sql = _queries[query, of_free]
        lend = self._pool.transaction if several or self._server.pooled else self._pool.connection
        async with lend("completing", self._timeout + size / MIN_RATE) as connection:
            lines = await connection.fetch(sql, self._installation, replica, *columns)
            if several:
                await self._insert_rest({line[0] for line in lines}, chunk, connection)
        return {line[0] for line in lines}

    async def _insert_rest(self, settled: set[Key], chunk: list[Settlement], connection: Connection) -> None:
        """Write all records but each settlement's first, which the settling query writes, and the calls of hooks.

        Few settlements have any of these.
        """
        records: list[RunRecord] = [
            record for settlement in chunk if settlement.key in settled for record in settlement.records[1:]
        ]
        if records:
            await connection.execute(SQL["insert_records"], self._installation, *record_columns(records))
        calls = [
            (call.run_id, call.number, call.slug, call.uid, call.data)
            for settlement in chunk
            if settlement.key in settled
            for call in settlement.hooks
        ]
        if calls:
            await connection.execute(SQL["insert_hook_calls"], self._installation, *zip(*calls, strict=True))


def _key(settlement: Settlement) -> int:
    return int(settlement.key)


def _chunks(settlements: Sequence[Settlement]) -> Iterator[list[Settlement]]:
    """Split into chunks for one statement each; two settlements of the same row are never in one chunk."""
    chunk: dict[Key, Settlement] = {}
    for settlement in settlements:
        if settlement.key in chunk or len(chunk) == CHUNK:
            yield list(chunk.values())
            chunk = {}
        chunk[settlement.key] = settlement
    if chunk:
        yield list(chunk.values())
