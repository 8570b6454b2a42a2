"""What clients write: new and changed schedules, and deletions.

A schedule with a new slug is a document that must not exist yet. A change of an existing one is written on condition
that nobody has changed the document since it was read, because whether it is due at once depends on whether a replica
owns it. If such a condition fails, the document is read again.

**All or none** holds for one commit: up to 500 rows, or 8 MiB. A longer ``put`` is several commits, one after the
other, and others may see the first of them before the last is made. Without ``replace`` all slugs are looked up
first, so it is refused as a whole in all cases but one: somebody schedules one of the slugs in the same moment. Then
what this call has created is taken back, unless a replica has claimed it meanwhile, before SlugTaken is raised. A
long ``put`` that ends in StoreUnavailable may be half done; repeated with ``replace`` it finds what is there
unchanged, and does the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scheduledjob.engine.store import Origin, Put, SlugTaken, StoreUnavailable
from scheduledjob.stores.tombstones import by_unique_slug, without_cluster_fields

from .layout import (
    SCHEDULES,
    cut_off_records,
    definition_fields,
    is_row,
    record_writes,
    removal,
    schedule_fields,
    schedule_path,
    tombstone_field,
    tombstones_in,
)
from .operations import Query, StoredDocument, Write, packs
from .retrying import pause
from .wire import Conflict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.domain.time.instants import Instant
    from scheduledjob.engine.store import NewRow

    from .clock import FirestoreClock
    from .operations import Fields, Stamp
    from .wire import Wire

TRIES = 10
"""How often one call looks again at rows that others keep writing."""
PAGE = 200
"""Schedules that are read, and ended, at once."""


class ChangeNotice:
    """What a call changed that a replica in this process wants to know."""

    def __init__(self) -> None:
        self.due: Instant | None = None
        self.changed: list[str] = []

    def becomes_due(self, wake_at: Instant | None) -> None:
        if wake_at is not None and (self.due is None or wake_at < self.due):
            self.due = wake_at


class FirestoreSchedules:
    """Puts and deletes."""

    def __init__(self, wire: Wire, clock: FirestoreClock, shards: int) -> None:
        self._wire = wire
        self._clock = clock
        self._shards = shards

    # ---- put

    async def put(self, rows: Sequence[NewRow], *, replace: bool, told: ChangeNotice) -> list[Put]:
        rows = list(map(without_cluster_fields, by_unique_slug(rows).values()))
        if replace:
            answers: list[Put] = []
            for start in range(0, len(rows), PAGE):
                answers += await self._replace(rows[start : start + PAGE], told)
            return answers
        await self._create(rows, told)
        return [Put.CREATED] * len(rows)

    async def _create(self, rows: Sequence[NewRow], told: ChangeNotice) -> None:
        writes = [
            Write(schedule_path(row.slug), schedule_fields(row, self._clock.earliest(), self._shards), exists=False)
            for row in rows
        ]
        commits = packs([[write] for write in writes])
        if len(commits) > 1:
            await self._none_taken(rows)
        created: list[tuple[Write, Stamp]] = []
        for numbers in commits:
            stamps = await self._create_one(rows, [writes[number] for number in numbers], created)
            created += [(writes[number], stamp) for number, stamp in zip(numbers, stamps, strict=True)]
        for row in rows:
            told.becomes_due(row.wake_at)

    async def _create_one(
        self, rows: Sequence[NewRow], writes: Sequence[Write], created: Sequence[tuple[Write, Stamp]]
    ) -> list[Stamp]:
        """One commit; where a slug is taken, ``created`` by the commits before it is taken back."""
        for attempt in range(TRIES):
            try:
                return await self._wire.commit(writes)
            except Conflict as conflict:
                if not conflict.aborted:
                    paths = {write.path for write, _ in created}
                    try:
                        tombstones = await self._none_taken(
                            [row for row in rows if schedule_path(row.slug) not in paths]
                        )
                    except SlugTaken:
                        await self._wire.batch_write([self._taken_back(write, stamp) for write, stamp in created])
                        raise
                    for write in writes:
                        self._keep_tombstones(write, tombstones.get(write.path))
            await pause(attempt)
        raise busy()

    async def _none_taken(self, rows: Sequence[NewRow]) -> dict[str, StoredDocument]:
        """Return the tombstones at the rows' paths. Raises SlugTaken if there is a schedule at one."""
        there = await self._wire.get([schedule_path(row.slug) for row in rows], ("slug", "buried"))
        found = {path for path, document in there.items() if is_row(document)}
        if taken := [row.slug for row in rows if schedule_path(row.slug) in found]:
            raise SlugTaken(taken)
        return there

    def _keep_tombstones(self, write: Write, tombstone: StoredDocument | None) -> None:
        """Let the write of a new row keep the tombstones at its path."""
        assert write.fields is not None
        write.fields["buried"] = tombstone_field(tombstones_in(tombstone, self._clock.earliest()))
        write.exists, write.stamp = (False, None) if tombstone is None else (None, tombstone.stamp)

    def _taken_back(self, write: Write, stamp: Stamp) -> Write:
        tombstoned = (write.fields or {}).get("buried") or ()
        assert isinstance(tombstoned, (list, tuple))
        return removal(write.path, tombstoned, self._shards, stamp)

    async def _replace(self, rows: Sequence[NewRow], told: ChangeNotice) -> list[Put]:
        """One page; in as many commits as its size takes."""
        answers: dict[str, Put] = {}
        todo = list(rows)
        for attempt in range(TRIES):
            there = await self._wire.get([schedule_path(row.slug) for row in todo])
            now = self._clock.earliest()
            changes: list[tuple[NewRow, Write, Put]] = []
            for row in todo:
                document = there.get(schedule_path(row.slug))
                if document is None or not is_row(document):
                    write = Write(schedule_path(row.slug), schedule_fields(row, now, self._shards), exists=False)
                    if document is not None:
                        self._keep_tombstones(write, document)
                    changes.append((row, write, Put.CREATED))
                elif _differs(document, row):
                    changes.append((row, edit(document, row, now), Put.UPDATED))
                else:
                    answers[row.slug] = Put.UNCHANGED
            for numbers in packs([[write] for _, write, _ in changes]):
                some = [changes[number] for number in numbers]
                try:
                    await self._wire.commit([write for _, write, _ in some])
                except Conflict:
                    continue
                for row, write, answer in some:
                    answers[row.slug] = answer
                    document = there.get(write.path)
                    if document is not None and document.fields.get("owner") is not None:
                        told.changed.append(row.slug)
                    else:
                        told.becomes_due(now if answer is Put.UPDATED else row.wake_at)
            todo = [row for row in todo if row.slug not in answers]
            if not todo:
                return [answers[row.slug] for row in rows]
            await pause(attempt)
        raise busy()

    # ---- delete

    async def delete(self, slugs: Sequence[str], told: ChangeNotice) -> list[bool]:
        ended: set[str] = set()
        paths = list(dict.fromkeys(schedule_path(slug) for slug in slugs))
        for start in range(0, len(paths), PAGE):
            there = (await self._wire.get(paths[start : start + PAGE])).values()
            ended |= await self._end([each for each in there if is_row(each)], told)
        return [schedule_path(slug) in ended for slug in slugs]

    async def clear(self, origin: Origin | None, told: ChangeNotice) -> int:
        ended = 0
        after = ""
        while page := await self._wire.query(page_query(origin, after, PAGE)):
            ended += len(await self._end(page, told, origin))
            after = page[-1].fields["slug"]
        return ended

    async def _end(
        self, documents: Sequence[StoredDocument], told: ChangeNotice, origin: Origin | None = None
    ) -> set[str]:
        """Delete these schedules with a record of each run that this cuts off; the paths of those that were there."""
        ended: set[str] = set()
        recorded: set[str] = set()
        for attempt in range(TRIES):
            now = self._clock.earliest()
            units = [
                [
                    removal(each.path, tombstone_field(tombstones_in(each, now)), self._shards, each.stamp),
                    *(
                        write
                        for write in record_writes(cut_off_records(each, now), self._shards)
                        if write.path not in recorded
                    ),
                ]
                for each in documents
            ]
            todo: list[str] = []
            for numbers in packs(units):
                try:
                    await self._wire.commit([write for number in numbers for write in units[number]])
                except Conflict:
                    todo += [documents[number].path for number in numbers]
                    records = [write.path for number in numbers for write in units[number][1:]]
                    recorded |= set(await self._wire.get(records, ()))
                    continue
                ended |= {documents[number].path for number in numbers}
                told.changed += [documents[number].fields["slug"] for number in numbers]
            if not todo:
                return ended
            await pause(attempt)
            there = (each for each in (await self._wire.get(todo)).values() if is_row(each))
            documents = [each for each in there if origin is None or each.fields["origin"] == origin.value]
        raise busy()


def page_query(origin: Origin | None, after: str, limit: int) -> Query:
    """Schedules in order of slug, those greater than ``after``."""
    return Query(SCHEDULES, "slug", equals={} if origin is None else {"origin": origin.value}, more=after, limit=limit)


def _differs(document: StoredDocument, new: NewRow) -> bool:
    """Whether ``new`` asks for anything that is not there already."""
    there = document.fields
    return new.first is not None or any(
        there.get(name) != wanted
        for name, wanted in (("kind", new.kind), ("definition", new.definition), ("payload", new.payload))
    )


def edit(document: StoredDocument, new: NewRow, now: Instant) -> Write:
    """The revision of the definition."""
    return looked_at(document, definition_fields(new, document.fields["revision"] + 1, now), now)


def looked_at(document: StoredDocument, fields: Fields, now: Instant) -> Write:
    """These fields written, and the row due at once where nobody owns it."""
    wake_at = document.fields.get("wake_at")
    if document.fields.get("owner") is None and (wake_at is None or wake_at > now):
        fields["wake_at"] = now
    return Write(document.path, fields, list(fields), stamp=document.stamp)


def busy() -> StoreUnavailable:
    return StoreUnavailable("the rows could not be written, because others keep writing them: try again")
