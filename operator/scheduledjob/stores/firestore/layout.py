"""How schedules, runs and replicas are stored as documents.

Below the collection that the store's URL names, each installation has a document, and below that five collections.
Their names never change, so the index file that ships with the store fits every URL and installation. And other
programs that share the database are unlikely to use the same names.

* ``sjob_schedules``: one document for each schedule. Its id is a hash of the slug, so any slug gives a legal id, slugs
  that sort close together spread over the servers, and no two slugs share an id. ``born`` distinguishes the schedules
  that had the same slug one after the other; it is part of the row's key.
* ``sjob_runs``: history, one document for each run. Its id is a hash of the run id.
* ``sjob_replicas``: the replicas that are alive, and a heartbeat document of each process that uses the store, by which
  it measures the store's clock.
* ``sjob_locks``: the locks, and which replica has each.
* ``sjob_hooks``: calls of hooks that are not delivered yet.

All installations share one more collection, ``sjob_presences``, below a document beside theirs.

The tombstones of a slug are in the slug's own document (``buried``), so that they are read and checked together with
the row. If there is no row, the document holds tombstones only: it has no ``slug`` and no ``wake_at``, so no query for
rows finds it, and ``forget_at`` says when it may be deleted.

An index whose values only grow allows 500 writes a second, because they all go to one server. So ``wake_at``,
``finished``, ``expires`` and ``forget_at`` are indexed only behind ``shard``, a number that is derived from the id and
less than the installation's ``shards``.

A schedule's ``recent`` lists the runs that history keeps of it, the oldest first. So the owner, who writes the row
when a run ends, knows without a read which older run the new one pushes out.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from scheduledjob.domain.schedule.state import Outcome, RunRecord, State, cut_off
from scheduledjob.engine.capacity import LIBRARY, tenant_of
from scheduledjob.engine.stored_row import DEFAULT_TENANT, Key, Origin, Row
from scheduledjob.stores.tombstones import decode_keep

from .operations import Write

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scheduledjob.domain.time.instants import Instant
    from scheduledjob.engine.stored_row import HookCall, NewRow

    from .operations import Fields, Stamp, StoredDocument

SCHEDULES = "sjob_schedules"
RUNS = "sjob_runs"
REPLICAS = "sjob_replicas"
LOCKS = "sjob_locks"
HOOKS = "sjob_hooks"
PRESENCES = "sjob_presences"

MAX_RECENT = 1_000
"""The most runs that ``recent`` lists. Runs beyond that are dropped when they expire."""
MAX_TOMBSTONES = 1_000
"""The most tombstones of one slug. Beyond that, those that expire first are dropped early."""


def document_id(name: str) -> str:
    """Return a legal and evenly distributed id for any text. Different texts have different ids."""
    return hashlib.blake2b(name.encode(), digest_size=20).hexdigest()


def schedule_path(slug: str) -> str:
    return f"{SCHEDULES}/{document_id(slug)}"


def run_path(run_id: str) -> str:
    return f"{RUNS}/{document_id(run_id)}"


def replica_path(replica: str) -> str:
    return f"{REPLICAS}/{document_id(replica)}"


def hook_path(run_id: str, number: int) -> str:
    return f"{HOOKS}/{document_id(f'{number}/{run_id}')}"


def hook_write(call: HookCall, now: Instant) -> Write:
    """Return the write that adds a call of a hook."""
    fields: Fields = {
        "run_id": call.run_id,
        "number": call.number,
        "slug": call.slug,
        "uid": call.uid,
        "data": call.data,
        "attempt": 0,
        "due": now,
    }
    return Write(hook_path(call.run_id, call.number), fields)


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
    fields: Fields = {
        "kind": new.kind,
        "origin": Origin(new.origin).value,
        "definition": new.definition,
        "first": new.first,
        "generation": new.generation,
        "acts": new.requests,
        "tenant": tenant_of(new),
        "edited_at": now,
        "revision": revision,
    }
    if not (new.keep_payload and revision > 1):
        fields |= {"payload": new.payload, "payload_revision": revision}
    return fields


def schedule_fields(new: NewRow, now: Instant, shards: int, tombstoned: Sequence[str] = ()) -> Fields:
    """Return the fields of a new row. A row that is never due has no ``wake_at`` at all, so no query finds it."""
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
        key=key_of(document),
        slug=fields["slug"],
        uid=fields["uid"],
        kind=fields["kind"],
        origin=fields["origin"],
        definition=fields["definition"],
        revision=fields["revision"],
        edited_at=fields["edited_at"],
        first=fields.get("first"),
        payload=fields.get("payload"),
        result=fields.get("result"),
        created_at=fields["created_at"],
        version=fields["version"],
        wake_at=fields.get("wake_at"),
        state=fields["state"],
        owner=fields.get("owner"),
        generation=fields.get("generation", 0),
        requests=fields.get("acts", ""),
        tenant=fields.get("tenant", "") if fields["origin"] == LIBRARY else DEFAULT_TENANT,
        payload_revision=fields.get("payload_revision", 0),
    )


def is_row(document: StoredDocument) -> bool:
    """Return whether the document holds a schedule, and not only tombstones."""
    return "slug" in document.fields


def tombstones_in(document: StoredDocument | None, now: Instant) -> dict[str, Instant]:
    """Return the uids of that slug that have tombstones, and when these expire."""
    if document is None:
        return {}
    entries = (text.partition(":") for text in document.fields.get("buried") or ())
    return {uid: int(until) for until, _, uid in entries if int(until) > now}


def tombstone_field(tombstoned: Mapping[str, Instant]) -> list[str]:
    """Return the tombstones as they are stored, ordered by when they expire, without those beyond the limit."""
    return sorted(f"{until}:{uid}" for uid, until in tombstoned.items())[-MAX_TOMBSTONES:]


def removal(path: str, tombstoned: Sequence[str], shards: int, stamp: Stamp | None) -> Write:
    """Return the write that removes a schedule and leaves its tombstones, if any.

    Without a ``stamp``, the document must not exist.
    """
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
    """Return the writes that add runs to history, one for each run. They fail if history has the run already."""
    unique = {record.run_id: record for record in reversed(records)}
    return [Write(run_path(run_id), run_fields(record, shards), exists=False) for run_id, record in unique.items()]


def cut_off_records(document: StoredDocument, now: Instant) -> list[RunRecord]:
    """Return records of the runs that end if the schedule is deleted now; none if a newer version has written it."""
    fields = document.fields
    try:
        state, keep = State.decode(fields["state"]), decode_keep(fields["definition"])
    except ValueError:
        return []
    owned = fields.get("owner") is not None
    return cut_off(state, uid=fields["uid"], slug=fields["slug"], now=now, owned=owned, keep=keep)


def add_to_recent(recent: Sequence[str], records: Sequence[RunRecord]) -> tuple[list[str], list[str]]:
    """Return ``recent`` after these runs have ended, and the paths of the runs that they push out of history."""
    entries = [_RecentRun.parse(text) for text in recent]
    entries += [_RecentRun.of(record) for record in records]
    entries.sort(key=lambda entry: entry.finished)
    kept: list[str] = []
    surplus: list[str] = []
    newer: Counter[str] = Counter()
    for entry in reversed(entries):
        if newer[entry.group] >= entry.keep:
            surplus.append(f"{RUNS}/{entry.run}")
        elif len(kept) < MAX_RECENT:
            kept.append(str(entry))
        newer[entry.group] += 1
    kept.reverse()
    return kept, surplus


class _RecentRun(NamedTuple):
    """A run in ``recent``."""

    group: str
    """The slug, and whether the run succeeded: ``keep`` limits the number of runs in such a group."""
    keep: int
    finished: Instant
    run: str

    @staticmethod
    def of(record: RunRecord) -> _RecentRun:
        group = ("s" if record.outcome is Outcome.SUCCEEDED else "f") + document_id(record.slug)[:8]
        return _RecentRun(group, record.keep, record.finished, document_id(record.run_id))

    @staticmethod
    def parse(text: str) -> _RecentRun:
        group, keep, finished, run = text.split(":")
        return _RecentRun(group, int(keep), int(finished), run)

    def __str__(self) -> str:
        return f"{self.group}:{self.keep}:{self.finished}:{self.run}"
