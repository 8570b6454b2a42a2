"""A hook that does not answer while its replica shuts down: the run is recorded, and does not run again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from scheduledjob.domain.schedule.state import Outcome
from scheduledjob.engine.executor import Attempt, Result
from scheduledjob.stores.memory import MemoryStore

from .support import PATIENCE, Jobs, put, replica_of

if TYPE_CHECKING:
    from scheduledjob.domain.schedule.state import RunRecord


@pytest.mark.parametrize("detached", [False, True])
async def test_the_end_of_a_run_is_written_before_the_replica_ends(detached: bool) -> None:
    store, jobs, called = MemoryStore(), Jobs(), asyncio.Event()

    async def never_answers(hook: Any, attempt: Attempt, record: RunRecord) -> Result:
        called.set()
        return await asyncio.Event().wait() and Result(True)

    await put(store, "ns/a", on_success=({"url": "http://x"},))
    replica = replica_of(store, jobs, grace=0.1, hook=never_answers, detached=detached)
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        tasks.create_task(replica.run())
        await called.wait()
        replica.stop()
    assert [record.outcome for record in await store.history("ns/a")] == [Outcome.SUCCEEDED]
