"""A run that leaves more than the store takes fails, before anything is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from scheduledjob.domain.schedule.backoff import Fixed
from scheduledjob.domain.schedule.state import Outcome
from scheduledjob.engine.executor import Result
from scheduledjob.stores.memory import MemoryStore

from .support import Jobs, Watcher, put, replica_of, row_of, running

if TYPE_CHECKING:
    from scheduledjob.engine.executor import Attempt


@pytest.mark.parametrize("what", ["result", "payload"])
async def test_a_run_that_leaves_more_than_the_store_takes_fails_with_words(what: str) -> None:
    async def leave(attempt: Attempt) -> Result:
        return Result(True, result=bytes(1001)) if what == "result" else Result(True, payload=bytes(1001))

    store, watcher = MemoryStore(), Watcher()
    await put(store, "ns/a", retry=Fixed([0.01], max_retries=0))
    async with running(replica_of(store, Jobs(leave), observer=watcher, max_result=1000)):
        await watcher.until_recorded()
    (record,) = watcher.records
    assert record.outcome is Outcome.FAILED
    assert record.reason.startswith(f"the job left a {what} of 1001 bytes, and 1000 are allowed (max_result): store it")
    row = await row_of(store, "ns/a")
    assert (row.payload, row.result) == (None, None)


@pytest.mark.parametrize(("size", "ok"), [(64 * 1024, True), (64 * 1024 + 1, False)])
async def test_a_run_of_a_manifest_leaves_as_much_payload_as_a_manifest_may_have(size: int, ok: bool) -> None:
    async def leave(attempt: Attempt) -> Result:
        return Result(True, payload=bytes(size))

    store, watcher = MemoryStore(), Watcher()
    await put(store, "ns/a", retry=Fixed([0.01], max_retries=0))
    async with running(replica_of(store, Jobs(leave), observer=watcher)):
        await watcher.until_recorded()
    assert (watcher.records[0].outcome is Outcome.SUCCEEDED) == ok
