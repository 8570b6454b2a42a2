"""The index file: the emulator asks for no index and Firestore does, so what is asked is compared with what ships."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pytest

from scheduledjob.domain.time.instants import HOUR
from scheduledjob.engine.store import Origin, ReplicaInfo
from scheduledjob.stores.firestore.layout import LOCKS, PRESENCES, REPLICAS, RUNS, SCHEDULES
from scheduledjob.stores.firestore.operations import Query
from scheduledjob.stores.firestore.wire import Wire
from tests.stores.support import claim, desired, record, settlement

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from scheduledjob.stores.firestore import FirestoreStore
    from scheduledjob.stores.firestore.operations import StoredDocument

pytestmark = pytest.mark.firestore

Index = tuple[str, frozenset[str], str, str]
"""(collection, fields compared for equality, field of the order, its direction)"""


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
        names = frozenset(each["fieldPath"] for each in equal)
        indexes.add((index["collectionGroup"], names, last["fieldPath"], last["order"]))
    return indexes


async def use_everything(one: FirestoreStore, two: FirestoreStore) -> None:
    now = await one.now()
    await one.put(
        [desired("a", now, origin=Origin.MANIFEST), desired("b", now + HOUR), desired("c", now)], replace=False
    )
    for _ in range(2):
        for row in (await claim(one, kinds=["print", "other"])).rows:
            end = settlement(row, wake_at=now, records=[record(f"run-{now}-{row.slug}", now, slug=row.slug)])
            await one.settle("alice", [end])
    batches = [await claim(one, limit=1), await claim(two, limit=1, replica="bob")]
    assert [len(batch.rows) for batch in batches] == [1, 1]
    two._claims._lost = [now]
    await claim(two, replica="bob")
    for origin in (None, Origin.MANIFEST):
        await one.rows(origin=origin)
        await one.rows(origin=origin, after="a")
    for slug in (None, "a"):
        await one.history(slug)
        await one.history(slug, before=now)
    await one.history("a", uid="uid-of-a")
    await one.announce(ReplicaInfo("alice", "1", 1), now)
    await one.tombstone([("d", "uid-of-d")])
    await one.reconcile([desired("d", now, origin=Origin.CLUSTER)])
    await one.touch(["d"])
    await one.lock("sweep", "carol", HOUR)
    await one.present("carol", "cluster", [], HOUR)
    await one.withdraw("carol")
    await one.prune()
    await one.get(["a"])
    await one.recorded(["run"])
    await one.clear(Origin.MANIFEST)
    await one.clear()


@pytest.fixture
async def asked(open_one: Callable[..., Awaitable[FirestoreStore]], monkeypatch: pytest.MonkeyPatch) -> list[Query]:
    """Every query that the store makes."""
    queries: list[Query] = []
    real = Wire.query

    async def query(wire: Wire, query: Query) -> list[StoredDocument]:
        queries.append(query)
        return await real(wire, query)

    monkeypatch.setattr(Wire, "query", query)
    await use_everything(await open_one("?shards=2"), await open_one())
    return list(queries)


async def test_each_query_has_its_index_and_each_index_its_query(asked: list[Query]) -> None:
    overridden = {(each["collectionGroup"], each["fieldPath"]) for each in shipped()["fieldOverrides"]}
    composite: set[Index] = set()
    for query in asked:
        if query.equals or query.within:
            composite.add(needed(query))
        else:
            # One field alone: Firestore makes that index itself, unless it was told not to.
            assert (query.collection, query.order) not in overridden
    assert composite == offered()


async def test_no_field_is_indexed_that_no_query_orders_by(
    asked: list[Query], open_one: Callable[..., Awaitable[FirestoreStore]]
) -> None:
    """Growing values in an index are a hot spot, and large ones cost storage."""
    store = await open_one()
    now = await store.now()
    await store.put([desired("a", now), desired("b", now)], replace=False)
    one, _ = (await claim(store)).rows
    await store.settle("alice", [settlement(one, records=[record("run", now)])])
    await store.announce(ReplicaInfo("alice", "1", 1), now)
    await store.tombstone([("c", "uid-of-c")])
    await store.lock("sweep", "alice", HOUR)
    await store.present("alice", "cluster", [], HOUR)
    orders = [(SCHEDULES, "slug"), (SCHEDULES, "forget_at"), (RUNS, "finished"), (REPLICAS, "seen_at")]
    orders += [(LOCKS, "name"), (PRESENCES, "since")]
    written: dict[str, set[str]] = {collection: set() for collection, _ in orders}
    for collection, order in orders:
        wire = store._presence._common if collection == PRESENCES else store._wire
        for document in await wire.query(Query(collection, order, limit=100)):
            written[collection].update(document.fields)
    by_itself = {(query.collection, query.order) for query in asked if not query.equals and not query.within}
    overridden = {(each["collectionGroup"], each["fieldPath"]) for each in shipped()["fieldOverrides"]}
    assert {(collection, name) for collection, names in written.items() for name in names} == by_itself | overridden
    assert not by_itself & overridden
