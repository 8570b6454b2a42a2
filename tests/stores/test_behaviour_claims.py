"""Every store: claims and leases. A row has one owner at a time, not before it is due, and not for ever."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from scheduledjob.domain.time.instants import HOUR, SECOND
from scheduledjob.engine.store import Put
from scheduledjob.engine.stored_row import Disposition

from .support import (
    KIND,
    LEASE,
    SHORT_LEASE,
    claim,
    desired,
    put_due,
    read_row,
    renew,
    settle,
    settlement,
    take,
    take_one,
    take_over,
    until,
    wait_for_lease_end,
)

if TYPE_CHECKING:
    from scheduledjob.engine.store import Store
    from scheduledjob.engine.stored_row import Row

    from .conftest import StoreFactory


async def test_a_claim_returns_the_whole_row(store: Store) -> None:
    now = await store.now()
    new = desired("job", now - 7, definition='{"kind":"print"}', first=now - 7, payload=b"p", created_at=now - 123)
    await store.put([new], replace=False)
    row = await take_one(store)

    assert (row.slug, row.uid, row.kind, row.origin) == (new.slug, new.uid, new.kind, new.origin)
    assert (row.definition, row.state, row.payload, row.result) == (new.definition, new.state, b"p", None)
    assert (row.first, row.created_at, row.revision) == (now - 7, now - 123, 1)
    assert row.owner == "alice"
    assert not row.recovered
    assert row.due_at == new.wake_at


async def test_a_claim_leases_the_row_to_its_replica(store: Store, other: Store) -> None:
    await put_due(store, "job")
    before = await store.now()
    row = await take_one(store)
    after = await store.now()

    seen = await read_row(other, "job")
    assert seen.owner == "alice"
    assert seen.version == row.version
    assert seen.wake_at is not None
    assert before + LEASE - SECOND <= seen.wake_at <= after + LEASE + SECOND


async def test_exactly_one_of_many_replicas_claims_each_row(store_factory: StoreFactory) -> None:
    stores = await store_factory.several(8)
    slugs = [f"job-{n}" for n in range(500)]
    await put_due(stores[0], *slugs)
    claimed: list[Row] = []

    async def claimer(number: int) -> None:
        async def all_gone() -> bool:
            claimed.extend((await claim(stores[number], f"replica-{number}", limit=20)).rows)
            return len(claimed) >= len(slugs)

        await until(all_gone)

    async with asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(claimer(number))

    assert sorted(row.slug for row in claimed) == sorted(slugs)
    assert not any(row.recovered for row in claimed)
    seen = {row.slug: row.owner for row in await stores[0].rows()}
    assert seen == {row.slug: row.owner for row in claimed}


async def test_an_owned_row_is_not_claimed_again_not_even_by_its_owner(store: Store, other: Store) -> None:
    await put_due(store, "owned")
    await take_one(store)
    await put_due(store, "control")
    assert [row.slug for row in await take(other, replica="bob")] == ["control"]
    assert (await claim(store)).rows == []
    assert (await claim(other, "bob")).rows == []


async def test_each_claim_raises_the_version(store: Store) -> None:
    await put_due(store, "job")
    first = await take_one(store)
    assert await settle(store, settlement(first, wake_at=await store.now()))
    second = await take_one(store, lease=SHORT_LEASE)
    third = await take_over(store, second)
    assert first.version < second.version < third.version
    assert (await read_row(store, "job")).version == third.version


async def test_a_row_is_not_claimed_before_its_time(store: Store) -> None:
    due = await store.now() + 400_000
    await store.put([desired("job", due)], replace=False)

    async def claimed() -> bool:
        batch = await claim(store)
        assert batch.next_wake == due or batch.now >= due
        assert not batch.rows or batch.now >= due
        return bool(batch.rows)

    await until(claimed)


async def test_a_row_is_claimed_ahead_of_its_time_on_request(store: Store) -> None:
    now = await store.now()
    await store.put([desired("soon", now + 30 * SECOND), desired("late", now + HOUR)], replace=False)
    assert (await claim(store, ahead=10 * SECOND)).rows == []
    (row,) = await take(store, ahead=60 * SECOND)
    assert row.slug == "soon"
    assert not row.recovered
    assert (await claim(store, ahead=60 * SECOND)).rows == []


async def test_an_owned_row_is_not_claimed_ahead_of_the_end_of_its_lease(store: Store, other: Store) -> None:
    await put_due(store, "owned")
    owned = await take_one(store, lease=30 * SECOND)
    await store.put([desired("control", await store.now() + 40 * SECOND)], replace=False)
    assert [row.slug for row in await take(other, replica="bob", ahead=HOUR)] == ["control"]
    assert (await claim(other, "bob", ahead=HOUR)).rows == []
    assert (await read_row(store, "owned")).version == owned.version


async def test_the_soonest_rows_come_first(store: Store) -> None:
    now = await store.now()
    order = [f"job-{n}" for n in range(30)]
    rows = [desired(slug, now - HOUR + n * SECOND) for n, slug in enumerate(order)]
    random.Random(7).shuffle(rows)
    await store.put(rows, replace=False)

    assert [row.slug for row in await take(store, 4)] == order[:4]
    assert [row.slug for row in await take(store, 26)] == order[4:]


async def test_a_claim_takes_no_more_than_its_limit(store: Store) -> None:
    await put_due(store, *(f"job-{n}" for n in range(10)))
    assert (await claim(store, limit=0)).rows == []
    assert len((await claim(store, limit=3)).rows) <= 3
    owned = [row for row in await store.rows() if row.owner]
    assert len(owned) <= 3


async def test_a_claim_that_reaches_the_store_too_late_claims_nothing(store: Store) -> None:
    await put_due(store, "job")
    now = await store.now()
    batch = await claim(store, by=now - SECOND)
    assert batch.rows == []
    assert batch.late
    assert batch.now > now - SECOND
    (row,) = await store.get(["job"])
    assert row is not None
    assert (row.owner, row.version) == (None, 0)
    batch = await claim(store, by=batch.now + HOUR)
    assert not batch.late
    assert [row.slug for row in batch.rows] == ["job"]


async def test_a_row_without_wake_is_never_claimed(store: Store) -> None:
    now = await store.now()
    await store.put([desired("asleep", None), desired("control", now - 1)], replace=False)
    assert (await take_one(store)).slug == "control"
    assert (await claim(store, ahead=10**15)).rows == []


async def test_after_the_lease_another_replica_takes_over(store: Store, other: Store) -> None:
    await put_due(store, "job")
    first = await take_one(store, lease=SHORT_LEASE)
    end = (await read_row(store, "job")).wake_at
    assert end is not None

    async def taken() -> bool:
        batch = await claim(other, "bob")
        if batch.rows:
            assert batch.now >= end
            assert batch.rows[0].recovered
            assert batch.rows[0].due_at == end
            assert batch.rows[0].owner == "bob"
        return bool(batch.rows)

    await until(taken)
    seen = await read_row(store, "job")
    assert seen.owner == "bob"
    assert seen.version > first.version


async def test_a_released_row_is_not_taken_over(store: Store, other: Store) -> None:
    await put_due(store, "job")
    first = await take_one(store)
    assert await settle(store, settlement(first, wake_at=await store.now() - 1))
    second = await take_one(other, replica="bob")
    assert not second.recovered


async def test_a_replica_takes_over_its_own_row_too(store: Store) -> None:
    await put_due(store, "job")
    first = await take_one(store, lease=SHORT_LEASE)
    second = await take_over(store, first, replica="alice")
    assert second.recovered
    assert not await settle(store, settlement(first))
    assert await settle(store, settlement(second))


async def test_unknown_kinds_are_not_claimed_and_do_not_hide_others(store: Store) -> None:
    now = await store.now()
    strange = [desired(f"strange-{n}", now - HOUR + n, kind=f"kind-{n % 300}") for n in range(3000)]
    await store.put([*strange, desired("known", now - 1)], replace=False)
    before = await read_row(store, "strange-0")

    assert [row.slug for row in (await claim(store, limit=1)).rows] == ["known"]
    assert (await claim(store, kinds=())).rows == []
    assert await read_row(store, "strange-0") == before
    rows = await take(store, 2, kinds=("kind-7", "kind-3"))
    assert [row.slug for row in rows] == ["strange-3", "strange-7"]


async def test_one_claim_serves_several_kinds(store: Store) -> None:
    now = await store.now()
    await store.put([desired(f"job-{n}", now - HOUR + n, kind=f"kind-{n % 3}") for n in range(9)], replace=False)
    rows = await take(store, 6, kinds=iter(["kind-0", "kind-2"]))
    assert [row.slug for row in rows] == ["job-0", "job-2", "job-3", "job-5", "job-6", "job-8"]


async def test_a_claim_returns_the_next_wake(store: Store) -> None:
    assert (await claim(store)).next_wake is None
    now = await store.now()
    await store.put([desired("b", now + 2 * HOUR), desired("a", now + HOUR)], replace=False)
    assert (await claim(store)).next_wake == now + HOUR
    await store.delete(["a"])
    assert (await claim(store)).next_wake == now + 2 * HOUR


async def test_the_next_wake_may_be_the_end_of_another_replicas_lease(store: Store, other: Store) -> None:
    await put_due(store, "job")
    await take_one(store)
    assert (await claim(other, "bob")).next_wake == (await read_row(store, "job")).wake_at


async def test_all_connections_have_the_same_clock(store: Store, other: Store) -> None:
    first = await store.now()
    batch = await claim(other)
    last = await store.now()
    assert first - SECOND <= batch.now <= last + SECOND


async def test_a_renewal_extends_the_lease(store: Store) -> None:
    await put_due(store, "job")
    row = await take_one(store, lease=LEASE)
    before = await store.now()
    answer = await renew(store, [(row.key, row.version)], lease=3 * LEASE)

    assert answer.revisions == {row.key: 1}
    seen = await read_row(store, "job")
    assert seen.wake_at is not None
    assert seen.wake_at >= before + 3 * LEASE - SECOND
    assert seen.version == row.version
    assert seen.owner == "alice"


async def test_a_renewed_lease_keeps_others_out(store: Store, other: Store) -> None:
    await put_due(store, "job")
    row = await take_one(store, lease=2 * SECOND)
    first_end = (await read_row(store, "job")).wake_at
    assert first_end is not None
    assert (await renew(store, [(row.key, row.version)], lease=LEASE)).revisions

    async def past_the_first_lease() -> bool:
        batch = await claim(other, "bob")
        assert batch.rows == []
        return batch.now > first_end

    await until(past_the_first_lease)


async def test_a_renewed_lease_ends_too(store: Store, other: Store) -> None:
    await put_due(store, "job")
    row = await take_one(store)
    assert (await renew(store, [(row.key, row.version)], lease=SHORT_LEASE)).revisions
    assert (await take_over(other, row)).recovered


async def test_a_lease_may_be_renewed_after_its_end_if_nobody_has_claimed_the_row(store: Store) -> None:
    await put_due(store, "job")
    row = await take_one(store, lease=SHORT_LEASE)
    await wait_for_lease_end(store, row)
    assert (await renew(store, [(row.key, row.version)], lease=LEASE)).revisions == {row.key: 1}
    assert (await claim(store, "bob")).rows == []


async def test_a_renewal_omits_lost_rows(store: Store, other: Store) -> None:
    await put_due(store, "lost", "settled", "deleted", "kept")
    rows = {row.slug: row for row in await take(store, 4, lease=SHORT_LEASE)}
    held = [(row.key, row.version) for row in rows.values()]
    keys = {slug: row.key for slug, row in rows.items()}
    others = [(row.key, row.version) for slug, row in rows.items() if slug != "lost"]
    assert set((await renew(store, others, lease=LEASE)).revisions) == {keys["settled"], keys["deleted"], keys["kept"]}
    await take_over(other, rows["lost"])
    assert await settle(store, settlement(rows["settled"], Disposition.KEEP))
    await store.delete(["deleted"])

    assert (await renew(store, held, lease=LEASE)).revisions == {keys["kept"]: 1}
    assert (await renew(other, held, replica="bob", lease=LEASE)).revisions == {}
    assert (await renew(store, [], lease=LEASE)).revisions == {}
    assert (await read_row(store, "lost")).owner == "bob"


async def test_a_refused_renewal_changes_nothing(store: Store, other: Store) -> None:
    await put_due(store, "job")
    row = await take_one(store, lease=SHORT_LEASE)
    await take_over(other, row)
    before = await read_row(store, "job")
    assert (await renew(store, [(row.key, row.version)], lease=3 * LEASE)).revisions == {}
    assert await read_row(store, "job") == before


async def test_a_renewal_reports_the_current_revision(store: Store, other: Store) -> None:
    await put_due(store, "job")
    row = await take_one(store)
    assert await other.put([desired("job", payload=b"new")], replace=True) == [Put.UPDATED]
    assert (await renew(store, [(row.key, row.version)], lease=LEASE)).revisions == {row.key: 2}


async def test_many_leases_are_renewed_in_one_call(store: Store) -> None:
    await put_due(store, *(f"job-{n}" for n in range(600)))
    rows = await take(store, 600)
    answer = await renew(store, [(row.key, row.version) for row in rows], lease=2 * LEASE)
    assert answer.revisions == {row.key: 1 for row in rows}


async def test_a_kind_changed_by_an_edit_is_claimed_as_the_new_kind(store: Store) -> None:
    now = await store.now()
    await store.put([desired("job", now + HOUR, kind="old")], replace=False)
    await store.put([desired("job", kind=KIND)], replace=True)
    assert (await take_one(store)).kind == KIND
    assert (await claim(store, kinds=("old",), ahead=2 * HOUR)).rows == []


async def test_a_due_row_whose_kind_changes_is_due_as_the_new_kind_only(store: Store) -> None:
    now = await store.now()
    await store.put([desired("job", now - HOUR, kind="old"), desired("control", now - 1, kind="old")], replace=False)
    await store.put([desired("job", kind=KIND)], replace=True)
    assert [row.slug for row in await take(store, kinds=("old",))] == ["control"]
    assert (await claim(store, kinds=("old",))).rows == []
    assert (await take_one(store)).slug == "job"
