"""Observations from a cluster: replicas write the objects that they see, and tombstones of those that are gone."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from scheduledjob.domain.schedule.requests import merged
from scheduledjob.engine.store import Put
from scheduledjob.stores.tombstones import by_unique_slug, decide_upsert

from .database import MemoryPart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.domain.time.instants import Instant
    from scheduledjob.engine.stored_row import NewRow

    from .entries import Entry


class MemoryReconciling(MemoryPart):
    """The part of the store that a cluster's objects come through."""

    async def reconcile(self, rows: Sequence[NewRow]) -> list[Put]:
        by_unique_slug(rows)  # raises for a slug that is given twice
        tables = self._tables
        with self._lock:
            now = self._clock()
            results = [
                decide_upsert(tables.slugs.get(row.slug), row, tombstoned=tables.is_tombstoned(row.uid, now))
                for row in rows
            ]
            decided = list(zip(rows, results, strict=True))
            replaced = [row.slug for row, put in decided if put is Put.CREATED and row.slug in tables.slugs]
            self._end([tables.slugs[slug] for slug in replaced], now)
            written: list[Entry] = []
            for row, put in decided:
                if row.restored:
                    tables.revive(row.uid)
                if put is Put.CREATED:
                    written.append(tables.create(row, now))
                elif put is Put.UPDATED:
                    entry = tables.slugs[row.slug]
                    same_generation = entry.generation == row.generation
                    requests = merged(entry.requests, row.requests, entry.state)
                    tables.edit(entry, dataclasses.replace(row, keep_payload=same_generation, requests=requests), now)
                    written.append(entry)
            self._notify_written(written)
        return results

    async def tombstone(self, identities: Sequence[tuple[str, str]]) -> list[bool]:
        tables = self._tables
        with self._lock:
            now = self._clock()
            existed = [(entry := tables.slugs.get(slug)) is not None and entry.uid == uid for slug, uid in identities]
            # A dict, because an identity may be given twice.
            ended = dict.fromkeys(slug for (slug, _), found in zip(identities, existed, strict=True) if found)
            self._end([tables.slugs[slug] for slug in ended], now)
            for _, uid in identities:
                tables.tombstone(uid, now)
        return existed

    def _end(self, entries: Sequence[Entry], now: Instant) -> None:
        """Replace rows by tombstones, with a record of each run that this ends."""
        self._remove(entries, now)
        for entry in entries:
            self._tables.tombstone(entry.uid, now, entry.definition)

    async def touch(self, slugs: Sequence[str]) -> None:
        with self._lock:
            now = self._clock()
            found = [entry for slug in dict.fromkeys(slugs) if (entry := self._tables.slugs.get(slug)) is not None]
            for entry in found:
                self._tables.touch(entry, now)
            self._notify_written(found)
