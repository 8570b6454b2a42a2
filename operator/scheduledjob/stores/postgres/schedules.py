"""What clients do: write schedules, end them, read rows.

A write and its notification are one transaction, so nobody is notified of something that is not there yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg

from scheduledjob.domain.schedule.state import RunRecord, State, cut_off
from scheduledjob.engine.store import NewRow, Origin, Put, Row, SlugTaken, StoreError, StoreUnavailable
from scheduledjob.stores.tombstones import by_unique_slug, decode_keep

from .columns import definition_columns, record_columns
from .connections import repeated
from .part import PostgresPart
from .queries import SQL
from .wakes import payloads

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from asyncpg import Record

    from scheduledjob.domain.time.instants import Instant

    from .connections import Connection


CHUNK = 5000
"""Most rows in one statement: enough that round trips do not matter, few enough to end in time."""

BULK_TIMEOUT = 120.0
"""Time limit in seconds of a call that writes more than one chunk."""

_ATTEMPTS = 3


class PostgresSchedules(PostgresPart):
    """The part of the store that clients use to write."""

    async def put(self, rows: Sequence[NewRow], *, replace: bool) -> list[Put]:
        by_slug = by_unique_slug(rows)
        if not rows:
            return []
        # In the same order everywhere, so that two writers never wait for each other.
        in_order = [by_slug[slug] for slug in sorted(by_slug)]
        chunks = [in_order[start : start + CHUNK] for start in range(0, len(in_order), CHUNK)]
        if replace:
            return await self._replace(rows, chunks)
        return await self._create(rows, chunks)

    async def _create(self, rows: Sequence[NewRow], chunks: list[list[NewRow]]) -> list[Put]:
        slugs = [row.slug for row in rows]
        due = min((row.wake_at for row in rows if row.wake_at is not None), default=None)
        for _ in range(_ATTEMPTS):
            try:
                async with self._pool.connection("writing schedules", patience(chunks, self._timeout)) as connection:
                    if len(chunks) == 1:
                        await connection.execute(
                            SQL["create_and_tell"], self._installation, *definition_columns(chunks[0])
                        )
                    else:
                        async with connection.transaction():
                            for chunk in chunks:
                                await connection.execute(SQL["create"], self._installation, *definition_columns(chunk))
                            await self._tell_due(connection, due)
            except StoreError as error:
                if not isinstance(error.__cause__, asyncpg.UniqueViolationError):
                    raise
                taken = {row.slug for row in await self.get(slugs) if row is not None}
                if taken:
                    raise SlugTaken([slug for slug in slugs if slug in taken]) from None
                continue  # the row that had the slug is gone meanwhile
            if due is not None:
                self._watermark.lower(due)
            return [Put.CREATED] * len(rows)
        raise StoreUnavailable(f"Postgres at {self._server.address.shown}: slugs come and go too quickly to write them")

    @repeated
    async def _replace(self, rows: Sequence[NewRow], chunks: list[list[NewRow]]) -> list[Put]:
        became: dict[str, Put] = {}
        due: Instant | None = None
        changed: list[str] = []
        async with (
            self._pool.connection("writing schedules", patience(chunks, self._timeout)) as connection,
            connection.transaction(),
        ):
            for chunk in chunks:
                written = await connection.fetch(SQL["replace"], self._installation, *definition_columns(chunk))
                for slug, created, owned, wake_at in written:
                    became[slug] = Put.CREATED if created else Put.UPDATED
                    if owned:
                        changed.append(slug)
                    elif wake_at is not None and (due is None or wake_at < due):
                        due = wake_at
            await self._tell_changed(connection, changed)
            await self._tell_due(connection, due)
        if due is not None:
            self._watermark.lower(due)
        return [became.get(row.slug, Put.UNCHANGED) for row in rows]

    @repeated
    async def delete(self, slugs: Sequence[str]) -> list[bool]:
        found: set[str] = set()
        in_order = sorted(set(slugs))
        chunks = [in_order[start : start + CHUNK] for start in range(0, len(in_order), CHUNK)]
        if chunks:
            async with (
                self._pool.connection("deleting schedules", patience(chunks, self._timeout)) as connection,
                connection.transaction(),
            ):
                for chunk in chunks:
                    found |= await self._delete_chunk(connection, chunk)
        return [slug in found for slug in slugs]

    async def _delete_chunk(self, connection: Connection, slugs: Sequence[str]) -> set[str]:
        gone = await connection.fetch(SQL["delete"], self._installation, slugs)
        records = [record for each in gone for record in records_of(each)]
        if records:
            await connection.execute(SQL["record"], self._installation, *record_columns(records))
        found = {each["slug"] for each in gone}
        await self._tell_changed(connection, sorted(found))
        return found

    async def clear(self, origin: Origin | None = None) -> int:
        """Each chunk is a transaction of its own, so an interrupted call has ended some schedules and not others."""
        count = 0
        after: str | None = ""
        while after is not None:
            gone, after = await self._clear_chunk(None if origin is None else origin.value, after)
            count += gone
        return count

    @repeated
    async def _clear_chunk(self, origin: str | None, after: str) -> tuple[int, str | None]:
        """How many went of the schedules behind ``after``, and behind which there may be more."""
        async with (
            self._pool.connection("deleting schedules", 2 * self._timeout) as connection,
            connection.transaction(),
        ):
            page = await connection.fetch(SQL["slugs"], self._installation, after, origin, CHUNK)
            slugs = [record[0] for record in page]
            gone = await self._delete_chunk(connection, slugs) if slugs else set()
        return len(gone), slugs[-1] if len(slugs) == CHUNK else None

    async def get(self, slugs: Sequence[str]) -> list[Row | None]:
        found: dict[str, Row] = {}
        for start in range(0, len(slugs), CHUNK):
            async with self._pool.connection("reading schedules") as connection:
                for record in await connection.fetch(SQL["get"], self._installation, slugs[start : start + CHUNK]):
                    found[record["slug"]] = Row(*record)
        return [found.get(slug) for slug in slugs]

    async def rows(self, *, origin: Origin | None = None, after: str = "", limit: int = 1000) -> list[Row]:
        wanted = None if origin is None else origin.value
        async with self._pool.connection("reading schedules") as connection:
            return [
                Row(*record) for record in await connection.fetch(SQL["rows"], self._installation, after, wanted, limit)
            ]

    async def _tell_due(self, connection: Connection, due: Instant | None) -> None:
        """Last in a transaction: it holds up replicas that announce their next look."""
        if due is not None:
            await connection.execute(SQL["tell_due"], self._installation, due)

    async def _tell_changed(self, connection: Connection, changed: Iterable[str]) -> None:
        for payload in payloads(changed):
            await connection.execute(SQL["notify"], self._channel, payload)


def patience(chunks: Sequence[object], timeout: float) -> float:
    """Seconds for a call that writes so many chunks."""
    return timeout if len(chunks) <= 1 else max(timeout, BULK_TIMEOUT)


def records_of(gone: Record) -> list[RunRecord]:
    """Of the runs that end with a deletion."""
    state, keep = State.decode(gone["state"]), decode_keep(gone["definition"])
    return cut_off(state, uid=gone["uid"], slug=gone["slug"], now=gone["now"], owned=gone["owned"], keep=keep)
