"""What clients do: write schedules and delete them.

A schedule with a new slug is a document that must not exist yet. A change of an existing one is written on condition
that the document has not changed since it was read, because it becomes due at once only if no replica owns it. If
such a condition fails, the document is read again.

**All or none** holds for one commit: up to 500 rows, or 8 MiB. A longer ``put`` is several commits, one after the
other, and others may see the first before the last is made. Without ``replace``, all slugs are looked up first, so a
``put`` with a slug that is taken writes nothing, unless somebody schedules that slug at the same moment. Then this call
deletes what it has created before it raises SlugTaken, except for rows that a replica has claimed meanwhile. A long
``put`` that raises StoreUnavailable may have written some of its rows; repeated with ``replace``, it writes the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scheduledjob.engine.capacity import tenant_of
from scheduledjob.engine.store import Put, SlugTaken, StoreUnavailable
from scheduledjob.engine.stored_row import Origin
from scheduledjob.stores.tombstones import by_unique_slug, without_cluster_fields

from .layout import (
    SCHEDULES,
    cut_off_records,
    definition_fields,
    is_row,
    record_writes,
    removal,
    row_of,
    schedule_fields,
    schedule_path,
    tombstone_field,
    tombstones_in,
)
from .operations import ContendedCommits, Query, StoredDocument, Write, pack_commits
from .retrying import pause
from .wire import Conflict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.domain.time.instants import Instant
    from scheduledjob.engine.stored_row import NewRow

    from .clock import FirestoreClock
    from .operations import Fields, Stamp
    from .wire import Wire

ATTEMPTS = 10
"""How often one call writes rows again that others keep changing."""
PAGE = 200
"""How many schedules are read, or deleted, at once."""


class Notices:
    """What one call changed that replicas in this process need to know."""

    def __init__(self) -> None:
        self.due: Instant | None = None
        """When the first of the changed rows that no replica owns is due."""
        self.changed: list[str] = []
        """Slugs of deleted rows, and of changed rows that replicas own."""

    def add_due(self, wake_at: Instant | None) -> None:
        if wake_at is not None and (self.due is None or wake_at < self.due):
            self.due = wake_at


class FirestoreSchedules:
    """Writes and deletes schedules."""

    def __init__(self, wire: Wire, clock: FirestoreClock, shards: int) -> None:
        self._wire = wire
        self._clock = clock
        self._shards = shards

    # ---- put

    async def put(self, rows: Sequence[NewRow], *, replace: bool, notices: Notices) -> list[Put]:
        rows = list(map(without_cluster_fields, by_unique_slug(rows).values()))
        if replace:
            results: list[Put] = []
            for start in range(0, len(rows), PAGE):
                results += await self._replace(rows[start : start + PAGE], notices)
            return results
        await self._create(rows, notices)
        return [Put.CREATED] * len(rows)

    async def _create(self, rows: Sequence[NewRow], notices: Notices) -> None:
        writes = [
            Write(schedule_path(row.slug), schedule_fields(row, self._clock.earliest(), self._shards), exists=False)
            for row in rows
        ]
        commits = pack_commits([[write] for write in writes])
        if len(commits) > 1:
            await self._check_free(rows)
        created: list[tuple[Write, Stamp]] = []
        for numbers in commits:
            stamps = await self._commit_new(rows, [writes[number] for number in numbers], created)
            created += [(writes[number], stamp) for number, stamp in zip(numbers, stamps, strict=True)]
        for row in rows:
            notices.add_due(row.wake_at)

    async def _commit_new(
        self, rows: Sequence[NewRow], writes: Sequence[Write], created: Sequence[tuple[Write, Stamp]]
    ) -> list[Stamp]:
        """Make one commit. If a slug is taken, delete what earlier commits have ``created``, and raise SlugTaken."""
        for attempt in range(ATTEMPTS):
            try:
                return await self._wire.commit(writes)
            except Conflict as conflict:
                if not conflict.aborted:
                    paths = {write.path for write, _ in created}
                    try:
                        tombstones = await self._check_free(
                            [row for row in rows if schedule_path(row.slug) not in paths]
                        )
                    except SlugTaken:
                        await self._wire.batch_write([self._undo(write, stamp) for write, stamp in created])
                        raise
                    for write in writes:
                        self._keep_tombstones(write, tombstones.get(write.path))
            await pause(attempt)
        raise busy()

    async def _check_free(self, rows: Sequence[NewRow]) -> dict[str, StoredDocument]:
        """Return the documents at the rows' paths, which hold tombstones only. Raises SlugTaken for schedules."""
        existing = await self._wire.get([schedule_path(row.slug) for row in rows], ("slug", "buried"))
        found = {path for path, document in existing.items() if is_row(document)}
        if taken := [row.slug for row in rows if schedule_path(row.slug) in found]:
            raise SlugTaken(taken)
        return existing

    def _keep_tombstones(self, write: Write, tombstone: StoredDocument | None) -> None:
        """Have the write of a new row keep the tombstones at its path."""
        assert write.fields is not None
        write.fields["buried"] = tombstone_field(tombstones_in(tombstone, self._clock.earliest()))
        write.exists, write.stamp = (False, None) if tombstone is None else (None, tombstone.stamp)

    def _undo(self, write: Write, stamp: Stamp) -> Write:
        tombstoned = (write.fields or {}).get("buried") or ()
        assert isinstance(tombstoned, (list, tuple))
        return removal(write.path, tombstoned, self._shards, stamp)

    async def _replace(self, rows: Sequence[NewRow], notices: Notices) -> list[Put]:
        """Write one page, in as many commits as its size requires."""
        results: dict[str, Put] = {}
        todo = list(rows)
        commits = ContendedCommits()
        for attempt in range(ATTEMPTS):
            existing = await self._wire.get([schedule_path(row.slug) for row in todo])
            now = self._clock.earliest()
            changes: list[tuple[NewRow, Write, Put]] = []
            for row in todo:
                document = existing.get(schedule_path(row.slug))
                if document is None or not is_row(document):
                    write = Write(schedule_path(row.slug), schedule_fields(row, now, self._shards), exists=False)
                    if document is not None:
                        self._keep_tombstones(write, document)
                    changes.append((row, write, Put.CREATED))
                elif _differs(document, row):
                    changes.append((row, edit(document, row, now), Put.UPDATED))
                elif document.fields.get("owner") is not None and row.origin is Origin.LIBRARY:
                    changes.append((row, _schedule_again(document, row), Put.UPDATED))
                else:
                    results[row.slug] = Put.UNCHANGED
            for numbers in commits.pack([[write] for _, write, _ in changes]):
                committed = [changes[number] for number in numbers]
                try:
                    await self._wire.commit([write for _, write, _ in committed])
                except Conflict:
                    continue
                for row, write, result in committed:
                    results[row.slug] = result
                    document = existing.get(write.path)
                    if document is not None and document.fields.get("owner") is not None:
                        notices.changed.append(row.slug)
                    else:
                        notices.add_due(now if result is Put.UPDATED else row.wake_at)
            todo = [row for row in todo if row.slug not in results]
            if not todo:
                return [results[row.slug] for row in rows]
            await pause(attempt)
        raise busy()

    # ---- delete

    async def delete(self, slugs: Sequence[str], notices: Notices, *, ends_runs: bool) -> list[bool]:
        deleted: set[str] = set()
        paths = list(dict.fromkeys(schedule_path(slug) for slug in slugs))
        for start in range(0, len(paths), PAGE):
            found = (await self._wire.get(paths[start : start + PAGE])).values()
            rows = [document for document in found if is_row(document)]
            deleted |= await self._delete(rows, notices, ends_runs=ends_runs)
        return [schedule_path(slug) in deleted for slug in slugs]

    async def clear(self, origin: Origin | None, notices: Notices) -> int:
        count = 0
        after = ""
        while page := await self._wire.query(page_query(origin, after, PAGE)):
            count += len(await self._delete(page, notices, origin))
            after = page[-1].fields["slug"]
        return count

    async def _delete(
        self,
        documents: Sequence[StoredDocument],
        notices: Notices,
        origin: Origin | None = None,
        *,
        ends_runs: bool = True,
    ) -> set[str]:
        """Delete schedules, with a record of each run that this ends, and return the paths of those that existed.

        A schedule that has another ``origin`` by then stays.
        """
        deleted: set[str] = set()
        recorded: set[str] = set()
        commits = ContendedCommits()
        for attempt in range(ATTEMPTS):
            now = self._clock.earliest()
            units = [
                [
                    removal(document.path, tombstone_field(tombstones_in(document, now)), self._shards, document.stamp),
                    *(
                        write
                        for write in record_writes(cut_off_records(document, now), self._shards)
                        if ends_runs and write.path not in recorded
                    ),
                ]
                for document in documents
            ]
            todo: list[str] = []
            for numbers in commits.pack(units):
                try:
                    await self._wire.commit([write for number in numbers for write in units[number]])
                except Conflict:
                    todo += [documents[number].path for number in numbers]
                    records = [write.path for number in numbers for write in units[number][1:]]
                    recorded |= set(await self._wire.get(records, ()))
                    continue
                deleted |= {documents[number].path for number in numbers}
                notices.changed += [documents[number].fields["slug"] for number in numbers]
            if not todo:
                return deleted
            await pause(attempt)
            found = (document for document in (await self._wire.get(todo)).values() if is_row(document))
            documents = [document for document in found if origin in {None, document.fields["origin"]}]
        raise busy()


def page_query(origin: Origin | None, after: str, limit: int) -> Query:
    """Return the query for schedules in order of slug, behind the slug ``after``."""
    return Query(SCHEDULES, "slug", equals={} if origin is None else {"origin": origin.value}, more=after, limit=limit)


def _differs(document: StoredDocument, new: NewRow) -> bool:
    """Return whether ``new`` differs from the row."""
    row = row_of(document)
    if new.first is not None or (row.payload != new.payload and not new.keep_payload):
        return True
    return (row.kind, row.definition, row.tenant) != (new.kind, new.definition, new.tenant)


def edit(document: StoredDocument, new: NewRow, now: Instant) -> Write:
    """Return the write that changes a row to ``new``."""
    return make_due(document, definition_fields(new, document.fields["revision"] + 1, now), now)


def _schedule_again(document: StoredDocument, new: NewRow) -> Write:
    """Return the write which notes that a client has scheduled an owned row again as it is."""
    revision = document.fields["revision"] + 1
    fields: Fields = {
        "revision": revision,
        "origin": Origin(new.origin).value,
        "tenant": tenant_of(new),
        "generation": 0,
        "acts": "",
    }
    if not new.keep_payload:
        fields["payload_revision"] = revision
    return Write(document.path, fields, list(fields), stamp=document.stamp)


def make_due(document: StoredDocument, fields: Fields, now: Instant) -> Write:
    """Return the write of these fields that also makes the row due at once unless a replica owns it."""
    wake_at = document.fields.get("wake_at")
    if document.fields.get("owner") is None and (wake_at is None or wake_at > now):
        fields["wake_at"] = now
    return Write(document.path, fields, list(fields), stamp=document.stamp)


def busy() -> StoreUnavailable:
    return StoreUnavailable("the rows could not be written, because others keep writing them: try again")
