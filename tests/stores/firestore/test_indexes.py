"""The index file. The emulator needs no indexes, but Firestore does, so the queries are compared with the file."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pytest

from scheduledjob.domain.time.instants import HOUR
from scheduledjob.engine.store import Quotas, ReplicaInfo
from scheduledjob.engine.stored_row import HookCall, Origin
from scheduledjob.stores.firestore.layout import HOOKS, LOCKS, PRESENCES, REPLICAS, RUNS, SCHEDULES
from scheduledjob.stores.firestore.operations import Query
from scheduledjob.stores.firestore.wire import Wire
from tests.stores.support import claim, desired, record, settlement

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from scheduledjob.stores.firestore import FirestoreStore
    from scheduledjob.stores.firestore.operations import StoredDocument

pytestmark = pytest.mark.firestore

Index = tuple[str, frozenset[str], str, str]
"""(collection, fields compared for equality, ordering field, its direction)"""


def shipped() -> dict[str, Any]:
    text = files("scheduledjob.stores.firestore").joinpath("firestore.indexes.json").read_text()
    found: dict[str, Any] = json.loads(text)
    return found


def needed(query: Query) -> Index:
    equal = frozenset({*query.equals, *query.within})
    return query.collection, equal, query.order, "DESCENDING" if query.descending else "ASCENDING"


def offered() -> set[Index]:
    indexes = set()
    for index in shipped()["indexes"]:
        assert index["queryScope"] == "COLLECTION"
        *equal, last = index["fields"]
        names = frozenset(condition["fieldPath"] for condition in equal)
        indexes.add((index["collectionGroup"], names, last["fieldPath"], last["order"]))
    return indexes


async def use_everything(first: FirestoreStore, second: FirestoreStore) -> None:
    now = await first.now()
    await first.put(
        [desired("a", now, origin=Origin.MANIFEST), desired("b", now + HOUR), desired("c", now)], replace=False
    )
    for _ in range(2):
        for row in (await claim(first, kinds=["print", "other"])).rows:
            end = settlement(row, wake_at=now, records=[record(f"run-{now}-{row.slug}", now, slug=row.slug)])
            await first.settle("alice", [end])
    batches = [await claim(first, limit=1), await claim(second, limit=1, replica="bob")]
    assert [len(batch.rows) for batch in batches] == [1, 1]
    await first.claim("alice", ["print"], limit=1, ahead=0, lease=HOUR, quotas=Quotas({"a": 1}, 1))
    second._claims._lost = [now]
    await claim(second, replica="bob")
    for origin in (None, Origin.MANIFEST):
        await first.rows(origin=origin)
        await first.rows(origin=origin, after="a")
    for slug in (None, "a"):
        await first.history(slug)
        await first.history(slug, before=now)
    await first.history("a", uid="uid-of-a")
    await first.announce(ReplicaInfo("alice", "1", 1), now)
    await first.tombstone([("d", "uid-of-d")])
    await first.reconcile([desired("d", now, origin=Origin.CLUSTER)])
    await first.touch(["d"])
    await first.lock("sweep", "carol", HOUR)
    await first.present("carol", "cluster", [], HOUR)
    await first.withdraw("carol")
    await first.claim_hooks(limit=1, lease=HOUR)
    await first.prune()
    await first.get(["a"])
    await first.recorded(["run"])
    await first.clear(Origin.MANIFEST)
    await first.clear()


@pytest.fixture
async def asked(open_one: Callable[..., Awaitable[FirestoreStore]], monkeypatch: pytest.MonkeyPatch) -> list[Query]:
    """Return every query that the store makes."""
    queries: list[Query] = []
    real = Wire.query

    async def query(wire: Wire, query: Query) -> list[StoredDocument]:
        queries.append(query)
        return await real(wire, query)

    monkeypatch.setattr(Wire, "query", query)
    await use_everything(await open_one("?shards=2"), await open_one())
    return list(queries)


async def test_each_query_has_its_index_and_each_index_its_query(asked: list[Query]) -> None:
    overridden = {(override["collectionGroup"], override["fieldPath"]) for override in shipped()["fieldOverrides"]}
    composite: set[Index] = set()
    for query in asked:
        if query.equals or query.within:
            composite.add(needed(query))
        else:
            # Firestore makes indexes of a single field by itself, unless an exemption says otherwise.
            assert (query.collection, query.order) not in overridden
    assert composite == offered()


async def test_only_fields_that_a_query_orders_by_are_indexed(
    asked: list[Query], open_one: Callable[..., Awaitable[FirestoreStore]]
) -> None:
    """Growing values in an index are a hot spot, and large values cost storage."""
    store = await open_one()
    now = await store.now()
    await store.put([desired("a", now), desired("b", now)], replace=False)
    row, _ = (await claim(store)).rows
    ends = settlement(row, records=[record("run", now)])
    ends.hooks = [HookCall("run", 0, "a", "uid-of-a", b"data")]
    await store.settle("alice", [ends])
    await store.announce(ReplicaInfo("alice", "1", 1), now)
    await store.tombstone([("c", "uid-of-c")])
    await store.lock("sweep", "alice", HOUR)
    await store.present("alice", "cluster", [], HOUR)
    orders = [(SCHEDULES, "slug"), (SCHEDULES, "forget_at"), (RUNS, "finished"), (REPLICAS, "seen_at")]
    orders += [(LOCKS, "name"), (PRESENCES, "since"), (HOOKS, "due")]
    written: dict[str, set[str]] = {collection: set() for collection, _ in orders}
    for collection, order in orders:
        wire = store._presence._common if collection == PRESENCES else store._wire
        for document in await wire.query(Query(collection, order, limit=100)):
            written[collection].update(document.fields)
    by_itself = {(query.collection, query.order) for query in asked if not query.equals and not query.within}
    overridden = {(override["collectionGroup"], override["fieldPath"]) for override in shipped()["fieldOverrides"]}
    assert {(collection, name) for collection, names in written.items() for name in names} == by_itself | overridden
    assert not by_itself & overridden
