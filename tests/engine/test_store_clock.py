"""A store whose clock is set while leases last: in the store they are over at once, and their owners do not know."""

from __future__ import annotations

import asyncio
import time

import pytest

from scheduledjob.domain.time.instants import SECOND, Instant
from scheduledjob.engine.executor import Attempt, Result
from scheduledjob.stores.memory import MemoryDatabase, MemoryStore

from .support import Jobs, Watcher, put, replica_of, running

LEASE = 2.0


class Server:
    """The clock of a shared store, which somebody sets."""

    def __init__(self) -> None:
        self.set_by: Instant = 0

    def __call__(self) -> Instant:
        return time.time_ns() // 1000 + self.set_by


async def endless(attempt: Attempt) -> Result:
    return await asyncio.Event().wait() and Result(True)


@pytest.mark.parametrize("seconds", [3, 3600, 86_400, 10 * 365 * 86_400, -3, -3600, -10 * 365 * 86_400])
async def test_a_run_goes_on_when_the_clock_of_a_shared_store_is_set(seconds: int) -> None:
    """No replica takes a row over before its owner had time to renew the lease by the new clock."""
    server = Server()
    database = MemoryDatabase(server)
    jobs, watcher, rival, seen = Jobs(endless), Watcher(), Jobs(), Watcher()
    await put(MemoryStore(database), "ns/endless")
    async with running(replica_of(MemoryStore(database), jobs, observer=watcher, lease=LEASE, grace=0.0)):
        await jobs.begun.get()
        async with running(
            replica_of(MemoryStore(database), rival, kinds=["job", "other"], observer=seen, lease=LEASE)
        ):
            server.set_by = seconds * SECOND
            # Whoever claims this row has seen the new clock, and would have taken over the other one.
            await put(MemoryStore(database), "ns/later", kind="other")
            assert (await rival.begun.get()).name == "later"
            await seen.until_recorded()
            assert jobs.cancelled.empty()
    assert rival.begun.empty()
    assert not any(event == "fenced" for event, _ in watcher.events)
