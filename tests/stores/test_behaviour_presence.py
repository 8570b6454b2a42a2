"""Every store: locks, and which replicas are alive and work for which cluster."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING

from scheduledjob.domain.time.instants import HOUR, SECOND
from scheduledjob.engine.store import Presence, ReplicaInfo

from .support import until

if TYPE_CHECKING:
    from scheduledjob.engine.store import Store

    from .conftest import StoreFactory

SHORT = 300_000
"""So short that a test can wait for its end."""


# ---- locks


async def test_a_lock_belongs_to_one_replica(store: Store, other: Store) -> None:
    assert await store.lock("sweep", "alice", HOUR)
    assert not await other.lock("sweep", "bob", HOUR)
    assert await other.lock("prune", "bob", HOUR)
    assert not await store.lock("prune", "alice", HOUR)
    assert not await store.lock("sweep", "bob", HOUR), "not even over the same connection"


async def test_taking_a_lock_again_extends_it(store: Store, other: Store) -> None:
    assert await store.lock("sweep", "alice", SHORT)
    assert await other.lock("sweep", "alice", HOUR)
    end = await store.now() + 2 * SHORT

    async def passed() -> bool:
        return await store.now() > end

    await until(passed)
    assert not await other.lock("sweep", "bob", HOUR)


async def test_taking_a_lock_again_may_shorten_it(store: Store, other: Store) -> None:
    assert await store.lock("sweep", "alice", HOUR)
    assert await store.lock("sweep", "alice", SHORT)
    await until(lambda: other.lock("sweep", "bob", HOUR))


async def test_another_replica_gets_a_lock_only_after_it_has_expired(store: Store, other: Store) -> None:
    began = await store.now()
    assert await store.lock("sweep", "alice", SHORT)
    await until(lambda: other.lock("sweep", "bob", HOUR))
    assert await other.now() >= began + SHORT
    assert not await store.lock("sweep", "alice", HOUR)
    await store.unlock("sweep", "alice")
    assert not await store.lock("sweep", "alice", HOUR)


async def test_a_released_lock_is_free(store: Store, other: Store) -> None:
    assert await store.lock("sweep", "alice", HOUR)
    await other.unlock("sweep", "bob")
    await other.unlock("none", "bob")
    assert not await other.lock("sweep", "bob", HOUR)
    await store.unlock("sweep", "alice")
    assert await other.lock("sweep", "bob", HOUR)


async def test_a_replica_that_withdraws_releases_its_locks(store: Store, other: Store) -> None:
    for name in ("sweep", "prune"):
        assert await store.lock(name, "alice", HOUR)
    assert await other.lock("more", "bob", HOUR)
    await store.announce(ReplicaInfo("alice", "1", 0), await store.now())
    await store.withdraw("alice")
    assert await other.lock("sweep", "bob", HOUR)
    assert await other.lock("prune", "carol", HOUR)
    assert not await other.lock("more", "carol", HOUR)


async def test_of_many_replicas_one_gets_the_lock(store_factory: StoreFactory) -> None:
    stores = await store_factory.several(6)
    for name in ("a", "b", "c"):
        got = await asyncio.gather(*(store.lock(name, f"r-{n}", HOUR) for n, store in enumerate(stores)))
        assert sum(got) == 1
        winner = got.index(True)
        assert await stores[0].lock(name, f"r-{winner}", SECOND)


async def test_installations_have_separate_locks(store_factory: StoreFactory) -> None:
    here, there = await store_factory(), await store_factory(store_factory.installation + "-other")
    assert await here.lock("sweep", "alice", HOUR)
    assert await there.lock("sweep", "bob", HOUR)
    await there.withdraw("alice")
    assert not await here.lock("sweep", "bob", HOUR)


# ---- presence


async def test_replicas_of_other_installations_are_seen_in_order(store_factory: StoreFactory) -> None:
    cluster = secrets.token_hex(8)
    name = store_factory.installation
    first, second, third = [await store_factory(name + end) for end in ("", "-2", "-3")]
    began = await first.now()
    assert await first.present("alice", cluster, ["b", "a"], HOUR) == [], "a replica is not in its own list"
    assert [other.replica for other in await first.present("anna", cluster, ["b", "a"], HOUR)] == ["alice"]
    found = await second.present("bob", cluster, [], HOUR)
    assert [(other.installation, other.replica, other.namespaces) for other in found] == [
        (name, "alice", ("b", "a")),
        (name, "anna", ("b", "a")),
    ]
    assert began - SECOND <= found[0].since <= found[1].since <= await first.now() + SECOND
    assert await third.present("carol", secrets.token_hex(8), [], HOUR) == []
    assert [other.replica for other in await third.present("carl", cluster, ["c"], HOUR)] == ["alice", "anna", "bob"]
    seen = await first.present("alice", cluster, ["b", "a"], HOUR)
    assert [(other.installation, other.replica, other.namespaces) for other in seen] == [
        (name, "anna", ("b", "a")),
        (name + "-2", "bob", ()),
        (name + "-3", "carl", ("c",)),
    ]


async def test_a_replica_that_announces_its_presence_again_keeps_its_since(store_factory: StoreFactory) -> None:
    cluster = secrets.token_hex(8)
    here, there = await store_factory(), await store_factory(store_factory.installation + "-other")
    await here.present("alice", cluster, [], HOUR)
    (before,) = await there.present("bob", cluster, [], HOUR)
    await here.present("alice", cluster, ["ns"], HOUR)
    assert await there.present("bob", cluster, [], HOUR) == [
        Presence(before.installation, "alice", ("ns",), before.since)
    ]


async def test_a_replica_that_was_silent_for_too_long_gets_a_new_since(store_factory: StoreFactory) -> None:
    cluster = secrets.token_hex(8)
    name = store_factory.installation
    here, there, watcher = [await store_factory(name + end) for end in ("", "-2", "-3")]
    await here.present("alice", cluster, [], SHORT)
    await there.present("bob", cluster, [], HOUR)

    async def alice_is_gone() -> bool:
        return [other.replica for other in await watcher.present("carol", cluster, [], HOUR)] == ["bob"]

    await until(alice_is_gone)
    await here.present("alice", cluster, [], HOUR)
    assert [other.replica for other in await watcher.present("carol", cluster, [], HOUR)] == ["bob", "alice"]


async def test_a_replica_that_withdraws_is_not_listed_any_more(store_factory: StoreFactory) -> None:
    cluster = secrets.token_hex(8)
    here, there = await store_factory(), await store_factory(store_factory.installation + "-other")
    for replica in ("alice", "anna"):
        await here.present(replica, cluster, [], HOUR)
    await there.withdraw("anna")
    assert len(await there.present("bob", cluster, [], HOUR)) == 2
    await here.withdraw("alice")
    assert [other.replica for other in await there.present("bob", cluster, [], HOUR)] == ["anna"]
