"""Every store: notifications. An idle replica learns of rows that are due before it polls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from scheduledjob.domain.time.instants import HOUR, SECOND
from scheduledjob.engine.store import ReplicaInfo

from .support import ReceivedWakes, desired, listening, put_due, settle, settlement, take_one

if TYPE_CHECKING:
    from scheduledjob.engine.store import Store

    from .conftest import StoreFactory

ALICE = ReplicaInfo("alice", "0.1.0", 1, {"host": "a"})
BOB = ReplicaInfo("bob", "0.1.0", 1)


@pytest.fixture
async def notifying(store: Store) -> Store:
    """A store that notifies; the others are polled."""
    if store.polls:
        pytest.skip("this store does not notify: replicas poll it")
    return store


async def test_a_store_has_a_poll_interval(store: Store) -> None:
    assert 0 < store.poll_interval <= 60


async def test_listening_works_with_every_store(store: Store, other: Store) -> None:
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


async def test_a_row_due_before_the_announced_poll_wakes(notifying: Store, other: Store) -> None:
    now = await notifying.now()
    async with listening(notifying) as received:
        await notifying.announce(ALICE, now + HOUR)
        await other.put([desired("job", now + 60 * SECOND)], replace=False)
        await received.due_by(now + 60 * SECOND)


async def test_a_row_due_after_every_announced_poll_wakes_nobody(notifying: Store, other: Store) -> None:
    now = await notifying.now()
    await put_due(notifying, "marker")
    await take_one(notifying)
    async with listening(notifying) as received:
        await notifying.announce(ALICE, now + HOUR)
        await other.put([desired("late", now + 2 * HOUR)], replace=False)
        await other.delete(["marker"])
        await received.change_of("marker")
        assert [wake for wake in received.wakes if wake.due is not None] == []


async def test_the_latest_announced_poll_counts(notifying: Store, other: Store) -> None:
    now = await notifying.now()
    async with listening(notifying) as received:
        await notifying.announce(ALICE, now + 2 * HOUR)
        await other.announce(BOB, now + 60 * SECOND)
        await other.put([desired("job", now + HOUR)], replace=False)
        await received.due_by(now + HOUR)


async def test_a_delayed_announcement_does_not_replace_a_later_one(notifying: Store, other: Store) -> None:
    now = await notifying.now()
    async with listening(notifying) as received:
        await notifying.announce(ALICE, now + 2 * HOUR)
        await notifying.announce(ALICE, now + 60 * SECOND)
        await other.put([desired("job", now + HOUR)], replace=False)
        await received.due_by(now + HOUR)


async def test_an_edit_of_a_row_that_nobody_owns_wakes(notifying: Store, other: Store) -> None:
    now = await notifying.now()
    await other.put([desired("job", now + 2 * HOUR)], replace=False)
    async with listening(notifying) as received:
        await notifying.announce(ALICE, now + HOUR)
        await other.put([desired("job", now + 2 * HOUR, payload=b"new")], replace=True)
        await received.due_by(await notifying.now() + SECOND)


async def test_an_edit_of_an_owned_row_notifies_of_its_slug(notifying: Store, other: Store) -> None:
    await put_due(notifying, "job")
    await take_one(notifying)
    async with listening(notifying) as received:
        await notifying.announce(ALICE, await notifying.now() + HOUR)
        await other.put([desired("job", payload=b"new")], replace=True)
        await received.change_of("job")


async def test_a_deletion_notifies_of_its_slug(notifying: Store, other: Store) -> None:
    await put_due(notifying, "job", "cleared")
    await take_one(notifying)
    await take_one(notifying)
    async with listening(notifying) as received:
        await notifying.announce(ALICE, await notifying.now() + HOUR)
        await other.delete(["job"])
        await received.change_of("job")
        await other.clear()
        await received.change_of("cleared")


async def test_any_number_of_slugs_of_any_text_is_notified(notifying: Store, other: Store) -> None:
    slugs = [f"{'ü' * 190}-{n}" for n in range(300)]
    await put_due(notifying, *slugs)
    async with listening(notifying) as received:
        await notifying.announce(ALICE, await notifying.now() + HOUR)
        await other.delete(slugs)
        # If they are too many to name, the store may notify of lost notifications instead.
        await received.of(lambda wake: wake.notifications_lost or slugs[-1] in wake.changed)


async def test_a_released_row_that_is_due_wakes_another_replica(notifying: Store, other: Store) -> None:
    await put_due(notifying, "job")
    row = await take_one(other, replica="bob")
    async with listening(notifying) as received:
        now = await notifying.now()
        await notifying.announce(ALICE, now + HOUR)
        assert await settle(other, settlement(row, wake_at=now), replica="bob")
        await received.due_by(now + SECOND)


async def test_a_released_row_that_is_due_does_not_wake_its_own_replica(notifying: Store, other: Store) -> None:
    await put_due(notifying, "job")
    row = await take_one(notifying)
    async with listening(notifying) as received:
        now = await notifying.now()
        await notifying.announce(ALICE, now + HOUR)
        await other.announce(BOB, now + HOUR)
        assert await settle(notifying, settlement(row, wake_at=now))
        await other.delete(["job"])
        await received.change_of("job")
        assert all(wake.due is None for wake in received.wakes)


async def test_a_row_released_at_an_old_revision_also_wakes_its_replica(notifying: Store, other: Store) -> None:
    await put_due(notifying, "job")
    row = await take_one(notifying)
    await other.put([desired("job", payload=b"new")], replace=True)
    async with listening(notifying) as received:
        now = await notifying.now()
        await notifying.announce(ALICE, now + HOUR)
        assert await settle(notifying, settlement(row, wake_at=now + 2 * HOUR))
        await received.due_by(await notifying.now() + SECOND)


async def test_every_listener_is_notified(store_factory: StoreFactory, notifying: Store) -> None:
    now = await notifying.now()
    others = await store_factory.several(3)
    async with listening(notifying) as first, listening(others[0]) as second, listening(others[1]) as third:
        await notifying.announce(ALICE, now + HOUR)
        await others[2].put([desired("job", now + SECOND)], replace=False)
        for received in (first, second, third):
            await received.due_by(now + SECOND)


async def test_installations_are_not_notified_of_each_other(store_factory: StoreFactory, notifying: Store) -> None:
    now = await notifying.now()
    elsewhere = await store_factory(store_factory.installation + "-other")
    async with listening(notifying) as received:
        await notifying.announce(ALICE, now + HOUR)
        await elsewhere.put([desired("foreign", now - HOUR)], replace=False)
        await elsewhere.delete(["foreign"])
        await notifying.put([desired("job", now + SECOND)], replace=False)
        await received.due_by(now + SECOND)
        assert all(wake.due is None or wake.due == now + SECOND for wake in received.wakes)
        assert not any("foreign" in wake.changed for wake in received.wakes)


async def test_a_closed_listener_is_not_called(notifying: Store, other: Store) -> None:
    now = await notifying.now()
    await notifying.announce(ALICE, now + HOUR)
    past = ReceivedWakes()
    async with notifying.listen(past):
        pass
    before = len(past.wakes)
    async with listening(other) as received:
        await notifying.put([desired("job", now)], replace=False)
        await received.due_by(now)
    assert len(past.wakes) == before
