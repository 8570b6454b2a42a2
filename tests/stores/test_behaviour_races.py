"""Every store: concurrent calls. The result is that of one call after the other, in either order."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from scheduledjob.domain.schedule.state import Outcome, Run, State, run_id
from scheduledjob.domain.time.instants import HOUR, SECOND
from scheduledjob.engine.store import Put
from scheduledjob.engine.stored_row import Disposition

from .support import (
    SHORT_LEASE,
    claim,
    desired,
    put_due,
    read_row,
    record,
    renew,
    settle,
    settlement,
    take,
    take_one,
    until,
    wait_for_lease_end,
)

if TYPE_CHECKING:
    from scheduledjob.engine.store import Store
    from scheduledjob.engine.stored_row import Row

    from .conftest import StoreFactory

ROUNDS = 12
RUN = Run(slot=7, due=7, begun=8)
RUNNING = State(decided_until=7, runs=[RUN]).encode()


async def test_exactly_one_of_many_replicas_takes_over(store_factory: StoreFactory) -> None:
    stores = await store_factory.several(6)
    slugs = [f"job-{n}" for n in range(20)]
    await put_due(stores[0], *slugs)
    first = await take(stores[0], 20, lease=SHORT_LEASE)
    await wait_for_lease_end(stores[0], first[-1])
    taken: list[Row] = []

    async def all_taken() -> bool:
        batches = await asyncio.gather(*(claim(store, f"bob-{n}", limit=7) for n, store in enumerate(stores)))
        taken.extend(row for batch in batches for row in batch.rows)
        return len(taken) >= 20

    await until(all_taken)
    assert sorted(row.slug for row in taken) == sorted(slugs)
    assert all(row.recovered for row in taken)
    answers = await stores[0].settle("alice", [settlement(row) for row in first])
    assert answers == [False] * 20


@pytest.mark.parametrize("disposition", Disposition)
async def test_a_settlement_sent_over_two_connections_counts_once(
    store_factory: StoreFactory, disposition: Disposition
) -> None:
    stores = await store_factory.several(4)
    for turn in range(ROUNDS):
        slug = f"job-{turn}"
        await put_due(stores[0], slug)
        row = await take_one(stores[0])
        sent = settlement(row, disposition, records=[record(f"run-{turn}", turn)])
        assert sorted(await asyncio.gather(*(settle(store, sent) for store in stores))) == [False] * 3 + [True]
        assert await stores[0].recorded([f"run-{turn}"])


@pytest.mark.parametrize("disposition", [Disposition.RELEASE, Disposition.REMOVE])
async def test_an_edit_concurrent_with_a_settlement_is_not_lost(
    store: Store, other: Store, disposition: Disposition
) -> None:
    for turn in range(ROUNDS):
        slug = f"job-{turn}"
        await put_due(store, slug)
        row = await take_one(store)
        edit = desired(slug, await store.now(), payload=b"new")
        settled, (put,) = await asyncio.gather(
            settle(store, settlement(row, disposition, wake_at=None)), other.put([edit], replace=True)
        )
        assert settled
        seen = await read_row(store, slug)
        assert seen.payload == b"new"
        assert seen.owner is None
        assert seen.wake_at is not None
        assert seen.wake_at <= await store.now() + SECOND
        assert seen.revision == (1 if put is Put.CREATED else 2)
        assert (await take_one(store)).slug == slug


async def test_a_deletion_concurrent_with_a_settlement_records_the_run_once(store: Store, other: Store) -> None:
    for turn in range(ROUNDS):
        slug = f"job-{turn}"
        await put_due(store, slug, state=RUNNING)
        row = await take_one(store)
        ended = record(run_id(row.uid, RUN), 9, slug=slug)
        done = settlement(row, state=State(decided_until=7).encode(), records=[ended])
        settled, deleted = await asyncio.gather(settle(store, done), other.delete([slug]))
        assert deleted == [True]
        (kept,) = await store.history(slug)
        assert kept.outcome is (Outcome.SUCCEEDED if settled else Outcome.CANCELLED)


async def test_of_concurrent_deletions_one_finds_the_schedule(store: Store, other: Store) -> None:
    slugs = [f"job-{n}" for n in range(40)]
    await put_due(store, *slugs, state=RUNNING)
    first, second = await asyncio.gather(store.delete(slugs), other.delete(slugs[::-1]))
    assert [a + b for a, b in zip(first, second[::-1], strict=True)] == [1] * 40
    assert len(await store.history()) == 40


async def test_a_renewal_and_a_concurrent_takeover_do_not_both_succeed(store: Store, other: Store) -> None:
    for turn in range(ROUNDS // 3):
        slug = f"job-{turn}"
        await put_due(store, slug)
        row = await take_one(store, lease=SHORT_LEASE)
        await wait_for_lease_end(store, row)
        renewed, batch = await asyncio.gather(
            renew(store, [(row.key, row.version)], lease=HOUR), claim(other, "bob", lease=HOUR)
        )
        assert bool(renewed.revisions) != bool(batch.rows)
        assert (await read_row(store, slug)).owner == ("bob" if batch.rows else "alice")


async def test_every_edit_concurrent_with_claims_is_seen(store: Store, other: Store) -> None:
    slugs = [f"job-{n:02}" for n in range(30)]
    await put_due(store, *slugs)
    rows: list[Row] = []

    async def all_claimed() -> bool:
        rows.extend((await claim(store, limit=4)).rows)
        return len(rows) == len(slugs)

    async def edit() -> None:
        for start in range(0, len(slugs), 10):
            edits = [desired(slug, payload=b"new") for slug in slugs[start : start + 10]]
            assert await other.put(edits, replace=True) == [Put.UPDATED] * 10

    await asyncio.gather(until(all_claimed), edit())
    answers = await store.settle("alice", [settlement(row, wake_at=None) for row in rows])
    assert all(answers)
    known = {row.slug for row in rows if row.revision == 2}
    asleep = {row.slug for row in await store.rows() if row.wake_at is None}
    assert asleep == known
    assert all(row.payload == b"new" for row in rows if row.slug in known)


async def test_a_schedule_that_is_removed_and_put_at_the_same_time(store: Store, other: Store) -> None:
    """A settlement removes the row while a client puts the slug without replace: SlugTaken, or a new row."""
    for turn in range(ROUNDS):
        slug = f"job-{turn}"
        await put_due(store, slug)
        row = await take_one(store)
        settled, put = await asyncio.gather(
            settle(store, settlement(row, Disposition.REMOVE)),
            other.put([desired(slug, payload=b"again")], replace=False),
            return_exceptions=True,
        )
        assert settled is True
        seen = (await store.get([slug]))[0]
        if put == [Put.CREATED]:
            assert seen is not None
            assert (seen.payload, seen.revision) == (b"again", 1)
            assert seen.key != row.key
        else:
            assert seen is None
