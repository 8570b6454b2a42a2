"""How schedules, runs and replicas are written down as documents.

Below one collection (of the store's URL) each installation has a document of its own, and below that four
collections. Their names never change, so the index file that ships with the store fits every URL and installation,
and are unlikely to be anybody else's in the same database:

* ``sjob_schedules``: one document for each schedule. Its id is a hash of the slug: any slug gives a legal id, slugs
  that sort beside each other spread over the servers, and no two share one. ``born`` distinguishes objects of one slug
  apart and is part of the row's key.
* ``sjob_runs``: history, one document for each run, its id a hash of the run id.
* ``sjob_replicas``: who lives.
* ``sjob_locks``: who has which lock.

One more, ``sjob_presences``, is common to all installations and stands below a document beside theirs.

The tombstones of a slug, uids that must not come back, are in the slug's own document (``buried``), so that they are
read and checked together with the row. Where no row is left, the document is a tombstone only: it has no ``slug`` and
no ``wake_at``, so no query for rows finds it, and ``forget_at`` says when it may be removed.

An index whose values only grow takes 500 writes a second on one server; so ``wake_at``, ``finished``,
``expires`` and ``forget_at`` are indexed only behind ``shard``, which is a number below the installation's
``shards``, from the id.

A schedule's ``recent`` lists the runs of it that history keeps, oldest first, so that its owner, who writes the row
when a run ends, knows without a read which older run that one pushes out.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from scheduledjob.domain.schedule.state import Outcome, RunRecord, State, cut_off
from scheduledjob.engine.store import Key, Origin, Row
from scheduledjob.stores.tombstones import decode_keep

from .operations import Write

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scheduledjob.domain.time.instants import Instant
    from scheduledjob.engine.store import NewRow

    from .operations import Fields, Stamp, StoredDocument

SCHEDULES = "sjob_schedules"
RUNS = "sjob_runs"
REPLICAS = "sjob_replicas"
LOCKS = "sjob_locks"
PRESENCES = "sjob_presences"

MOST_RECENT = 1_000
"""How many runs ``recent`` lists at most; what it can't list goes by its age alone."""
MOST_TOMBSTONES = 1_000
"""How many uids of one slug are kept from coming back at most: beyond that the one that may come first."""


def document_id(name: str) -> str:
    """A legal and evenly spread id for any text; different texts have different ids."""
    return hashlib.blake2b(name.encode(), digest_size=20).hexdigest()


def schedule_path(slug: str) -> str:
    return f"{SCHEDULES}/{document_id(slug)}"


def run_path(run_id: str) -> str:
    return f"{RUNS}/{document_id(run_id)}"


def replica_path(replica: str) -> str:
    return f"{REPLICAS}/{document_id(replica)}"


def lock_path(name: str) -> str:
    return f"{LOCKS}/{document_id(name)}"


def presence_path(installation: str, replica: str) -> str:
    return f"{PRESENCES}/{document_id(f'{installation}/{replica}')}"


def path_of(key: Key) -> str:
    return f"{SCHEDULES}/{str(key).partition('.')[0]}"


def key_of(document: StoredDocument) -> str:
    return f"{document.path.rpartition('/')[2]}.{document.fields.get('born', '')}"


def shard_of(path: str, shards: int) -> int:
    return int(path.rpartition("/")[2][:8], 16) % shards


def definition_fields(new: NewRow, revision: int, now: Instant) -> Fields:
    return {
        "kind": new.kind,
        "origin": Origin(new.origin).value,
        "definition": new.definition,
        "payload": new.payload,
        "first": new.first,
        "generation": new.generation,
        "acts": new.requests,
        "edited_at": now,
        "revision": revision,
    }


def schedule_fields(new: NewRow, now: Instant, shards: int, tombstoned: Sequence[str] = ()) -> Fields:
    """Of a new row. What nobody waits for has no ``wake_at`` at all, so no query finds it."""
    fields = definition_fields(new, 1, now)
    fields |= {
        "slug": new.slug,
        "uid": new.uid,
        "born": secrets.token_hex(6),
        "shard": shard_of(schedule_path(new.slug), shards),
        "created_at": new.created_at,
        "version": 0,
        "state": new.state,
        "result": None,
        "recent": [],
    }
    if tombstoned:
        fields["buried"] = tombstoned
    if new.wake_at is not None:
        fields["wake_at"] = new.wake_at
    return fields


def row_of(document: StoredDocument) -> Row:
    fields = document.fields
    return Row(
        key_of(document),
        fields["slug"],
        fields["uid"],
        fields["kind"],
        fields["origin"],
        fields["definition"],
        fields["revision"],
        fields["edited_at"],
        fields.get("first"),
        fields.get("payload"),
        fields.get("result"),
        fields["created_at"],
        fields["version"],
        fields.get("wake_at"),
        fields["state"],
        False,
        fields.get("owner"),
        fields.get("generation", 0),
        fields.get("acts", ""),
    )


def is_row(document: StoredDocument) -> bool:
    """Return whether the document is a schedule, and not only a tombstone."""
    return "slug" in document.fields


def tombstones_in(document: StoredDocument | None, now: Instant) -> dict[str, Instant]:
    """The uids of that slug that are not taken again, until when."""
    if document is None:
        return {}
    entries = (text.partition(":") for text in document.fields.get("buried") or ())
    return {uid: int(until) for until, _, uid in entries if int(until) > now}


def tombstone_field(tombstoned: Mapping[str, Instant]) -> list[str]:
    """Those that are kept longest last; what is too much goes from the front."""
    return sorted(f"{until}:{uid}" for uid, until in tombstoned.items())[-MOST_TOMBSTONES:]


def removal(path: str, tombstoned: Sequence[str], shards: int, stamp: Stamp | None) -> Write:
    """Return the write that removes a schedule and leaves its tombstone, if any. No ``stamp``: nothing may exist."""
    if not tombstoned:
        return Write(path, stamp=stamp)
    fields: Fields = {
        "buried": tombstoned,
        "forget_at": max(int(text.partition(":")[0]) for text in tombstoned),
        "shard": shard_of(path, shards),
    }
    return Write(path, fields, exists=False if stamp is None else None, stamp=stamp)


def run_fields(record: RunRecord, shards: int) -> Fields:
    fields: dict[str, Any] = {name: getattr(record, name) for name in RunRecord.__struct_fields__}
    fields["outcome"] = Outcome(record.outcome).value
    fields["shard"] = shard_of(run_path(record.run_id), shards)
    return fields


def record_of(document: StoredDocument) -> RunRecord:
    return msgspec.convert(document.fields, RunRecord, strict=True)


def record_writes(records: Sequence[RunRecord], shards: int) -> list[Write]:
    """One for each run that history lacks; one given twice is written once."""
    unique = {record.run_id: record for record in reversed(records)}
    return [Write(run_path(name), run_fields(record, shards), exists=False) for name, record in unique.items()]


def cut_off_records(document: StoredDocument, now: Instant) -> list[RunRecord]:
    """Records of the runs that end with the schedule's deletion."""
    fields = document.fields
    state, keep = State.decode(fields["state"]), decode_keep(fields["definition"])
    owned = fields.get("owner") is not None
    return cut_off(state, uid=fields["uid"], slug=fields["slug"], now=now, owned=owned, keep=keep)


def with_records(recent: Sequence[str], records: Sequence[RunRecord]) -> tuple[list[str], list[str]]:
    """``recent`` after these runs have ended, and the paths of those that history need no longer keep."""
    entries = [_Entry.read(text) for text in recent]
    entries += [_Entry.of(record) for record in records]
    entries.sort(key=lambda entry: entry.finished)
    kept: list[str] = []
    surplus: list[str] = []
    newer: Counter[str] = Counter()
    for entry in reversed(entries):
        if newer[entry.shelf] >= entry.keep:
            surplus.append(f"{RUNS}/{entry.run}")
        elif len(kept) < MOST_RECENT:
            kept.append(str(entry))
        newer[entry.shelf] += 1
    kept.reverse()
    return kept, surplus


class _Entry(NamedTuple):
    """A run in ``recent``."""

    shelf: str
    """What ``keep`` counts within: a slug, and whether the run succeeded."""
    keep: int
    finished: Instant
    run: str

    @staticmethod
    def of(record: RunRecord) -> _Entry:
        shelf = ("s" if record.outcome is Outcome.SUCCEEDED else "f") + document_id(record.slug)[:8]
        return _Entry(shelf, record.keep, record.finished, document_id(record.run_id))

    @staticmethod
    def read(text: str) -> _Entry:
        shelf, keep, finished, run = text.split(":")
        return _Entry(shelf, int(keep), int(finished), run)

    def __str__(self) -> str:
        return f"{self.shelf}:{self.keep}:{self.finished}:{self.run}"
