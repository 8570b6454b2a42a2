"""Every store: who is told what. A replica asleep learns of work that is due earlier than it would look."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from scheduledjob.domain.time.instants import HOUR, SECOND
from scheduledjob.engine.store import ReplicaInfo

from .support import Heard, desired, listening, put_due, settle, settlement, take_one

if TYPE_CHECKING:
    from scheduledjob.engine.store import Store

    from .conftest import StoreFactory

ALICE = ReplicaInfo("alice", "0.1.0", 1, {"host": "a"})
BOB = ReplicaInfo("bob", "0.1.0", 1)


@pytest.fixture
async def told(store: Store) -> Store:
    """A store that can tell; the others are polled."""
    if store.polls:
        pytest.skip("this store tells nobody: replicas poll it")
    return store


async def test_a_store_says_how_often_to_look(store: Store) -> None:
    assert 0 < store.poll_interval <= 60


async def test_listening_works_whether_or_not_the_store_tells(store: Store, other: Store) -> None:
    async with listening(store):
        await store.announce(ALICE, await store.now() + HOUR)
        await put_due(other, "job")
    await store.withdraw("alice")


async def test_a_replica_may_announce_again_and_withdraw_without_having_announced(store: Store) -> None:
    now = await store.now()
    await store.announce(ALICE, now + HOUR)
    await store.announce(ALICE, now + SECOND)
    await store.announce(BOB, now)
    await store.withdraw("alice")
    await store.withdraw("alice")
    await store.withdraw("nobody")


async def test_a_wish_due_before_the_look_announced_wakes(told: Store, other: Store) -> None:
    now = await told.now()
    async with listening(told) as heard:
        await told.announce(ALICE, now + HOUR)
        await other.put([desired("job", now + 60 * SECOND)], replace=False)
        await heard.due_by(now + 60 * SECOND)


async def test_a_wish_due_after_every_look_announced_wakes_nobody(told: Store, other: Store) -> None:
    now = await told.now()
    await put_due(told, "marker")
    await take_one(told)
    async with listening(told) as heard:
        await told.announce(ALICE, now + HOUR)
        await other.put([desired("late", now + 2 * HOUR)], replace=False)
        await other.delete(["marker"])
        await heard.change_of("marker")
        assert [wake for wake in heard.wakes if wake.due is not None] == []


async def test_the_latest_look_counts(told: Store, other: Store) -> None:
    now = await told.now()
    async with listening(told) as heard:
        await told.announce(ALICE, now + 2 * HOUR)
        await other.announce(BOB, now + 60 * SECOND)
        await other.put([desired("job", now + HOUR)], replace=False)
        await heard.due_by(now + HOUR)


async def test_a_promise_that_was_held_back_takes_no_later_one_back(told: Store, other: Store) -> None:
    now = await told.now()
    async with listening(told) as heard:
        await told.announce(ALICE, now + 2 * HOUR)
        await told.announce(ALICE, now + 60 * SECOND)
        await other.put([desired("job", now + HOUR)], replace=False)
        await heard.due_by(now + HOUR)


async def test_an_edit_of_a_row_that_nobody_owns_wakes(told: Store, other: Store) -> None:
    now = await told.now()
    await other.put([desired("job", now + 2 * HOUR)], replace=False)
    async with listening(told) as heard:
        await told.announce(ALICE, now + HOUR)
        await other.put([desired("job", now + 2 * HOUR, payload=b"new")], replace=True)
        await heard.due_by(await told.now() + SECOND)


async def test_an_edit_of_an_owned_row_is_told_by_name(told: Store, other: Store) -> None:
    await put_due(told, "job")
    await take_one(told)
    async with listening(told) as heard:
        await told.announce(ALICE, await told.now() + HOUR)
        await other.put([desired("job", payload=b"new")], replace=True)
        await heard.change_of("job")


async def test_a_deletion_is_told_by_name(told: Store, other: Store) -> None:
    await put_due(told, "job", "cleared")
    await take_one(told)
    await take_one(told)
    async with listening(told) as heard:
        await told.announce(ALICE, await told.now() + HOUR)
        await other.delete(["job"])
        await heard.change_of("job")
        await other.clear()
        await heard.change_of("cleared")


async def test_a_slug_of_any_sort_and_number_is_told(told: Store, other: Store) -> None:
    slugs = [f"{'ü' * 190}-{n}" for n in range(300)]
    await put_due(told, *slugs)
    async with listening(told) as heard:
        await told.announce(ALICE, await told.now() + HOUR)
        await other.delete(slugs)
        # Too many to name may be told as "look at all of yours".
        await heard.of(lambda wake: wake.notifications_lost or slugs[-1] in wake.changed)


async def test_work_handed_back_wakes_another_replica(told: Store, other: Store) -> None:
    await put_due(told, "job")
    row = await take_one(other, replica="bob")
    async with listening(told) as heard:
        now = await told.now()
        await told.announce(ALICE, now + HOUR)
        assert await settle(other, settlement(row, wake_at=now), replica="bob")
        await heard.due_by(now + SECOND)


async def test_a_row_released_at_an_old_revision_wakes_whoever_released_it_too(told: Store, other: Store) -> None:
    await put_due(told, "job")
    row = await take_one(told)
    await other.put([desired("job", payload=b"new")], replace=True)
    async with listening(told) as heard:
        now = await told.now()
        await told.announce(ALICE, now + HOUR)
        assert await settle(told, settlement(row, wake_at=now + 2 * HOUR))
        await heard.due_by(await told.now() + SECOND)


async def test_every_listener_is_told(store_factory: StoreFactory, told: Store) -> None:
    now = await told.now()
    others = await store_factory.several(3)
    async with listening(told) as first, listening(others[0]) as second, listening(others[1]) as third:
        await told.announce(ALICE, now + HOUR)
        await others[2].put([desired("job", now + SECOND)], replace=False)
        for heard in (first, second, third):
            await heard.due_by(now + SECOND)


async def test_installations_are_not_told_of_each_other(store_factory: StoreFactory, told: Store) -> None:
    now = await told.now()
    elsewhere = await store_factory(store_factory.installation + "-other")
    async with listening(told) as heard:
        await told.announce(ALICE, now + HOUR)
        await elsewhere.put([desired("foreign", now - HOUR)], replace=False)
        await elsewhere.delete(["foreign"])
        await told.put([desired("job", now + SECOND)], replace=False)
        await heard.due_by(now + SECOND)
        assert all(wake.due is None or wake.due == now + SECOND for wake in heard.wakes)
        assert not any("foreign" in wake.changed for wake in heard.wakes)


async def test_who_listens_no_more_is_not_called(told: Store, other: Store) -> None:
    now = await told.now()
    await told.announce(ALICE, now + HOUR)
    past = Heard()
    async with told.listen(past):
        pass
    before = len(past.wakes)
    async with listening(other) as heard:
        await told.put([desired("job", now)], replace=False)
        await heard.due_by(now)
    assert len(past.wakes) == before
