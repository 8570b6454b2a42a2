"""What replicas hand over from a cluster: sightings of objects, and the end of them.

Nearly all that is handed over is there already, above all after a restart. So the server is first asked, without a
lock, for what differs; only that is looked at under locks, judged here, and written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar
from zlib import crc32

import asyncpg

from scheduledjob.engine.store import NewRow, Put, Row, StoreError, StoreUnavailable
from scheduledjob.stores.tombstones import by_unique_slug, decide_upsert, tombstone_kept_for

from .columns import record_columns, seen_columns
from .connections import repeated
from .queries import SQL
from .schedules import PostgresSchedules, patience, records_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from scheduledjob.domain.time.instants import Instant

    from .connections import Connection

_T = TypeVar("_T")


CHUNK = 1000
"""Objects in one statement."""

PARTS = 64
"""Into so many an installation's slugs are parted for locks: a lock for each slug would overflow the server's table
of them, and one for all would make replicas wait for each other."""

_ATTEMPTS = 3


class _Written:
    """What one transaction has to tell others."""

    def __init__(self) -> None:
        self.due: Instant | None = None
        self.changed: list[str] = []

    def row(self, slug: str, owned: bool, wake_at: Instant | None) -> None:
        if owned:
            self.changed.append(slug)
        elif wake_at is not None and (self.due is None or wake_at < self.due):
            self.due = wake_at


class PostgresReconciling(PostgresSchedules):
    """The part of the store that a cluster's objects come through."""

    async def reconcile(self, rows: Sequence[NewRow]) -> list[Put]:
        by_slug = by_unique_slug(rows)
        became: dict[str, Put] = {}
        for _ in range(_ATTEMPTS):
            # In one order everywhere, so that two writers never wait for each other.
            differing = await self._differing([by_slug[slug] for slug in sorted(by_slug)])
            try:
                became = await self._reconcile(differing) if differing else {}
            except StoreError as error:
                if not isinstance(error.__cause__, asyncpg.UniqueViolationError):
                    raise
                continue  # somebody has put such a slug, which is not a cluster's
            return [became.get(row.slug, Put.UNCHANGED) for row in rows]
        raise StoreUnavailable(f"Postgres at {self._server.address.shown}: slugs come and go too quickly to write them")

    async def _differing(self, rows: Sequence[NewRow]) -> list[NewRow]:
        found: list[NewRow] = []
        for chunk in _chunks(rows):
            columns = zip(
                *((row.slug, row.uid, row.generation, row.kind, row.definition, row.requests) for row in chunk),
                strict=True,
            )
            async with self._pool.connection("reading schedules") as connection:
                lines = await connection.fetch(SQL["differing"], self._installation, *columns)
            places = {line[0] - 1 for line in lines}
            found += [row for place, row in enumerate(chunk) if place in places or row.first is not None]
        return found

    @repeated
    async def _reconcile(self, rows: Sequence[NewRow]) -> dict[str, Put]:
        became: dict[str, Put] = {}
        written = _Written()
        chunks = _chunks(rows)
        async with (
            self._pool.connection("writing schedules", patience(chunks, self._timeout)) as connection,
            connection.transaction(),
        ):
            await self._hold(connection, (row.slug for row in rows))
            for chunk in chunks:
                became |= await self._reconcile_chunk(connection, chunk, written)
            await self._tell(connection, written)
        self._told(written)
        return became

    async def _reconcile_chunk(
        self, connection: Connection, rows: Sequence[NewRow], written: _Written
    ) -> dict[str, Put]:
        lines = await connection.fetch(SQL["standing"], self._installation, [row.slug for row in rows])
        there = {row.slug: row for row in (Row(*line) for line in lines)}
        lines = await connection.fetch(SQL["tombstoned"], self._installation, [row.uid for row in rows])
        tombstoned = {line[0] for line in lines}
        became = {row.slug: decide_upsert(there.get(row.slug), row, tombstoned=row.uid in tombstoned) for row in rows}
        new = [row for row in rows if became[row.slug] is Put.CREATED]
        replaced = [there[row.slug] for row in new if row.slug in there]
        if replaced:
            await self._end(connection, [(row.slug, row.uid) for row in replaced], written)
        if new:
            await connection.execute(SQL["create_seen"], self._installation, *seen_columns(new))
            for row in new:
                written.row(row.slug, False, row.wake_at)
        edited = [row for row in rows if became[row.slug] is Put.UPDATED]
        if edited:
            columns = zip(
                *(
                    (
                        there[row.slug].key,
                        row.kind,
                        row.definition,
                        row.first,
                        row.requests,
                        row.payload,
                        row.generation,
                    )
                    for row in edited
                ),
                strict=True,
            )
            for line in await connection.fetch(SQL["edit_seen"], self._installation, *columns):
                written.row(*line)
        return became

    @repeated
    async def tombstone(self, identities: Sequence[tuple[str, str]]) -> list[bool]:
        found: set[tuple[str, str]] = set()
        written = _Written()
        chunks = _chunks(sorted(set(identities)))
        if chunks:
            async with (
                self._pool.connection("ending schedules", patience(chunks, self._timeout)) as connection,
                connection.transaction(),
            ):
                await self._hold(connection, (slug for slug, _ in identities))
                for chunk in chunks:
                    found |= await self._end(connection, chunk, written)
                await self._tell(connection, written)
            self._told(written)
        return [each in found for each in identities]

    async def _hold(self, connection: Connection, slugs: Iterable[str]) -> None:
        """Lock the slugs until the transaction ends: nobody else may create or end rows of them."""
        parts = sorted({crc32(slug.encode()) % PARTS for slug in slugs})
        await connection.execute(SQL["hold"], self._installation, parts)

    async def _end(
        self, connection: Connection, identities: Sequence[tuple[str, str]], written: _Written
    ) -> set[tuple[str, str]]:
        """Remove the rows that exist and write a tombstone for each; return the rows that existed."""
        slugs, uids = zip(*identities, strict=True)
        gone = await connection.fetch(SQL["end"], self._installation, slugs, uids)
        records = [record for each in gone for record in records_of(each)]
        if records:
            await connection.execute(SQL["record"], self._installation, *record_columns(records))
        kept = dict.fromkeys(sorted(uids), tombstone_kept_for(""))
        kept |= {each["uid"]: tombstone_kept_for(each["definition"]) for each in gone}
        await connection.execute(SQL["tombstone"], self._installation, list(kept), list(kept.values()))
        written.changed += [each["slug"] for each in gone]
        return {(each["slug"], each["uid"]) for each in gone}

    @repeated
    async def touch(self, slugs: Sequence[str]) -> None:
        written = _Written()
        chunks = _chunks(sorted(set(slugs)))
        if not chunks:
            return
        async with (
            self._pool.connection("writing schedules", patience(chunks, self._timeout)) as connection,
            connection.transaction(),
        ):
            for chunk in chunks:
                for line in await connection.fetch(SQL["touch"], self._installation, chunk):
                    written.row(*line)
            await self._tell(connection, written)
        self._told(written)

    async def _tell(self, connection: Connection, written: _Written) -> None:
        await self._tell_changed(connection, sorted(set(written.changed)))
        await self._tell_due(connection, written.due)

    def _told(self, written: _Written) -> None:
        """After the transaction: now a claim can see it."""
        if written.due is not None:
            self._watermark.lower(written.due)


def _chunks(rows: Sequence[_T]) -> list[Sequence[_T]]:
    return [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
