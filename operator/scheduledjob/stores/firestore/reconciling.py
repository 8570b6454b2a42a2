"""Observations from a cluster: replicas write the objects that they see, and tombstones of those that are gone.

A slug's row and its tombstones are one document. So one read is enough to decide about an observed object, and the
result is written on condition that the document has not changed since: no tombstone can appear in between. An
unchanged object, as nearly all are, causes no write. If a condition fails, the document is read again.

**All or none** holds for a page of 200 rows that fits into one commit (8 MiB). An interrupted call may have written
only some of its pages; replicas repeat it anyway, which completes it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from scheduledjob.domain.schedule.requests import merged
from scheduledjob.engine.store import Put
from scheduledjob.stores.tombstones import by_unique_slug, decide_upsert, tombstone_kept_for

from .layout import (
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
from .operations import ContendedCommits, StoredDocument, Write, write_over
from .retrying import pause
from .schedules import ATTEMPTS, PAGE, Notices, busy, make_due
from .wire import Conflict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from scheduledjob.domain.time.instants import Instant
    from scheduledjob.engine.stored_row import NewRow

    from .clock import FirestoreClock
    from .wire import Wire

T = TypeVar("T")


@dataclass(slots=True)
class Change:
    """A write of one slug's document, and what it changes for replicas."""

    write: Write
    ended: StoredDocument | None = None
    """The row that it removes."""
    edited: StoredDocument | None = None
    """The row that replicas have to reconcile."""
    due: Instant | None = None
    """When a new row is due."""


if TYPE_CHECKING:
    Decide: TypeAlias = Callable[[StoredDocument | None, Instant], Change | None]
    """Returns the change for a slug that has this document at this time; called again after a conflict."""


class FirestoreReconciling:
    """Writes observed objects, and tombstones of deleted ones."""

    def __init__(self, wire: Wire, clock: FirestoreClock, shards: int) -> None:
        self._wire = wire
        self._clock = clock
        self._shards = shards

    async def reconcile(self, rows: Sequence[NewRow], notices: Notices) -> list[Put]:
        results: dict[str, Put] = {}

        def upsert(new: NewRow) -> Decide:
            def decide(document: StoredDocument | None, now: Instant) -> Change | None:
                results[new.slug], change = self._upsert(new, document, now)
                return change

            return decide

        await self._write_pages(
            {schedule_path(row.slug): upsert(row) for row in by_unique_slug(rows).values()}, notices
        )
        return [results[row.slug] for row in rows]

    def _upsert(self, new: NewRow, document: StoredDocument | None, now: Instant) -> tuple[Put, Change | None]:
        existing = document if document is not None and is_row(document) else None
        row = None if existing is None else row_of(existing)
        tombstoned = tombstones_in(document, now)
        put = decide_upsert(row, new, tombstoned=new.uid in tombstoned)
        if new.restored:
            tombstoned.pop(new.uid, None)
        if put is Put.UPDATED and existing is not None and row is not None:
            requests = merged(row.requests, new.requests, row.state)
            desired = replace(new, keep_payload=row.generation == new.generation, requests=requests)
            fields = definition_fields(desired, row.revision + 1, now)
            return put, Change(make_due(existing, fields, now), edited=existing)
        if put is Put.CREATED:
            if row is not None:
                tombstoned = _with_tombstone(tombstoned, row.uid, now, row.definition)
            fields = schedule_fields(new, now, self._shards, tombstone_field(tombstoned))
            return put, Change(write_over(document, schedule_path(new.slug), fields), ended=existing, due=new.wake_at)
        return put, None

    async def tombstone(self, identities: Sequence[tuple[str, str]], notices: Notices) -> list[bool]:
        uids: dict[str, set[str]] = {}
        for slug, uid in identities:
            uids.setdefault(slug, set()).add(uid)
        ended: dict[str, str | None] = {}

        def end(slug: str) -> Decide:
            def decide(document: StoredDocument | None, now: Instant) -> Change | None:
                change = self._end(schedule_path(slug), uids[slug], document, now)
                ended[slug] = None if change.ended is None else change.ended.fields["uid"]
                return change

            return decide

        await self._write_pages({schedule_path(slug): end(slug) for slug in uids}, notices)
        return [ended[slug] == uid for slug, uid in identities]

    def _end(self, path: str, uids: set[str], document: StoredDocument | None, now: Instant) -> Change:
        """Return the change that leaves tombstones of these uids, and removes the row if it belongs to one of them."""
        existing = document if document is not None and is_row(document) else None
        tombstoned = tombstones_in(document, now)
        for uid in uids:
            is_its_row = existing is not None and existing.fields["uid"] == uid
            definition = existing.fields["definition"] if existing is not None and is_its_row else ""
            tombstoned = _with_tombstone(tombstoned, uid, now, definition)
        texts = tombstone_field(tombstoned)
        if existing is not None and existing.fields["uid"] not in uids:
            return Change(Write(path, {"buried": texts}, ("buried",), stamp=existing.stamp))
        stamp = None if document is None else document.stamp
        return Change(removal(path, texts, self._shards, stamp), ended=existing)

    async def touch(self, slugs: Sequence[str], notices: Notices) -> None:
        def decide(document: StoredDocument | None, now: Instant) -> Change | None:
            if document is None or not is_row(document):
                return None
            fields = {"revision": document.fields["revision"] + 1}
            return Change(make_due(document, fields, now), edited=document)

        await self._write_pages({schedule_path(slug): decide for slug in slugs}, notices)

    async def _write_pages(self, todo: dict[str, Decide], notices: Notices) -> None:
        """Write all pages, also if a row of one can't be written because others keep writing it."""
        contended = False
        for page in _pages(list(todo.items())):
            contended |= not await self._write(dict(page), notices)
        if contended:
            raise busy()

    async def _write(self, todo: dict[str, Decide], notices: Notices) -> bool:
        """Read the documents, decide and write, and repeat that for those that others wrote meanwhile.

        Returns False if others keep writing some of them.
        """
        recorded: set[str] = set()
        commits = ContendedCommits()
        for attempt in range(ATTEMPTS):
            documents = await self._wire.get(list(todo))
            now = self._clock.earliest()
            changes = [change for path in todo if (change := todo[path](documents.get(path), now)) is not None]
            units = [[change.write, *self._records(change, now, recorded)] for change in changes]
            conflicting: list[str] = []
            for numbers in commits.pack(units):
                try:
                    await self._wire.commit([write for number in numbers for write in units[number]])
                except Conflict:
                    conflicting += [changes[number].write.path for number in numbers]
                    records = [write.path for number in numbers for write in units[number][1:]]
                    recorded |= set(await self._wire.get(records, ())) if records else set()
                    continue
                for number in numbers:
                    _add_notice(changes[number], now, notices)
            if not conflicting:
                return True
            todo = {path: todo[path] for path in conflicting}
            await pause(attempt)
        return False

    def _records(self, change: Change, now: Instant, recorded: set[str]) -> list[Write]:
        if change.ended is None:
            return []
        writes = record_writes(cut_off_records(change.ended, now), self._shards)
        return [write for write in writes if write.path not in recorded]


def _add_notice(change: Change, now: Instant, notices: Notices) -> None:
    if change.ended is not None:
        notices.changed.append(change.ended.fields["slug"])
    if change.edited is None:
        notices.add_due(change.due)
    elif change.edited.fields.get("owner") is not None:
        notices.changed.append(change.edited.fields["slug"])
    else:
        notices.add_due(now)


def _with_tombstone(tombstoned: dict[str, Instant], uid: str, now: Instant, definition: str) -> dict[str, Instant]:
    return {**tombstoned, uid: max(tombstoned.get(uid, 0), now + tombstone_kept_for(definition))}


def _pages(items: Sequence[T]) -> list[Sequence[T]]:
    return [items[start : start + PAGE] for start in range(0, len(items), PAGE)]
