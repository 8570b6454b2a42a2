"""What the Firestore store costs, counted in documents as Firestore bills them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from scheduledjob.domain.time.instants import HOUR, MINUTE, SECOND
from scheduledjob.engine.store import Put, ReplicaInfo
from scheduledjob.engine.stored_row import Disposition, Origin
from tests.stores.support import claim, desired, record, settlement

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from scheduledjob.stores.firestore import FirestoreStore

    from .metering import Meter

pytestmark = pytest.mark.firestore

RUNS = 1_000


@pytest.mark.parametrize("batch", [RUNS, 128])
async def test_a_run_costs_three_writes_and_two_reads_at_most(store: FirestoreStore, meter: Meter, batch: int) -> None:
    now = await store.now()
    await store.put([desired(f"job-{n}", now) for n in range(RUNS)], replace=False)
    meter.reset()
    runs = 0
    while rows := (await claim(store, limit=batch)).rows:
        runs += len(rows)
        ends = [
            settlement(row, wake_at=now + HOUR, records=[record(f"run-of-{row.slug}", now, slug=row.slug)])
            for row in rows
        ]
        assert all(await store.settle("alice", ends))
    assert runs == RUNS
    assert meter.written <= 3 * RUNS
    # The last claim, which finds nothing, is a poll and not a run.
    assert meter.read <= 2 * RUNS


@pytest.mark.parametrize("due", [1, 2, 3, 7])
async def test_few_runs_cost_no_more_per_run(store: FirestoreStore, meter: Meter, due: int) -> None:
    now = await store.now()
    await store.put([desired("later", now + HOUR), *(desired(f"job-{n}", now - n) for n in range(due))], replace=False)
    meter.reset()
    batch = await claim(store)
    assert len(batch.rows) == due
    assert batch.next_wake == now + HOUR
    assert meter.read <= 2 * due
    assert meter.written == due


async def test_a_busy_schedule_is_pruned_without_reading(store: FirestoreStore, meter: Meter) -> None:
    now = await store.now()
    await store.put([desired("job", now)], replace=False)
    await store.prune()
    (row,) = (await claim(store)).rows
    meter.reset()
    for n in range(20):
        end = settlement(row, Disposition.KEEP, records=[record(f"run-{n}", now + n, keep=3, expires=now + HOUR)])
        assert await store.settle("alice", [end]) == [True]
        row.version += 1
        await store.prune()
    assert meter.read == 0
    assert meter.deleted == 17
    assert [record.run_id for record in await store.history("job")] == ["run-19", "run-18", "run-17"]


async def test_a_slug_that_is_scheduled_again_is_pruned_with_its_earlier_history(store: FirestoreStore) -> None:
    now = await store.now()
    for n in range(5):
        await store.put([desired("job", now)], replace=False)
        (row,) = (await claim(store)).rows
        end = settlement(row, Disposition.REMOVE, records=[record(f"run-{n}", now + n, keep=2, expires=now + HOUR)])
        assert await store.settle("alice", [end]) == [True]
    assert await store.prune() == 3
    assert [record.run_id for record in await store.history("job")] == ["run-4", "run-3"]


@pytest.mark.parametrize("stored", [0, 3])
async def test_an_idle_replica_reads_one_document_for_each_poll(
    store: FirestoreStore, meter: Meter, stored: int
) -> None:
    now = await store.now()
    if stored:
        await store.put([desired(f"job-{n}", now + HOUR + n) for n in range(stored)], replace=False)
    intervals = [store.poll_interval]
    meter.reset()
    for _ in range(12):
        batch = await claim(store, ahead=SECOND)
        assert batch.next_wake == (now + HOUR if stored else None)
        intervals.append(store.poll_interval)
    assert (meter.read, meter.written) == (12, 0)
    assert intervals == sorted(intervals)
    assert intervals[-1] == 5.0


async def test_many_kinds_and_shards_are_one_query(
    open_one: Callable[..., Awaitable[FirestoreStore]], meter: Meter
) -> None:
    store = await open_one("?shards=3")
    meter.reset()
    await store.claim("alice", [f"kind-{n}" for n in range(10)], limit=10, ahead=0, lease=MINUTE)
    assert meter.read == 1


async def test_an_unchanged_announcement_is_free(store: FirestoreStore, meter: Meter) -> None:
    now = await store.now()
    meter.reset()
    for n in range(5):
        await store.announce(ReplicaInfo("alice", "1.0", 1, {"host": "a"}), now + n * SECOND)
    assert (meter.read, meter.written) == (0, 1)
    await store.announce(ReplicaInfo("alice", "1.0", 1, {"host": "b"}), now)
    assert (meter.read, meter.written) == (0, 2)


async def test_the_clock_is_not_measured_while_it_is_known(store: FirestoreStore, meter: Meter) -> None:
    meter.reset()
    for _ in range(10):
        await store.now()
    assert meter.calls.total() == 0


async def test_an_unchanged_object_costs_a_read_and_no_write(store: FirestoreStore, meter: Meter) -> None:
    objects = [replace(desired(f"ns/{n}", origin=Origin.CLUSTER), generation=1) for n in range(300)]
    await store.reconcile(objects)
    meter.reset()
    assert set(await store.reconcile(objects)) == {Put.UNCHANGED}
    assert (meter.read, meter.written, meter.deleted) == (300, 0, 0)
    meter.reset()
    assert set(await store.reconcile([replace(row, generation=2) for row in objects])) == {Put.UPDATED}
    assert (meter.read, meter.written, meter.deleted) == (300, 300, 0)


async def test_a_lock_costs_a_read_and_a_write(store: FirestoreStore, meter: Meter) -> None:
    assert await store.lock("sweep", "alice", HOUR)
    assert await store.lock("sweep", "alice", HOUR)
    assert (meter.read, meter.written) == (2, 2)
    assert not await store.lock("sweep", "bob", HOUR)
    assert (meter.read, meter.written) == (3, 2)
