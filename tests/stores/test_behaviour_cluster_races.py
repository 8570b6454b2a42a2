"""Every store: replicas that see a cluster each in its own order, all at once, while schedules are claimed and settled.

What really happened is a list of events; each replica hands over all of them, shuffled and some of them twice, as
replicas do whose watches break and begin again. Whatever the order, what has ended stays ended, and once everybody
has looked at what is there now, that is what the store holds.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from scheduledjob.domain.schedule.state import Run, State
from scheduledjob.domain.time.instants import SECOND
from scheduledjob.engine.store import Disposition, NewRow, Origin, Put, Row

from .support import KIND, claim, settlement, take_one

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.engine.store import Store

    from .conftest import StoreFactory

SLUGS = [f"ns/job-{n}" for n in range(6)]
REPLICAS = 4
RUNNING = State(decided_until=7, runs=[Run(slot=7, due=7, begun=8)]).encode()


def sighting(slug: str, uid: str, created_at: int, generation: int, requests: str) -> NewRow:
    return NewRow(
        slug,
        uid,
        KIND,
        Origin.CLUSTER,
        f"{uid} {generation}",
        RUNNING,
        wake_at=1,
        payload=b"%d" % generation,
        created_at=created_at,
        generation=generation,
        requests=requests,
    )


@dataclass
class World:
    """What happened in the cluster."""

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
                # Kubernetes counts in seconds: who is quick has two in one.
                created_at += rng.choice([0, SECOND, SECOND])
                for generation in range(1, rng.randint(2, 5)):
                    requests = rng.choice(["", '{"run":"1"}', '{"run":"2"}'])
                    world.there[slug] = sighting(slug, f"{slug}-{number}", created_at, generation, requests)
                    world.seen.append(world.there[slug])
            if rng.random() < 0.4:
                world.ended.append((slug, world.there.pop(slug).uid))
        return world


class Watcher:
    """Reads what anybody may read, and knows what must never be seen."""

    def __init__(self) -> None:
        self.tombstoned: set[str] = set()
        """Uids of which a call of ``tombstone`` has returned."""

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
        assert row.uid not in tombstoned, "what was buried has come back"
        assert row.definition == f"{row.uid} {row.generation}", "half of one sighting and half of another"


async def hand_over(store: Store, world: World, rng: random.Random, watcher: Watcher) -> None:
    """All that happened, in an order of one's own."""
    events: list[NewRow | tuple[str, str]] = [*world.seen, *world.ended]
    events += rng.choices(events, k=len(events) // 3)
    rng.shuffle(events)
    while events:
        some, events = events[: (size := rng.randint(1, 8))], events[size:]
        sightings = {one.slug: one for one in some if isinstance(one, NewRow)}
        burials = [one for one in some if isinstance(one, tuple)]
        tombstoned = set(watcher.tombstoned)
        answers = await store.reconcile(list(sightings.values()))
        for one, put in zip(sightings.values(), answers, strict=True):
            assert put is Put.STALE or one.uid not in tombstoned
        if burials:
            await store.tombstone(burials)
            watcher.tombstoned |= {uid for _, uid in burials}


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
async def test_whatever_the_order_the_store_comes_to_hold_what_is_there(store_factory: StoreFactory, seed: int) -> None:
    rng = random.Random(seed)
    world = World.of(rng)
    watcher = Watcher()
    stores: Sequence[Store] = await store_factory.several(REPLICAS)
    async with asyncio.TaskGroup() as group:
        others = [group.create_task(watcher.watch(stores[0]))]
        others += [group.create_task(work(store, f"r-{n}", watcher, rng)) for n, store in enumerate(stores[:2])]
        async with asyncio.TaskGroup() as telling:
            for store in stores:
                telling.create_task(hand_over(store, world, random.Random(rng.random()), watcher))
        async with asyncio.TaskGroup() as telling:
            for store in stores:
                telling.create_task(store.reconcile(list(world.there.values())))
        for other in others:
            other.cancel()
    rows = await stores[-1].rows()
    known = [(one.slug, one.uid, one.generation, one.requests, one.definition) for one in world.there.values()]
    assert [(row.slug, row.uid, row.generation, row.requests, row.definition) for row in rows] == known
    assert set(await stores[0].reconcile(list(world.there.values()))) <= {Put.UNCHANGED}
    for one in world.seen:
        if one.uid in {uid for _, uid in world.ended}:
            assert await stores[1].reconcile([one]) == [Put.STALE]
    # Every incarnation that ended while it was running was cut off once, and only once.
    runs = [run.run_id for run in await stores[0].history(limit=1000)]
    assert len(runs) == len(set(runs))
    assert {run.uid for run in await stores[0].history(limit=1000)} <= {uid for _, uid in world.ended}


async def test_a_burial_that_crosses_a_sighting_wins(store_factory: StoreFactory) -> None:
    """Whichever comes first: in the end there is no row, and there never will be."""
    stores = await store_factory.several(3)
    for turn in range(20):
        slug, uid = f"ns/job-{turn}", f"uid-{turn}"
        one = sighting(slug, uid, 5, 1, "")
        (first,), (second,), (tombstoned,) = await asyncio.gather(
            stores[0].reconcile([one]), stores[1].reconcile([one]), stores[2].tombstone([(slug, uid)])
        )
        assert await stores[0].get([slug]) == [None]
        assert tombstoned == (Put.CREATED in {first, second})
        assert len(await stores[0].history(slug)) == tombstoned
        assert await stores[1].reconcile([one]) == [Put.STALE]


async def test_of_many_who_see_a_new_object_one_makes_it(store_factory: StoreFactory) -> None:
    stores = await store_factory.several(4)
    objects = [sighting(f"ns/job-{n}", f"uid-{n}", 5, 1, "") for n in range(50)]
    younger = [sighting(one.slug, one.uid + "b", 6, 1, "") for one in objects]
    for some in (objects, younger):
        answers = await asyncio.gather(
            *(store.reconcile(some[:: 1 if n % 2 else -1]) for n, store in enumerate(stores))
        )
        assert sum(each.count(Put.CREATED) for each in answers) == 50
        assert sum(each.count(Put.UNCHANGED) for each in answers) == 150
    assert len(await stores[0].history(limit=1000)) == 50


async def test_an_update_that_crosses_a_settlement_is_not_lost(store: Store, other: Store) -> None:
    for turn in range(10):
        slug = f"ns/job-{turn}"
        await store.reconcile([sighting(slug, slug, 5, 1, "")])
        row = await take_one(store)
        (settled,), (put,) = await asyncio.gather(
            store.settle("alice", [settlement(row, Disposition.RELEASE, wake_at=None)]),
            other.reconcile([sighting(slug, slug, 5, 2, "")]),
        )
        assert (settled, put) == (True, Put.UPDATED)
        again = await take_one(store)
        assert (again.slug, again.generation) == (slug, 2)
        assert await store.tombstone([(slug, slug)]) == [True]


async def test_of_two_generations_that_cross_the_newer_stays(store_factory: StoreFactory) -> None:
    stores = await store_factory.several(4)
    for turn in range(10):
        slug = f"ns/job-{turn}"
        await stores[0].reconcile([sighting(slug, slug, 5, 1, "")])
        await asyncio.gather(
            *(store.reconcile([sighting(slug, slug, 5, 2 + (n + turn) % 4, "")]) for n, store in enumerate(stores))
        )
        (row,) = await stores[0].get([slug])
        assert row is not None
        assert (row.generation, row.definition, row.payload) == (5, f"{slug} 5", b"5")
