"""Observations from a cluster: replicas write the objects that they see, and tombstones of those that are gone.

Nearly all observations are stored already, above all after a restart. So the server first returns those that differ,
without taking a lock. Only these rows are locked; the decision about them is made here, and then written.

A row that a client has locked is left out, and written by itself when all others are, as is one that is deleted or
touched. So all or none holds for the rows of one chunk that nobody has locked, and a call that fails because of a lock
has written every other row.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar
from zlib import crc32

import asyncpg

from scheduledjob.domain.schedule.requests import merged
from scheduledjob.engine.store import Put, StoreError, StoreUnavailable
from scheduledjob.stores.tombstones import by_unique_slug, decide_upsert, tombstone_kept_for

from .columns import Columns, observed_columns, record_columns, row_of
from .connections import retry_rollbacks, waited_in_vain
from .queries import SQL
from .schedules import Changes, PostgresSchedules, cut_off_records, slugs_contended

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    from scheduledjob.engine.stored_row import NewRow

    from .connections import Connection

_T = TypeVar("_T")
_R = TypeVar("_R")


CHUNK = 1000
"""Objects in one transaction."""

SLUG_LOCKS = 64
"""How many locks an installation's slugs share. A lock for each slug would overflow the server's lock table, and a
single lock would make replicas wait for each other."""

_ATTEMPTS = 3

_patient = retry_rollbacks()


class PostgresReconciling(PostgresSchedules):
    """The part of the store that a cluster's objects come through."""

    async def reconcile(self, rows: Sequence[NewRow]) -> list[Put]:
        by_slug = by_unique_slug(rows)
        results: dict[str, Put] = {}
        for _ in range(_ATTEMPTS):
            # In one order everywhere, so that two writers never wait for each other.
            differing = await self._find_differing([by_slug[slug] for slug in sorted(by_slug)])
            try:
                results = await self._reconcile(differing)
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

    async def _reconcile(self, rows: Sequence[NewRow]) -> dict[str, Put]:
        results: dict[str, Put] = {}
        for chunk in _chunks(rows):
            results |= await _patient(self._reconcile_chunk)(chunk, only_free=True)
        left = [row for row in rows if row.slug not in results]
        for written in await self._one_by_one(left, partial(self._reconcile_chunk, only_free=False)):
            results |= written
        return results

    async def _one_by_one(
        self, items: Sequence[_T], write: Callable[[Sequence[_T]], Coroutine[None, None, _R]]
    ) -> list[_R]:
        """Write items whose rows were locked, one by one. When all were tried, raise the first error.

        Only the first waits for long: by then, the server has ended a client of this store that stands still.
        """
        results: list[_R] = []
        failure: StoreUnavailable | None = None
        for item in items:
            try:
                results.append(await (write if failure else _patient(write))([item]))
            except StoreUnavailable as error:
                if not waited_in_vain(error):
                    raise
                failure = failure or error
        if failure is not None:
            raise failure
        return results

    @retry_rollbacks(waits=0)
    async def _reconcile_chunk(self, rows: Sequence[NewRow], *, only_free: bool) -> dict[str, Put]:
        """Write rows in one transaction. With ``only_free``, skip locked rows; otherwise wait for them for a while."""
        changes = Changes()
        async with self._pool.transaction("writing schedules") as connection:
            await self._lock_slugs(connection, (row.slug for row in rows))
            if only_free:
                locked = await self._lock_rows(connection, [row.slug for row in rows])
                rows = [row for row in rows if row.slug not in locked]
            results = await self._write_chunk(connection, rows, changes) if rows else {}
            await self._notify(connection, changes)
        self._lower_watermark(changes)
        return results

    async def _write_chunk(self, connection: Connection, rows: Sequence[NewRow], changes: Changes) -> dict[str, Put]:
        lines = await connection.fetch(SQL["lock_existing_rows"], self._installation, [row.slug for row in rows])
        existing = {row.slug: row for row in map(row_of, lines)}
        lines = await connection.fetch(SQL["select_tombstoned"], self._installation, [row.uid for row in rows])
        tombstoned = {line[0] for line in lines}
        results = {
            row.slug: decide_upsert(existing.get(row.slug), row, tombstoned=row.uid in tombstoned) for row in rows
        }
        if restored := [row.uid for row in rows if row.restored and row.uid in tombstoned]:
            await connection.execute(SQL["delete_tombstones"], self._installation, restored)
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
            pairs = [(existing[row.slug], row) for row in edited]
            columns: Columns = [
                [old.key for old, _ in pairs],
                [row.kind for row in edited],
                [row.definition for row in edited],
                [row.first for row in edited],
                [merged(old.requests, row.requests, old.state) for old, row in pairs],
                [row.payload for row in edited],
                [row.generation for row in edited],
            ]
            for line in await connection.fetch(SQL["update_observed_rows"], self._installation, *columns):
                changes.add(*line)
        return results

    async def tombstone(self, identities: Sequence[tuple[str, str]]) -> list[bool]:
        found: set[tuple[str, str]] = set()
        left: list[tuple[str, str]] = []
        for chunk in _chunks(sorted(set(identities))):
            ended, locked = await _patient(self._tombstone_chunk)(chunk, only_free=True)
            found |= ended
            left += locked
        for ended, _ in await self._one_by_one(left, partial(self._tombstone_chunk, only_free=False)):
            found |= ended
        return [identity in found for identity in identities]

    @retry_rollbacks(waits=0)
    async def _tombstone_chunk(
        self, identities: Sequence[tuple[str, str]], *, only_free: bool
    ) -> tuple[set[tuple[str, str]], list[tuple[str, str]]]:
        """End schedules in one transaction. Return those that existed, and with ``only_free`` those that are locked."""
        changes = Changes()
        found: set[tuple[str, str]] = set()
        async with self._pool.transaction("ending schedules") as connection:
            await self._lock_slugs(connection, (slug for slug, _ in identities))
            locked = await self._lock_rows(connection, [slug for slug, _ in identities]) if only_free else set()
            if free := [identity for identity in identities if identity[0] not in locked]:
                found = await self._end(connection, free, changes)
                await self._notify(connection, changes)
        self._lower_watermark(changes)
        return found, [identity for identity in identities if identity[0] in locked]

    async def _lock_rows(self, connection: Connection, slugs: Sequence[str]) -> set[str]:
        """Lock the rows of these slugs until the transaction ends, and return the slugs of those that are locked."""
        return {line[0] for line in await connection.fetch(SQL["select_locked_slugs"], self._installation, slugs)}

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

    async def touch(self, slugs: Sequence[str]) -> None:
        left: list[str] = []
        for chunk in _chunks(sorted(set(slugs))):
            touched = await self._touch("touch_rows", chunk)
            left += [slug for slug in chunk if slug not in touched]
        if left:
            locked = [row.slug for row in await self.get(left) if row is not None]
            await self._one_by_one(locked, partial(self._touch, "touch_rows_waiting"))

    @retry_rollbacks(waits=0)
    async def _touch(self, query: str, slugs: Sequence[str]) -> set[str]:
        """Touch rows in one transaction, and return the slugs of those that the query has touched."""
        changes = Changes()
        async with self._pool.transaction("writing schedules") as connection:
            lines = await connection.fetch(SQL[query], self._installation, slugs)
            for line in lines:
                changes.add(*line)
            await self._notify(connection, changes)
        self._lower_watermark(changes)
        return {line[0] for line in lines}


def _chunks(rows: Sequence[_T]) -> list[Sequence[_T]]:
    return [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
