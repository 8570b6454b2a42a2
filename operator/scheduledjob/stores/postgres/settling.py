"""Settling: an owner's writes of its rows, with the history that belongs to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scheduledjob.engine.store import Disposition, Key, Settlement

from .columns import Columns, collapse_constants, record_columns
from .connections import retry_deadlocks
from .part import PostgresPart
from .queries import SQL

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from scheduledjob.domain.schedule.state import RunRecord

    from .connections import Connection

CHUNK = 1000
"""The most settlements in one statement."""


class PostgresSettling(PostgresPart):
    """The part of the store that settles rows."""

    async def settle(self, replica: str, settlements: Sequence[Settlement]) -> list[bool]:
        results: list[bool] = []
        _, release, remove = Disposition
        for chunk in _chunks(settlements):
            # In the same order everywhere, so that two writers never wait for each other.
            in_order = sorted(chunk, key=_key)
            removed = [settlement for settlement in in_order if settlement.disposition is remove]
            settled = await self._settle("settle_removed", replica, removed) if removed else set()
            # A removal is also refused if the definition has changed: then the other query releases the row.
            written = [settlement for settlement in in_order if settlement.key not in settled]
            settled |= await self._settle("settle_written", replica, written) if written else set()
            results += [settlement.key in settled for settlement in chunk]
        released = (
            settlement.wake_at
            for settlement in settlements
            if settlement.disposition is release and settlement.wake_at is not None
        )
        if (due := min(released, default=None)) is not None:
            self._watermark.lower(due)
        return results

    @retry_deadlocks
    async def _settle(self, query: str, replica: str, chunk: list[Settlement]) -> set[Key]:
        columns: Columns = [
            [settlement.key for settlement in chunk],
            [settlement.version for settlement in chunk],
            [settlement.revision for settlement in chunk],
            *record_columns([settlement.records[0] if settlement.records else None for settlement in chunk]),
        ]
        if query == "settle_written":
            columns += [
                [settlement.disposition for settlement in chunk],
                [settlement.state for settlement in chunk],
                [settlement.wake_at for settlement in chunk],
                [settlement.payload for settlement in chunk],
                [settlement.result for settlement in chunk],
                [settlement.payload_base if settlement.writes_payload else -1 for settlement in chunk],
            ]
        columns = collapse_constants(columns)
        several = any(len(settlement.records) > 1 for settlement in chunk)
        async with self._pool.connection("completing") as connection:
            if not several:
                lines = await connection.fetch(SQL[query], self._installation, replica, *columns)
            else:
                async with connection.transaction():
                    lines = await connection.fetch(SQL[query], self._installation, replica, *columns)
                    await self._insert_further_records({line[0] for line in lines}, chunk, connection)
        return {line[0] for line in lines}

    async def _insert_further_records(self, settled: set[Key], chunk: list[Settlement], connection: Connection) -> None:
        """Write all records but each settlement's first, which the settling query writes. Few settlements have more."""
        records: list[RunRecord] = [
            record for settlement in chunk if settlement.key in settled for record in settlement.records[1:]
        ]
        if records:
            await connection.execute(SQL["insert_records"], self._installation, *record_columns(records))


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
