"""Observations from a cluster: replicas write the objects that they see, and tombstones of those that are gone.

Nearly all observations are stored already, above all after a restart. So the server first returns those that differ,
without taking a lock. Only these rows are locked; the decision about them is made here, and then written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar
from zlib import crc32

import asyncpg

from scheduledjob.engine.store import NewRow, Put, StoreError
from scheduledjob.stores.tombstones import by_unique_slug, decide_upsert, tombstone_kept_for

from .columns import Columns, observed_columns, record_columns, row_of
from .connections import retry_deadlocks
from .queries import SQL
from .schedules import Changes, PostgresSchedules, cut_off_records, slugs_contended, time_limit

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .connections import Connection

_T = TypeVar("_T")


CHUNK = 1000
"""Objects in one statement."""

SLUG_LOCKS = 64
"""How many locks an installation's slugs share. A lock for each slug would overflow the server's lock table, and a
single lock would make replicas wait for each other."""

_ATTEMPTS = 3


class PostgresReconciling(PostgresSchedules):
    """The part of the store that a cluster's objects come through."""

    async def reconcile(self, rows: Sequence[NewRow]) -> list[Put]:
        by_slug = by_unique_slug(rows)
        results: dict[str, Put] = {}
        for _ in range(_ATTEMPTS):
            # In one order everywhere, so that two writers never wait for each other.
            differing = await self._find_differing([by_slug[slug] for slug in sorted(by_slug)])
            try:
                results = await self._reconcile(differing) if differing else {}
            except StoreError as error:
                if not isinstance(error.__cause__, asyncpg.UniqueViolationError):
                    raise
                continue  # a client that takes no lock on slugs has put one of them
            return [results.get(row.slug, Put.UNCHANGED) for row in rows]
        raise slugs_contended(self._server.address.shown)

    async def _find_differing(self, rows: Sequence[NewRow]) -> list[NewRow]:
        found: list[NewRow] = []
        for chunk in _chunks(rows):
            columns = zip(
                *((row.slug, row.uid, row.generation, row.kind, row.definition, row.requests) for row in chunk),
                strict=True,
            )
            async with self._pool.connection("reading schedules") as connection:
                lines = await connection.fetch(SQL["find_differing"], self._installation, *columns)
            places = {line[0] - 1 for line in lines}
            found += [row for place, row in enumerate(chunk) if place in places or row.first is not None]
        return found

    @retry_deadlocks
    async def _reconcile(self, rows: Sequence[NewRow]) -> dict[str, Put]:
        results: dict[str, Put] = {}
        changes = Changes()
        chunks = _chunks(rows)
        async with (
            self._pool.connection("writing schedules", time_limit(chunks, self._timeout)) as connection,
            connection.transaction(),
        ):
            await self._lock_slugs(connection, (row.slug for row in rows))
            for chunk in chunks:
                results |= await self._reconcile_chunk(connection, chunk, changes)
            await self._notify(connection, changes)
        self._lower_watermark(changes)
        return results

    async def _reconcile_chunk(
        self, connection: Connection, rows: Sequence[NewRow], changes: Changes
    ) -> dict[str, Put]:
        lines = await connection.fetch(SQL["lock_existing_rows"], self._installation, [row.slug for row in rows])
        existing = {row.slug: row for row in map(row_of, lines)}
        lines = await connection.fetch(SQL["select_tombstoned"], self._installation, [row.uid for row in rows])
        tombstoned = {line[0] for line in lines}
        results = {
            row.slug: decide_upsert(existing.get(row.slug), row, tombstoned=row.uid in tombstoned) for row in rows
        }
        new = [row for row in rows if results[row.slug] is Put.CREATED]
        replaced = [existing[row.slug] for row in new if row.slug in existing]
        if replaced:
            await self._end(connection, [(row.slug, row.uid) for row in replaced], changes)
        if new:
            await connection.execute(SQL["insert_observed_rows"], self._installation, *observed_columns(new))
            for row in new:
                changes.add(row.slug, False, row.wake_at)
        edited = [row for row in rows if results[row.slug] is Put.UPDATED]
        if edited:
            columns: Columns = [
                [existing[row.slug].key for row in edited],
                [row.kind for row in edited],
                [row.definition for row in edited],
                [row.first for row in edited],
                [row.requests for row in edited],
                [row.payload for row in edited],
                [row.generation for row in edited],
            ]
            for line in await connection.fetch(SQL["update_observed_rows"], self._installation, *columns):
                changes.add(*line)
        return results

    @retry_deadlocks
    async def tombstone(self, identities: Sequence[tuple[str, str]]) -> list[bool]:
        found: set[tuple[str, str]] = set()
        changes = Changes()
        chunks = _chunks(sorted(set(identities)))
        if chunks:
            async with (
                self._pool.connection("ending schedules", time_limit(chunks, self._timeout)) as connection,
                connection.transaction(),
            ):
                await self._lock_slugs(connection, (slug for slug, _ in identities))
                for chunk in chunks:
                    found |= await self._end(connection, chunk, changes)
                await self._notify(connection, changes)
            self._lower_watermark(changes)
        return [identity in found for identity in identities]

    async def _lock_slugs(self, connection: Connection, slugs: Iterable[str]) -> None:
        """Keep other replicas from creating or deleting rows of these slugs until the transaction ends."""
        numbers = sorted({crc32(slug.encode()) % SLUG_LOCKS for slug in slugs})
        await connection.execute(SQL["lock_slugs"], self._installation, numbers)

    async def _end(
        self, connection: Connection, identities: Sequence[tuple[str, str]], changes: Changes
    ) -> set[tuple[str, str]]:
        """Delete the rows that exist, write a tombstone for every identity, and return those that existed."""
        slugs, uids = zip(*identities, strict=True)
        deleted = await connection.fetch(SQL["delete_rows_of_uids"], self._installation, slugs, uids)
        records = [record for line in deleted for record in cut_off_records(line)]
        if records:
            await connection.execute(SQL["insert_records"], self._installation, *record_columns(records))
        kept = dict.fromkeys(sorted(uids), tombstone_kept_for(""))
        kept |= {line["uid"]: tombstone_kept_for(line["definition"]) for line in deleted}
        await connection.execute(SQL["upsert_tombstones"], self._installation, list(kept), list(kept.values()))
        changes.changed += [line["slug"] for line in deleted]
        return {(line["slug"], line["uid"]) for line in deleted}

    @retry_deadlocks
    async def touch(self, slugs: Sequence[str]) -> None:
        changes = Changes()
        chunks = _chunks(sorted(set(slugs)))
        if not chunks:
            return
        async with (
            self._pool.connection("writing schedules", time_limit(chunks, self._timeout)) as connection,
            connection.transaction(),
        ):
            for chunk in chunks:
                for line in await connection.fetch(SQL["touch_rows"], self._installation, chunk):
                    changes.add(*line)
            await self._notify(connection, changes)
        self._lower_watermark(changes)


def _chunks(rows: Sequence[_T]) -> list[Sequence[_T]]:
    return [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
