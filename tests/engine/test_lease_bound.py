"""The bound on leases of a store in memory, which can't exclude other processes."""

from __future__ import annotations

from scheduledjob.engine.clock import boot_seconds
from scheduledjob.engine.leases import Leases
from scheduledjob.engine.store import Renewal
from scheduledjob.stores.memory import MemoryStore

from .support import Jobs, Watcher, for_ever, put, replica_of, running


def test_no_lease_reaches_beyond_the_bound() -> None:
    bound = [110.0]
    leases = Leases(15.0, lambda: bound[0])
    leases.beat(100.0)
    lease = leases.add(1, 7, 115.0)
    assert lease.deadline == 110.0
    bound[0] = 118.0
    assert leases.renewed([(1, 7)], Renewal({1: 1}), 105.0).deadline == 118.0
    assert leases.renewed([(1, 7)], Renewal({1: 1}), 101.0).deadline == 116.0
    assert leases.expired(113.5) == [1]


async def test_attempts_are_stopped_before_the_bound() -> None:
    store, jobs, watcher = MemoryStore(), Jobs(for_ever), Watcher()
    bound = boot_seconds() + 3.0
    await put(store, "ns/a")
    replica = replica_of(store, jobs, observer=watcher, lease=3.0, grace=0.0, lease_bound=lambda: bound)
    async with running(replica):
        attempt = await jobs.begun.get()
        await watcher.until_event("fenced")
        assert await jobs.cancelled.get() is attempt
        assert attempt.deadline <= bound
        assert all(deadline <= bound for _, deadline in jobs.extended)
