"""A machine that was suspended: its boot clock went on, and the timers of its event loop stood still."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from scheduledjob.engine.executor import Attempt, Result
from scheduledjob.engine.kinds import JobKind
from scheduledjob.engine.replica import Replica
from scheduledjob.engine.replica_settings import ReplicaHost, ReplicaPlatform, ReplicaSettings
from tests.engine.support import Jobs, Watcher, put, running

if TYPE_CHECKING:
    from scheduledjob.engine.store import Store


class Machine:
    """A machine that a test suspends."""

    def __init__(self) -> None:
        self.slept = 0.0

    def boot_seconds(self) -> float:
        return time.monotonic() + self.slept

    def wall(self) -> int:
        return time.time_ns() + int(self.slept * 1e9)

    def replica(self, store: Store, jobs: Jobs, watcher: Watcher, *, heartbeat: float = 60.0) -> Replica:
        settings = ReplicaSettings(heartbeat=heartbeat, lease=2.0, grace=0.0)
        platform = ReplicaPlatform(monotonic=self.boot_seconds)
        return Replica(store, {"job": JobKind("job", jobs)}, settings, ReplicaHost(observer=watcher), platform)


async def first_is_endless(attempt: Attempt) -> Result:
    if attempt.attempt == 1:
        await asyncio.Event().wait()
    return Result(True)


async def test_a_lease_that_passed_while_the_machine_slept_is_not_believed(store: Store) -> None:
    machine, jobs, watcher = Machine(), Jobs(first_is_endless), Watcher()
    await put(store, "ns/job")
    async with running(machine.replica(store, jobs, watcher)):
        assert (await jobs.begun.get()).attempt == 1
        machine.slept = 3600.0
        assert (await jobs.cancelled.get()).attempt == 1
        await watcher.until_recorded()
    assert [record.attempt for record in watcher.records] == [2]
    assert jobs.most_active == 1
