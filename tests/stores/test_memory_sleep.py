"""The memory store on a machine that was suspended, or whose clock was set: it follows the wall clock."""

from __future__ import annotations

import asyncio
import time

import pytest
from structlog.testing import capture_logs

from scheduledjob.domain.time.instants import SECOND
from scheduledjob.engine.executor import Attempt, Result
from scheduledjob.stores.memory import MemoryDatabase, MemoryStore, WallClock
from scheduledjob.stores.memory.clock import STEP
from tests.engine.support import Jobs, Watcher, desired, put, running, single_slot

from .test_behaviour_sleep import Machine


async def test_a_slot_that_a_sleeping_machine_owned_starts_when_it_wakes() -> None:
    """The memory store's clock is the wall clock, and no timer of the event loop has seen the time pass."""
    machine, jobs, watcher = Machine(), Jobs(), Watcher()
    store = MemoryStore(MemoryDatabase(WallClock(machine.wall)))
    store.exclusive = True
    now = await store.now()
    await store.put([desired("ns/job", single_slot(now + 3000 * SECOND), now)], replace=False)
    with capture_logs() as logs:
        async with running(machine.replica(store, jobs, watcher)):
            machine.slept = 3600.0
            await watcher.until_recorded()
    assert any("was suspended" in entry["event"] for entry in logs)


async def test_a_run_goes_on_after_a_sleep_if_no_other_process_can_use_the_store() -> None:
    machine, goes_on = Machine(), asyncio.Event()

    async def job(attempt: Attempt) -> Result:
        await goes_on.wait()
        return Result(True)

    jobs, watcher = Jobs(job), Watcher()
    store = MemoryStore(MemoryDatabase(WallClock(machine.wall)))
    store.exclusive = True
    await put(store, "ns/later", late=-3600 * SECOND)
    await put(store, "ns/job")
    async with running(machine.replica(store, jobs, watcher)):
        await jobs.begun.get()
        machine.slept = 7200.0
        assert (await jobs.begun.get()).name == "later"  # so the replica has noticed that the machine slept
        goes_on.set()
        await watcher.until_recorded(2)
    assert [record.attempt for record in watcher.records] == [1, 1]


async def test_a_clock_that_is_set_while_a_run_is_under_way_stops_no_run() -> None:
    """A step of NTP moves the wall clock only."""
    machine, goes_on = Machine(), asyncio.Event()
    set_by = 0

    async def job(attempt: Attempt) -> Result:
        await goes_on.wait()
        return Result(True)

    jobs, watcher = Jobs(job), Watcher()
    store = MemoryStore(MemoryDatabase(WallClock(lambda: time.time_ns() + set_by)))
    store.exclusive = True
    await put(store, "ns/later", late=-3600 * SECOND)
    await put(store, "ns/job")
    with capture_logs() as logs:
        async with running(machine.replica(store, jobs, watcher)):
            await jobs.begun.get()
            set_by = 3601 * SECOND * 1000
            assert (await jobs.begun.get()).name == "later"
            goes_on.set()
            await watcher.until_recorded(2)
            set_by = 0
            await put(store, "ns/after", late=-2 * SECOND)
            await watcher.until_recorded(3)
    assert [record.attempt for record in watcher.records] == [1, 1, 1]
    assert [entry["by"] for entry in logs if "clock was set" in entry["event"]] == ["+3601 s", "-3601 s"]


@pytest.mark.parametrize(("moved", "jump"), [(STEP * 1000 - 1, 0), (STEP * 1000, STEP), (-STEP * 1000, -STEP)])
def test_the_clock_jumps_only_by_a_step_or_more(moved: int, jump: int) -> None:
    wall = 10**18
    clock = WallClock(lambda: wall, lambda: 0)
    before = clock()
    wall += moved
    assert clock() - before == jump
    assert clock.take_jump() == jump
