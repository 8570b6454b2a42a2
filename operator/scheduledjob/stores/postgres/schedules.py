"""What clients do: write schedules, delete them, and read rows.

A write and its notification are one transaction, so a notified replica always finds what was written. Large writes
are several transactions, because a transaction holds locks on its rows, and their owners can't renew or settle them
meanwhile. So all or none holds for ``CHUNK`` rows of ``CHUNK_BYTES``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg

from scheduledjob.domain.schedule.state import RunRecord, State, cut_off
from scheduledjob.engine.store import Put, SlugTaken, StoreError, StoreUnavailable
from scheduledjob.stores.tombstones import by_unique_slug, decode_keep

from .columns import new_row_columns, record_columns, row_of
from .connections import retry_rollbacks
from .part import PostgresPart
from .queries import SQL
from .wakes import encode_changed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from asyncpg import Record

    from scheduledjob.domain.time.instants import Instant
    from scheduledjob.engine.stored_row import NewRow, Origin, Row

    from .connections import Connection


CHUNK, CHUNK_BYTES = 1000, 8 << 20
"""The most rows and bytes in one transaction: enough that round trips do not matter, few enough that it is short."""

READ_CHUNK = 5000
"""The most rows that one statement reads."""

_ATTEMPTS = 3


class PostgresSchedules(PostgresPart):
    """The part of the store that clients use to write."""

    async def put(self, rows: Sequence[NewRow], *, replace: bool) -> list[Put]:
        by_slug = by_unique_slug(rows)
        if not rows:
            return []
        # In the same order everywhere, so that two writers never wait for each other.
        chunks = list(_chunks([by_slug[slug] for slug in sorted(by_slug)]))
        if len(chunks) > 1 and not replace:
            await self._refuse_taken([row.slug for row in rows])
        results: dict[str, Put] = {}
        for chunk in chunks:
            results |= await (self._replace(chunk) if replace else self._create(chunk, [row.slug for row in rows]))
        return [results.get(row.slug, Put.UNCHANGED) for row in rows]

    async def _refuse_taken(self, slugs: Sequence[str]) -> None:
        """Raise SlugTaken before anything is written, unless somebody takes a slug meanwhile."""
        taken = {row.slug for row in await self.get(slugs) if row is not None}
        if taken:
            raise SlugTaken([slug for slug in slugs if slug in taken])

    @retry_rollbacks()
    async def _create(self, rows: Sequence[NewRow], order: Sequence[str]) -> dict[str, Put]:
        """Create rows in one transaction. SlugTaken names slugs in the given order."""
        due = min((row.wake_at for row in rows if row.wake_at is not None), default=None)
        for _ in range(_ATTEMPTS):
            try:
                async with self._pool.connection("writing schedules") as connection:
                    await connection.execute(SQL["insert_rows_and_notify"], self._installation, *new_row_columns(rows))
            except StoreError as error:
                if not isinstance(error.__cause__, asyncpg.UniqueViolationError):
                    raise
                slugs = {row.slug for row in rows}
                await self._refuse_taken([slug for slug in order if slug in slugs])
                continue  # the row that had the slug was deleted meanwhile
            if due is not None:
                self._watermark.lower(due)
            return {row.slug: Put.CREATED for row in rows}
        raise slugs_contended(self._server.address.shown)

    @retry_rollbacks()
    async def _replace(self, rows: Sequence[NewRow]) -> dict[str, Put]:
        results: dict[str, Put] = {}
        changes = Changes()
        async with self._pool.transaction("writing schedules") as connection:
            written = await connection.fetch(SQL["upsert_rows"], self._installation, *new_row_columns(rows))
            for slug, created, owned, wake_at in written:
                results[slug] = Put.CREATED if created else Put.UPDATED
                changes.add(slug, owned, wake_at)
            await self._notify(connection, changes)
        self._lower_watermark(changes)
        return results

    async def delete(self, slugs: Sequence[str], *, ends_runs: bool = True) -> list[bool]:
        found: set[str] = set()
        in_order = sorted(set(slugs))
        for start in range(0, len(in_order), CHUNK):
            found |= await self._delete(in_order[start : start + CHUNK], ends_runs=ends_runs)
        return [slug in found for slug in slugs]

    @retry_rollbacks()
    async def _delete(self, slugs: Sequence[str], *, ends_runs: bool) -> set[str]:
        async with self._pool.transaction("deleting schedules") as connection:
            return await self._delete_chunk(connection, slugs, ends_runs=ends_runs)

    async def _delete_chunk(self, connection: Connection, slugs: Sequence[str], *, ends_runs: bool = True) -> set[str]:
        deleted = await connection.fetch(SQL["delete_rows"], self._installation, slugs)
        records = [record for line in deleted for record in cut_off_records(line)] if ends_runs else []
        if records:
            await connection.execute(SQL["insert_records"], self._installation, *record_columns(records))
        found = {line["slug"] for line in deleted}
        await self._notify_changed(connection, sorted(found))
        return found

    async def clear(self, origin: Origin | None = None) -> int:
        """Delete in one transaction for each chunk, so an interrupted call may have deleted only some schedules."""
        count = 0
        after: str | None = ""
        while after is not None:
            deleted, after = await self._clear_chunk(None if origin is None else origin.value, after)
            count += deleted
        return count

    @retry_rollbacks()
    async def _clear_chunk(self, origin: str | None, after: str) -> tuple[int, str | None]:
        """Delete schedules behind the slug ``after``.

        Returns how many, and the slug behind which there may be more, if any.
        """
        async with self._pool.transaction("deleting schedules") as connection:
            page = await connection.fetch(SQL["select_slugs"], self._installation, after, origin, CHUNK)
            slugs = [record[0] for record in page]
            deleted = await self._delete_chunk(connection, slugs) if slugs else set()
        return len(deleted), slugs[-1] if len(slugs) == CHUNK else None

    async def get(self, slugs: Sequence[str]) -> list[Row | None]:
        found: dict[str, Row] = {}
        for start in range(0, len(slugs), READ_CHUNK):
            part = slugs[start : start + READ_CHUNK]
            async with self._pool.connection("reading schedules") as connection:
                lines = await connection.fetch(SQL["select_rows"], self._installation, part)
            for row in map(row_of, lines):
                found[row.slug] = row
        return [found.get(slug) for slug in slugs]

    async def rows(self, *, origin: Origin | None = None, after: str = "", limit: int = 1000) -> list[Row]:
        wanted = None if origin is None else origin.value
        async with self._pool.connection("reading schedules") as connection:
            return list(
                map(row_of, await connection.fetch(SQL["select_page"], self._installation, after, wanted, limit))
            )

    async def _notify(self, connection: Connection, changes: Changes) -> None:
        """Send a transaction's notifications. Call it last: replicas that announce their next poll wait for it."""
        await self._notify_changed(connection, sorted(set(changes.changed)))
        await self._notify_due(connection, changes.due)

    async def _notify_due(self, connection: Connection, due: Instant | None) -> None:
        if due is not None:
            await connection.execute(SQL["notify_due"], self._installation, due)

    async def _notify_changed(self, connection: Connection, changed: Iterable[str]) -> None:
        for payload in encode_changed(changed):
            await connection.execute(SQL["notify"], self._channel, payload)

    def _lower_watermark(self, changes: Changes) -> None:
        """Have claims find the rows. Call it after the transaction, when claims can see them."""
        if changes.due is not None:
            self._watermark.lower(changes.due)


class Changes:
    """What one transaction changed that replicas need to know."""

    def __init__(self) -> None:
        self.due: Instant | None = None
        """When the first of the changed rows that no replica owns is due."""
        self.changed: list[str] = []
        """Slugs of deleted rows, and of changed rows that replicas own."""

    def add(self, slug: str, owned: bool, wake_at: Instant | None) -> None:
        if owned:
            self.changed.append(slug)
        elif wake_at is not None and (self.due is None or wake_at < self.due):
            self.due = wake_at


def slugs_contended(server: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"Postgres at {server}: the schedules could not be written, because others keep creating and deleting "
        "schedules with the same slugs: try again"
    )


def cut_off_records(deleted: Record) -> list[RunRecord]:
    """Return records of the runs that ended with the deletion of a row; none if a newer version has written it."""
    try:
        state, keep = State.decode(deleted["state"]), decode_keep(deleted["definition"])
    except ValueError:
        return []
    return cut_off(
        state, uid=deleted["uid"], slug=deleted["slug"], now=deleted["now"], owned=deleted["owned"], keep=keep
    )


def _chunks(rows: Sequence[NewRow]) -> Iterator[list[NewRow]]:
    """Split rows for one transaction each."""
    chunk: list[NewRow] = []
    size = 0
    for row in rows:
        more = len(row.payload or b"") + len(row.definition) + len(row.state)
        if chunk and (len(chunk) == CHUNK or size + more > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(row)
        size += more
    if chunk:
        yield chunk
