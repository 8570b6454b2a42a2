"""What clients do in the memory store: write schedules, delete them, and read rows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from scheduledjob.engine.store import Put, SlugTaken
from scheduledjob.engine.stored_row import Origin
from scheduledjob.stores.tombstones import by_unique_slug, without_cluster_fields

from .database import MemoryPart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.engine.stored_row import NewRow, Row

    from .entries import Entry


ROWS_AT_ONCE = 1000
"""Rows that are written together, and all or none of them. A larger write lets the event loop go on after each part."""


class MemorySchedules(MemoryPart):
    """The part of the store that clients use."""

    async def put(self, rows: Sequence[NewRow], *, replace: bool) -> list[Put]:
        slugs = by_unique_slug(rows)
        with self._lock:
            if not replace and (taken := [slug for slug in slugs if slug in self._tables.slugs]):
                raise SlugTaken(taken)
        results: list[Put] = []
        for start in range(0, len(rows), ROWS_AT_ONCE):
            if start:
                await asyncio.sleep(0)  # the replica of this process shares the event loop
            results += self._put(rows[start : start + ROWS_AT_ONCE], replace=replace)
        return results

    def _put(self, rows: Sequence[NewRow], *, replace: bool) -> list[Put]:
        tables = self._tables
        with self._lock:
            if not replace and (taken := [row.slug for row in rows if row.slug in tables.slugs]):
                raise SlugTaken(taken)
            now = self._clock()
            written: list[Entry] = []
            results: list[Put] = []
            for row in rows:
                entry = tables.slugs.get(row.slug)
                if entry is not None and not entry.differs(row):
                    if entry.owner is None or row.origin is not Origin.LIBRARY:
                        results.append(Put.UNCHANGED)
                        continue
                    tables.schedule_again(entry, row)
                    results.append(Put.UPDATED)
                    written.append(entry)
                    continue
                desired = without_cluster_fields(row)
                if entry is None:
                    entry = tables.create(desired, now)
                    results.append(Put.CREATED)
                else:
                    tables.edit(entry, desired, now)
                    results.append(Put.UPDATED)
                written.append(entry)
            self._notify_written(written)
        return results

    async def delete(self, slugs: Sequence[str], *, ends_runs: bool = True) -> list[bool]:
        with self._lock:
            return self._delete(slugs, ends_runs=ends_runs)

    async def clear(self, origin: Origin | None = None) -> int:
        with self._lock:
            entries = self._tables.slugs.values()
            return len(self._delete([entry.slug for entry in entries if origin is None or entry.origin == origin]))

    def _delete(self, slugs: Sequence[str], *, ends_runs: bool = True) -> list[bool]:
        found = {slug: entry for slug in slugs if (entry := self._tables.slugs.get(slug)) is not None}
        self._remove(list(found.values()), self._clock(), ends_runs=ends_runs)
        return [slug in found for slug in slugs]

    async def get(self, slugs: Sequence[str]) -> list[Row | None]:
        with self._lock:
            found = map(self._tables.slugs.get, slugs)
            return [None if entry is None else entry.row() for entry in found]

    async def rows(self, *, origin: Origin | None = None, after: str = "", limit: int = 1000) -> list[Row]:
        with self._lock:
            return [entry.row() for entry in self._tables.page(origin, after, limit)]
