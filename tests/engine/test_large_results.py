"""A run that leaves more than the store takes fails, before anything is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from scheduledjob.domain.schedule.backoff import Fixed
from scheduledjob.domain.schedule.definition import Definition
from scheduledjob.domain.schedule.state import Outcome
from scheduledjob.domain.time.instants import SECOND
from scheduledjob.domain.triggers.every import EveryTrigger
from scheduledjob.engine.executor import Result
from scheduledjob.stores.memory import MemoryStore

from .support import Jobs, Watcher, desired, put, replica_of, row_of, running

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


@pytest.mark.parametrize(
    ("before", "left"),
    [
        (Result(True), Result(True, result=bytes(4000))),
        (Result(True), Result(True, payload=bytes(4000))),
        (Result(True), Result(True, payload=bytes(2000), result=bytes(2000))),
        (Result(True, result=bytes(2000)), Result(True, payload=bytes(2000))),
        (Result(True, payload=bytes(2000)), Result(True, result=bytes(2000))),
    ],
)
async def test_a_run_that_leaves_more_than_a_row_of_the_store_has_fails_with_words(
    before: Result, left: Result
) -> None:
    """Firestore would refuse the row, and lose what the run has left."""
    results = [before, left]

    async def leave(attempt: Attempt) -> Result:
        return results.pop(0)

    store, watcher = MemoryStore(), Watcher()
    store.row_limit = 4000
    now = await store.now()
    triggers = (EveryTrigger(SECOND, now - now % SECOND),)
    await store.put(
        [desired("a", Definition(kind="job", triggers=triggers, retry=Fixed([0.01], max_retries=0)), now)],
        replace=False,
    )
    async with running(replica_of(store, Jobs(leave), observer=watcher)):
        await watcher.until_recorded(2)
    first, second = watcher.records[:2]
    assert (first.outcome, second.outcome) == (Outcome.SUCCEEDED, Outcome.FAILED)
    assert "this store keeps 4000: store them elsewhere" in second.reason
