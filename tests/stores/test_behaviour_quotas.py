"""Every store: claims with quotas take so many rows of each tenant, and say which tenants have more due rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from scheduledjob.domain.time.instants import HOUR, SECOND
from scheduledjob.engine.capacity import describe_wait, tenant_of
from scheduledjob.engine.store import COUNTED, Batch, Quotas
from scheduledjob.engine.stored_row import DEFAULT_TENANT, Origin

from .support import KIND, LEASE, SHORT_LEASE, desired, settle, settlement, take, until, wait_for_lease_end

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scheduledjob.domain.time.instants import Micros
    from scheduledjob.engine.store import Store
    from scheduledjob.engine.stored_row import NewRow


async def claim_fairly(
    store: Store,
    tenants: dict[str, int],
    others: int,
    *,
    limit: int = 100,
    ahead: Micros = 0,
    kinds: Iterable[str] = (KIND,),
) -> Batch:
    quotas = Quotas(tenants, others)
    return await store.claim("alice", kinds, limit=limit, ahead=ahead, lease=LEASE, quotas=quotas)


def of_namespace(namespace: str, count: int, due: int, *, kind: str = KIND) -> list[NewRow]:
    rows = [desired(f"{namespace}/job-{n:03}", due + n, origin=Origin.MANIFEST) for n in range(count)]
    for row in rows:
        row.kind = kind
    return rows


def of_tenant(tenant: str, count: int, due: int) -> list[NewRow]:
    rows = [desired(f"{tenant}-{n:03}", due + n) for n in range(count)]
    for row in rows:
        row.tenant = tenant
    return rows


def counted(batch: Batch) -> Counter[str]:
    return Counter(tenant_of(row) for row in batch.rows)


async def test_a_claim_takes_the_quota_of_each_tenant(store: Store) -> None:
    now = await store.now()
    rows = [*of_namespace("a", 30, now - HOUR), *of_namespace("b", 2, now - SECOND), *of_tenant("c", 5, now - SECOND)]
    await store.put(rows, replace=False)
    await store.put([desired("of-no-tenant", now - SECOND)], replace=False)
    batch = await claim_fairly(store, {"a": 10, "c": 3}, 4)
    assert counted(batch) == {"a": 10, "b": 2, "c": 3, "": 1}
    assert batch.left == {"a", "c"}
    assert sorted(row.slug for row in batch.rows if row.slug.startswith("a/")) == [f"a/job-{n:03}" for n in range(10)]
    batch = await claim_fairly(store, {"a": 0}, 4)
    assert counted(batch) == {"c": 2}
    assert batch.left == {"a"}
    assert len(await take(store, 20)) == 20, "what has no room stays for others"


async def test_the_first_rows_of_each_tenant_come_first(store: Store) -> None:
    now = await store.now()
    await store.put([*of_namespace("a", 50, now - HOUR), *of_namespace("z", 1, now - SECOND)], replace=False)
    batch = await claim_fairly(store, {}, 16, limit=5)
    assert [row.slug for row in batch.rows] == ["a/job-000", "z/job-000", "a/job-001", "a/job-002", "a/job-003"]
    assert batch.left == {"a"}


async def test_the_tenant_of_a_row_is_what_its_writer_named(store: Store) -> None:
    now = await store.now()
    (row,) = of_tenant("team", 1, now - HOUR)
    await store.put([row], replace=False)
    (claimed,) = (await claim_fairly(store, {"team": 1}, 0)).rows
    assert claimed.tenant == "team"
    await settle(store, settlement(claimed, wake_at=now - HOUR))
    row.tenant = "other"
    await store.put([row], replace=True)
    assert not (await claim_fairly(store, {"team": 1}, 0)).rows
    (claimed,) = (await claim_fairly(store, {"other": 1}, 0)).rows
    assert claimed.tenant == "other"


async def test_the_tenant_of_a_row_follows_who_wrote_it_last(store: Store) -> None:
    now = await store.now()
    (row,) = of_namespace("a", 1, now - HOUR)
    await store.put([row], replace=False)
    (claimed,) = (await claim_fairly(store, {"a": 1}, 0)).rows
    await store.put([replace(row, origin=Origin.LIBRARY)], replace=True)
    (read,) = await store.get([row.slug])
    assert read is not None
    assert (read.origin, read.tenant) == (Origin.LIBRARY, DEFAULT_TENANT)
    await settle(store, settlement(claimed, wake_at=now - HOUR))
    assert counted(await claim_fairly(store, {"a": 0}, 1)) == {DEFAULT_TENANT: 1}


async def test_quotas_hold_for_all_kinds_of_a_tenant_together(store: Store) -> None:
    now = await store.now()
    rows = [*of_namespace("a", 20, now - HOUR), *of_namespace("b", 20, now - HOUR, kind="rolling-out")]
    for row in rows[:10]:
        row.kind = "shell"
    await store.put(rows, replace=False)
    batch = await claim_fairly(store, {"a": 6}, 6, kinds=(KIND, "shell"))
    assert counted(batch) == {"a": 6}
    assert batch.left == {"a"}
    assert counted(await claim_fairly(store, {}, 100, kinds=(KIND, "shell"))) == {"a": 14}


async def test_rows_that_are_not_due_or_owned_are_not_counted(store: Store) -> None:
    now = await store.now()
    await store.put([*of_namespace("a", 2, now - HOUR), *of_namespace("b", 2, now + HOUR)], replace=False)
    assert len((await claim_fairly(store, {}, 100)).rows) == 2
    batch = await claim_fairly(store, {}, 0)
    assert not batch.rows
    assert not batch.left
    assert batch.next_wake is not None
    assert batch.now < batch.next_wake <= now + HOUR
    assert len((await claim_fairly(store, {}, 1, ahead=2 * HOUR)).rows) == 1


async def test_due_rows_without_a_quota_do_not_set_the_next_wake(store: Store) -> None:
    """Otherwise a replica would poll without a pause while a tenant has no room."""
    now = await store.now()
    await store.put([*of_namespace("a", 5, now - HOUR), *of_namespace("b", 1, now + HOUR)], replace=False)
    batch = await claim_fairly(store, {"a": 0}, 10)
    assert batch.left == {"a"}
    assert batch.next_wake is None or batch.next_wake >= batch.now + SECOND


async def test_a_row_whose_lease_has_ended_is_claimed_by_quota(store: Store, other: Store) -> None:
    """Before a row of the same tenant that has waited for less time."""
    now = await store.now()
    await store.put(of_namespace("a", 1, now - HOUR), replace=False)
    (row,) = await take(other, replica="bob", lease=SHORT_LEASE)
    await wait_for_lease_end(store, row)
    await store.put([desired("a/later", await store.now(), origin=Origin.MANIFEST)], replace=False)

    async def recovered() -> bool:
        rows = (await claim_fairly(store, {"a": 1}, 0)).rows
        assert all(row.recovered for row in rows)
        return bool(rows)

    await until(recovered)


async def test_rows_whose_lease_has_ended_count_against_the_quota(store: Store, other: Store) -> None:
    now = await store.now()
    await store.put([*of_namespace("a", 4, now - HOUR), *of_namespace("b", 1, now - HOUR)], replace=False)
    rows = await take(other, 5, replica="bob", lease=SHORT_LEASE)
    await wait_for_lease_end(store, rows[-1])
    await store.put(of_tenant("c", 9, now - SECOND), replace=False)
    await store.put([replace(row, slug=f"a/due-{n}") for n, row in enumerate(of_namespace("a", 6, now))], replace=False)
    claimed = Counter[str]()

    async def full() -> bool:
        quotas = {"a": 5 - claimed["a"], "b": 0, "c": 2 - claimed["c"]}
        batch = await claim_fairly(store, quotas, 0)
        assert batch.left >= {"a", "b", "c"}
        claimed.update(counted(batch))
        return claimed == {"a": 5, "c": 2}

    await until(full)
    assert await claim_everything(store) == {"a": 5, "b": 1, "c": 7}


async def claim_everything(store: Store) -> Counter[str]:
    claimed = Counter[str]()

    async def all_claimed() -> bool:
        batch = await claim_fairly(store, {}, 100)
        claimed.update(counted(batch))
        return not batch.rows

    await until(all_claimed)
    return claimed


async def test_each_of_many_tenants_is_served(store: Store) -> None:
    now = await store.now()
    rows = [row for number in range(60) for row in of_namespace(f"team-{number}", 2, now - HOUR)]
    await store.put(rows, replace=False)
    claimed = Counter[str]()

    async def all_served() -> bool:
        batch = await claim_fairly(store, {}, 1, limit=25)
        assert len(batch.rows) <= 25
        claimed.update(counted(batch))
        return claimed.total() == 120

    await until(all_served)
    assert set(claimed.values()) == {2}


async def test_a_waiting_row_has_a_position_in_the_queue_of_its_tenant(store: Store) -> None:
    now = await store.now()
    rows = [*of_namespace("a", 8, now - HOUR), *of_namespace("b", 8, now - 2 * HOUR)]
    await store.put(rows, replace=False)
    first, fifth = await store.get(["a/job-000", "a/job-004"])
    assert first is not None
    assert fifth is not None
    assert await store.queue_position(first) == (1, True)
    assert await store.queue_position(fifth) == (5, True)
    await claim_fairly(store, {"a": 2}, 0)
    assert await store.queue_position(fifth) == (3, True)


async def test_a_long_queue_is_not_counted_to_its_end(store: Store) -> None:
    now = await store.now()
    await store.put(of_namespace("a", COUNTED + 50, now - HOUR), replace=False)
    (last,) = await store.get([f"a/job-{COUNTED + 49:03}"])
    assert last is not None
    position, exact = await store.queue_position(last)
    assert not exact
    assert position > 25
    assert describe_wait(position, exact) == f"waiting for capacity, position {position} or later"
