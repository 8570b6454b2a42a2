"""What replicas hand over from a cluster: sightings of objects, and the end of them.

A slug's row and its tombstones are one document. So one read is enough to decide about an observed object, and the
result is written on condition that nobody has changed the document since: no tombstone can appear in between. Nothing
is written for what is unchanged, which is nearly everything. If a condition fails, the document is read again.

**All or none** holds for one page of 200 rows, as far as it fits into one commit (8 MiB); what is interrupted may be
half done, and is made whole by doing it again, as replicas do anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from scheduledjob.engine.store import NewRow, Put
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
from .operations import StoredDocument, Write, packs
from .retrying import pause
from .schedules import PAGE, TRIES, ChangeNotice, busy, looked_at
from .wire import Conflict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from scheduledjob.domain.time.instants import Instant

    from .clock import FirestoreClock
    from .wire import Wire

T = TypeVar("T")


@dataclass(slots=True)
class Change:
    """What is written for one slug, and what that tells."""

    write: Write
    ended: StoredDocument | None = None
    """A row that this removes."""
    edited: StoredDocument | None = None
    """A row that this has somebody look at."""
    due: Instant | None = None
    """Of a new row."""


if TYPE_CHECKING:
    Decide: TypeAlias = Callable[[StoredDocument | None, Instant], Change | None]
    """What to do for a slug whose document is this, by the store's clock; asked again after a conflict."""


class FirestoreReconciling:
    """Writes observed objects, and tombstones of deleted ones."""

    def __init__(self, wire: Wire, clock: FirestoreClock, shards: int) -> None:
        self._wire = wire
        self._clock = clock
        self._shards = shards

    async def reconcile(self, rows: Sequence[NewRow], told: ChangeNotice) -> list[Put]:
        answers: dict[str, Put] = {}

        def seen(new: NewRow) -> Decide:
            def decide(document: StoredDocument | None, now: Instant) -> Change | None:
                answers[new.slug], change = self._seen(new, document, now)
                return change

            return decide

        for page in _pages(list(by_unique_slug(rows).values())):
            await self._carry_out({schedule_path(row.slug): seen(row) for row in page}, told)
        return [answers[row.slug] for row in rows]

    def _seen(self, new: NewRow, document: StoredDocument | None, now: Instant) -> tuple[Put, Change | None]:
        there = document if document is not None and is_row(document) else None
        row = None if there is None else row_of(there)
        tombstoned = tombstones_in(document, now)
        put = decide_upsert(row, new, tombstoned=new.uid in tombstoned)
        if put is Put.UPDATED and there is not None and row is not None:
            fields = definition_fields(new, row.revision + 1, now)
            if row.generation == new.generation:
                del fields["payload"]
            return put, Change(looked_at(there, fields, now), edited=there)
        if put is Put.CREATED:
            if row is not None:
                tombstoned = _and_tombstones(tombstoned, row.uid, now, row.definition)
            fields = schedule_fields(new, now, self._shards, tombstone_field(tombstoned))
            path = schedule_path(new.slug)
            write = Write(path, fields, exists=False) if document is None else Write(path, fields, stamp=document.stamp)
            return put, Change(write, ended=there, due=new.wake_at)
        return put, None

    async def tombstone(self, identities: Sequence[tuple[str, str]], told: ChangeNotice) -> list[bool]:
        uids: dict[str, set[str]] = {}
        for slug, uid in identities:
            uids.setdefault(slug, set()).add(uid)
        ended: dict[str, str | None] = {}

        def over(slug: str) -> Decide:
            def decide(document: StoredDocument | None, now: Instant) -> Change | None:
                change = self._over(schedule_path(slug), uids[slug], document, now)
                ended[slug] = None if change.ended is None else change.ended.fields["uid"]
                return change

            return decide

        for page in _pages(list(uids)):
            await self._carry_out({schedule_path(slug): over(slug) for slug in page}, told)
        return [ended[slug] == uid for slug, uid in identities]

    def _over(self, path: str, uids: set[str], document: StoredDocument | None, now: Instant) -> Change:
        there = document if document is not None and is_row(document) else None
        tombstoned = tombstones_in(document, now)
        for uid in uids:
            mine = there is not None and there.fields["uid"] == uid
            tombstoned = _and_tombstones(
                tombstoned, uid, now, there.fields["definition"] if there is not None and mine else ""
            )
        texts = tombstone_field(tombstoned)
        if there is not None and there.fields["uid"] not in uids:
            return Change(Write(path, {"buried": texts}, ("buried",), stamp=there.stamp))
        stamp = None if document is None else document.stamp
        return Change(removal(path, texts, self._shards, stamp), ended=there)

    async def touch(self, slugs: Sequence[str], told: ChangeNotice) -> None:
        def decide(document: StoredDocument | None, now: Instant) -> Change | None:
            if document is None or not is_row(document):
                return None
            fields = {"revision": document.fields["revision"] + 1}
            return Change(looked_at(document, fields, now), edited=document)

        for page in _pages(list(dict.fromkeys(slugs))):
            await self._carry_out({schedule_path(slug): decide for slug in page}, told)

    async def _carry_out(self, todo: dict[str, Decide], told: ChangeNotice) -> None:
        """Read the documents, decide, write; and so again with those that others wrote meanwhile."""
        recorded: set[str] = set()
        for attempt in range(TRIES):
            documents = await self._wire.get(list(todo))
            now = self._clock.earliest()
            changes = [change for path in todo if (change := todo[path](documents.get(path), now)) is not None]
            units = [[change.write, *self._records(change, now, recorded)] for change in changes]
            crossed: list[str] = []
            for numbers in packs(units):
                try:
                    await self._wire.commit([write for number in numbers for write in units[number]])
                except Conflict:
                    crossed += [changes[number].write.path for number in numbers]
                    records = [write.path for number in numbers for write in units[number][1:]]
                    recorded |= set(await self._wire.get(records, ())) if records else set()
                    continue
                for number in numbers:
                    _tell(changes[number], now, told)
            if not crossed:
                return
            todo = {path: todo[path] for path in crossed}
            await pause(attempt)
        raise busy()

    def _records(self, change: Change, now: Instant, recorded: set[str]) -> list[Write]:
        if change.ended is None:
            return []
        writes = record_writes(cut_off_records(change.ended, now), self._shards)
        return [write for write in writes if write.path not in recorded]


def _tell(change: Change, now: Instant, told: ChangeNotice) -> None:
    if change.ended is not None:
        told.changed.append(change.ended.fields["slug"])
    if change.edited is None:
        told.becomes_due(change.due)
    elif change.edited.fields.get("owner") is not None:
        told.changed.append(change.edited.fields["slug"])
    else:
        told.becomes_due(now)


def _and_tombstones(tombstoned: dict[str, Instant], uid: str, now: Instant, definition: str) -> dict[str, Instant]:
    return {**tombstoned, uid: max(tombstoned.get(uid, 0), now + tombstone_kept_for(definition))}


def _pages(each: Sequence[T]) -> list[Sequence[T]]:
    return [each[start : start + PAGE] for start in range(0, len(each), PAGE)]
