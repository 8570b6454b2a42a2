"""Every store: calls of hooks are written with their settlement or not at all, and claimed by one replica at a time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from scheduledjob.domain.time.instants import HOUR
from scheduledjob.engine.stored_row import Disposition, HookCall, HookEnd

from .support import LEASE, desired, put_due, record, settle, settlement, take, take_one, until

if TYPE_CHECKING:
    from scheduledjob.engine.store import Store
    from scheduledjob.engine.stored_row import Settlement

    from .conftest import StoreFactory


def call(run_id: str, number: int = 0, *, slug: str = "job") -> HookCall:
    return HookCall(run_id, number, slug, f"uid-of-{slug}", b"\x00data of %d" % number)


def with_hooks(ending: Settlement, *calls: HookCall) -> Settlement:
    ending.hooks = calls
    return ending


async def due_calls(store: Store, count: int, *, lease: int = LEASE) -> list[HookCall]:
    """Claim until there are ``count`` calls."""
    found: list[HookCall] = []

    async def complete() -> bool:
        found.extend(await store.claim_hooks(limit=100, lease=lease))
        return len(found) >= count

    await until(complete)
    assert len(found) == count
    return sorted(found, key=lambda call: (call.run_id, call.number))


@pytest.mark.parametrize("disposition", Disposition)
async def test_calls_are_written_with_the_settlement(store: Store, other: Store, disposition: Disposition) -> None:
    await put_due(store, "job")
    ended = record("run-1", await store.now())
    ending = settlement(await take_one(store), disposition, records=[ended])
    assert await settle(store, with_hooks(ending, call("run-1"), call("run-1", 1)))
    found = await due_calls(other, 2)
    assert found == [
        HookCall("run-1", number, "job", "uid-of-job", b"\x00data of %d" % number, attempt=1) for number in (0, 1)
    ]
    assert await store.claim_hooks(limit=100, lease=LEASE) == [], "they are claimed"
    assert await store.recorded(["run-1"]) == {"run-1"}


@pytest.mark.parametrize("disposition", Disposition)
async def test_a_refused_settlement_writes_no_calls(store: Store, disposition: Disposition) -> None:
    await put_due(store, "a", "b")
    rows = {row.slug: row for row in await take(store, 2)}
    refused = settlement(rows["a"], disposition, version=rows["a"].version + 1)
    refused = with_hooks(refused, call("run-a", slug="a"))
    written = with_hooks(settlement(rows["b"], disposition), call("run-b", slug="b"))
    assert await store.settle("alice", [refused, written]) == [False, True]
    assert [found.run_id for found in await due_calls(store, 1)] == ["run-b"]


async def test_a_removal_that_an_edit_turns_into_a_release_writes_its_calls(store: Store, other: Store) -> None:
    await put_due(store, "job")
    row = await take_one(store)
    await other.put([desired("job", payload=b"new")], replace=True)
    assert await settle(store, with_hooks(settlement(row, Disposition.REMOVE), call("run-1")))
    assert len(await due_calls(store, 1)) == 1


async def test_calls_are_claimed_again_when_their_claim_ends(store: Store, other: Store) -> None:
    await put_due(store, "job")
    assert await settle(store, with_hooks(settlement(await take_one(store)), call("run-1")))
    (first,) = await due_calls(store, 1, lease=1000)
    (second,) = await due_calls(other, 1)
    assert (first.attempt, second.attempt) == (1, 2)
    await store.settle_hooks([HookEnd("run-1", 0, first.attempt)])  # too late: it has no effect
    await store.settle_hooks([HookEnd("run-1", 0, first.attempt, 0)])
    assert await store.claim_hooks(limit=1, lease=LEASE) == []
    await other.settle_hooks([HookEnd("run-1", 0, second.attempt, 0)])
    (third,) = await due_calls(store, 1)
    assert third.attempt == 3


async def test_delivered_calls_are_deleted_and_delayed_ones_are_not_due(store: Store) -> None:
    await put_due(store, "job")
    ending = with_hooks(settlement(await take_one(store)), *(call("run-1", number) for number in range(3)))
    assert await settle(store, ending)
    claimed = await due_calls(store, 3)
    await store.settle_hooks(
        [HookEnd("run-1", 0, 1), HookEnd("run-1", 1, 1, HOUR), HookEnd("run-1", 2, 1, 0), HookEnd("unknown", 0, 1)]
    )
    (again,) = await due_calls(store, 1)
    assert (again.number, again.attempt, again.data) == (2, 2, claimed[2].data)
    await store.settle_hooks([HookEnd("run-1", 2, 2)])
    assert await store.claim_hooks(limit=100, lease=LEASE) == []


async def test_each_call_is_claimed_once_by_replicas_that_claim_at_the_same_time(store: Store, other: Store) -> None:
    await put_due(store, "job")
    calls = [call(f"run-{number:02}") for number in range(30)]
    assert await settle(store, with_hooks(settlement(await take_one(store)), *calls))
    claimed: list[str] = []

    async def claim(store: Store) -> None:
        claimed.extend(found.run_id for found in await store.claim_hooks(limit=7, lease=LEASE))

    async def all_claimed() -> bool:
        await asyncio.gather(claim(store), claim(other), claim(store))
        return len(claimed) >= 30

    await until(all_claimed)
    assert sorted(claimed) == [found.run_id for found in calls]


async def test_installations_have_separate_calls(store: Store, store_factory: StoreFactory) -> None:
    await put_due(store, "job")
    assert await settle(store, with_hooks(settlement(await take_one(store)), call("run-1")))
    elsewhere = await store_factory("elsewhere")
    assert await elsewhere.claim_hooks(limit=100, lease=LEASE) == []
    await elsewhere.settle_hooks([HookEnd("run-1", 0, 0)])
    assert len(await due_calls(store, 1)) == 1


async def test_calls_of_a_group_that_is_left_out_do_not_hide_others(store: Store) -> None:
    await put_due(store, "job")
    busy = [call(f"run-{number:02}", slug=f"busy/{number}") for number in range(20)]
    ending = with_hooks(settlement(await take_one(store)), *busy, call("run-of-quiet", slug="quiet/a"))
    assert await settle(store, ending)
    await due_calls(store, 21, lease=0)
    (found,) = await store.claim_hooks(limit=2, lease=LEASE, without=["busy", "other"])
    assert (found.run_id, found.group) == ("run-of-quiet", "quiet")
    assert await store.claim_hooks(limit=2, lease=LEASE, without=["busy"]) == []
    assert len(await store.claim_hooks(limit=30, lease=LEASE, without=["bus"])) == 20
