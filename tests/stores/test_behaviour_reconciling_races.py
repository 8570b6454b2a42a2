"""Every store: replicas that observe a cluster at once in different orders, while rows are claimed and settled.

What happened is a list of events. Each replica writes all of them, shuffled and some of them twice, as replicas do
whose watches break and start again. Whatever the order, a deleted object stays deleted, and once every replica has
written the current objects, the store has exactly these.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import pytest

from scheduledjob.domain.schedule.requests import Requests
from scheduledjob.domain.schedule.state import Run, State
from scheduledjob.domain.time.instants import SECOND
from scheduledjob.engine.store import Put
from scheduledjob.engine.stored_row import Disposition, NewRow, Origin, Row

from .support import KIND, claim, settlement, take_one

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.engine.store import Store

    from .conftest import StoreFactory

SLUGS = [f"ns/job-{n}" for n in range(6)]
REPLICAS = 4
RUNNING = State(decided_until=7, runs=[Run(slot=7, due=7, begun=8)]).encode()


def observed_object(slug: str, uid: str, created_at: int, generation: int, requests: str) -> NewRow:
    return NewRow(
        slug=slug,
        uid=uid,
        kind=KIND,
        origin=Origin.CLUSTER,
        definition=f"{uid} {generation}",
        state=RUNNING,
        wake_at=1,
        payload=b"%d" % generation,
        created_at=created_at,
        generation=generation,
        requests=requests,
    )


def newest(requests: str) -> str:
    """The requests without those that they have replaced: it depends on the order which of these a store has seen."""
    return msgspec.structs.replace(Requests.decode(requests), earlier=()).encode()


@dataclass
class World:
    """The events in the cluster, and its current objects."""

    seen: list[NewRow] = field(default_factory=list)
    ended: list[tuple[str, str]] = field(default_factory=list)
    there: dict[str, NewRow] = field(default_factory=dict)

    @staticmethod
    def of(rng: random.Random) -> World:
        world = World()
        for slug in SLUGS:
            created_at = 1_000 * SECOND
            for number in range(rng.randint(1, 4)):
                if number:
                    world.ended.append((slug, world.there.pop(slug).uid))
                # Kubernetes counts in seconds, so two quick events may have the same.
                created_at += rng.choice([0, SECOND, SECOND])
                for generation in range(1, rng.randint(2, 5)):
                    requests = rng.choice(["", '{"run":"1"}', '{"run":"2"}'])
                    world.there[slug] = observed_object(slug, f"{slug}-{number}", created_at, generation, requests)
                    world.seen.append(world.there[slug])
            if rng.random() < 0.4:
                world.ended.append((slug, world.there.pop(slug).uid))
        return world


class Watcher:
    """Reads rows, and checks that none is one that must not exist."""

    def __init__(self) -> None:
        self.tombstoned: set[str] = set()
        """Uids for which a call of ``tombstone`` has returned."""

    async def watch(self, store: Store) -> None:
        generations: dict[object, int] = {}
        while True:
            tombstoned = set(self.tombstoned)
            for row in await store.rows():
                self.check(row, tombstoned)
                assert row.generation >= generations.get(row.key, 0), "a generation went down"
                generations[row.key] = row.generation
            await asyncio.sleep(0)

    @staticmethod
    def check(row: Row, tombstoned: set[str]) -> None:
        assert row.uid not in tombstoned, "an object with a tombstone has come back"
        assert row.definition == f"{row.uid} {row.generation}", "half of one observation and half of another"


async def reconcile_all(store: Store, world: World, rng: random.Random, watcher: Watcher) -> None:
    """Write everything that happened, in a random order."""
    events: list[NewRow | tuple[str, str]] = [*world.seen, *world.ended]
    events += rng.choices(events, k=len(events) // 3)
    rng.shuffle(events)
    while events:
        some, events = events[: (size := rng.randint(1, 8))], events[size:]
        observed = {row.slug: row for row in some if isinstance(row, NewRow)}
        tombstones = [identity for identity in some if isinstance(identity, tuple)]
        tombstoned = set(watcher.tombstoned)
        answers = await store.reconcile(list(observed.values()))
        for row, put in zip(observed.values(), answers, strict=True):
            assert put is Put.STALE or row.uid not in tombstoned
        if tombstones:
            await store.tombstone(tombstones)
            watcher.tombstoned |= {uid for _, uid in tombstones}


async def work(store: Store, replica: str, watcher: Watcher, rng: random.Random) -> None:
    while True:
        tombstoned = set(watcher.tombstoned)
        rows = (await claim(store, replica, limit=3)).rows
        for row in rows:
            watcher.check(row, tombstoned)
        await asyncio.sleep(0)
        await store.settle(
            replica, [settlement(row, rng.choice([Disposition.RELEASE, Disposition.KEEP])) for row in rows]
        )


@pytest.mark.parametrize("seed", range(6))
async def test_in_any_order_the_store_ends_with_the_current_objects(store_factory: StoreFactory, seed: int) -> None:
    rng = random.Random(seed)
    world = World.of(rng)
    watcher = Watcher()
    stores: Sequence[Store] = await store_factory.several(REPLICAS)
    async with asyncio.TaskGroup() as group:
        others = [group.create_task(watcher.watch(stores[0]))]
        others += [group.create_task(work(store, f"r-{n}", watcher, rng)) for n, store in enumerate(stores[:2])]
        async with asyncio.TaskGroup() as reconciling:
            for store in stores:
                reconciling.create_task(reconcile_all(store, world, random.Random(rng.random()), watcher))
        async with asyncio.TaskGroup() as reconciling:
            for store in stores:
                reconciling.create_task(store.reconcile(list(world.there.values())))
        for other in others:
            other.cancel()
    rows = await stores[-1].rows()
    known = [(row.slug, row.uid, row.generation, row.requests, row.definition) for row in world.there.values()]
    assert [(row.slug, row.uid, row.generation, newest(row.requests), row.definition) for row in rows] == known
    assert set(await stores[0].reconcile(list(world.there.values()))) <= {Put.UNCHANGED}
    for row in world.seen:
        if row.uid in {uid for _, uid in world.ended}:
            assert await stores[1].reconcile([row]) == [Put.STALE]
    # Every object that was deleted while its run was active has exactly one record of that.
    runs = [run.run_id for run in await stores[0].history(limit=1000)]
    assert len(runs) == len(set(runs))
    assert {run.uid for run in await stores[0].history(limit=1000)} <= {uid for _, uid in world.ended}


async def test_a_tombstone_wins_over_a_concurrent_observation(store_factory: StoreFactory) -> None:
    """Whichever is first, in the end there is no row, and it does not come back."""
    stores = await store_factory.several(3)
    for turn in range(20):
        slug, uid = f"ns/job-{turn}", f"uid-{turn}"
        new = observed_object(slug, uid, 5, 1, "")
        (first,), (second,), (tombstoned,) = await asyncio.gather(
            stores[0].reconcile([new]), stores[1].reconcile([new]), stores[2].tombstone([(slug, uid)])
        )
        assert await stores[0].get([slug]) == [None]
        assert tombstoned == (Put.CREATED in {first, second})
        assert len(await stores[0].history(slug)) == tombstoned
        assert await stores[1].reconcile([new]) == [Put.STALE]


async def test_of_many_replicas_that_observe_a_new_object_one_creates_its_row(store_factory: StoreFactory) -> None:
    stores = await store_factory.several(4)
    objects = [observed_object(f"ns/job-{n}", f"uid-{n}", 5, 1, "") for n in range(50)]
    younger = [observed_object(row.slug, row.uid + "b", 6, 1, "") for row in objects]
    for some in (objects, younger):
        answers = await asyncio.gather(
            *(store.reconcile(some[:: 1 if n % 2 else -1]) for n, store in enumerate(stores))
        )
        assert sum(puts.count(Put.CREATED) for puts in answers) == 50
        assert sum(puts.count(Put.UNCHANGED) for puts in answers) == 150
    assert len(await stores[0].history(limit=1000)) == 50


async def test_an_update_concurrent_with_a_settlement_is_not_lost(store: Store, other: Store) -> None:
    for turn in range(10):
        slug = f"ns/job-{turn}"
        await store.reconcile([observed_object(slug, slug, 5, 1, "")])
        row = await take_one(store)
        (settled,), (put,) = await asyncio.gather(
            store.settle("alice", [settlement(row, Disposition.RELEASE, wake_at=None)]),
            other.reconcile([observed_object(slug, slug, 5, 2, "")]),
        )
        assert (settled, put) == (True, Put.UPDATED)
        again = await take_one(store)
        assert (again.slug, again.generation) == (slug, 2)
        assert await store.tombstone([(slug, slug)]) == [True]


async def test_of_concurrent_generations_the_newest_stays(store_factory: StoreFactory) -> None:
    stores = await store_factory.several(4)
    for turn in range(10):
        slug = f"ns/job-{turn}"
        await stores[0].reconcile([observed_object(slug, slug, 5, 1, "")])
        await asyncio.gather(
            *(
                store.reconcile([observed_object(slug, slug, 5, 2 + (n + turn) % 4, "")])
                for n, store in enumerate(stores)
            )
        )
        (row,) = await stores[0].get([slug])
        assert row is not None
        assert (row.generation, row.definition, row.payload) == (5, f"{slug} 5", b"5")
