"""Edits of a schedule that a replica owns: it follows the newest, and none of them keeps it from running."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING

import pytest

from scheduledjob.domain.schedule.backoff import Fixed
from scheduledjob.domain.schedule.definition import Definition
from scheduledjob.domain.time.instants import SECOND, from_seconds
from scheduledjob.domain.triggers.every import EveryTrigger
from scheduledjob.engine.executor import Result
from scheduledjob.engine.kinds import JobKind
from scheduledjob.engine.leases import Lease
from scheduledjob.engine.owned_schedule import own
from scheduledjob.engine.stored_row import Disposition
from scheduledjob.stores.memory import MemoryStore

from .support import Jobs, Watcher, desired, ok, put, replica_of, row_of, running

if TYPE_CHECKING:
    from scheduledjob.engine.executor import Attempt
    from scheduledjob.engine.stored_row import NewRow


def edited(row: NewRow, number: int) -> NewRow:
    definition = Definition(kind="job", triggers=(EveryTrigger(SECOND),), job={"number": number})
    return dataclasses.replace(row, definition=definition.encode())


@pytest.mark.parametrize("yields", [1, 3, 10])
async def test_a_schedule_that_is_edited_without_pause_runs(yields: int) -> None:
    store, jobs = MemoryStore(), Jobs()
    row = edited(desired("ns/a", Definition(kind="job", triggers=(EveryTrigger(SECOND),)), await store.now()), 0)
    await store.put([row], replace=False)
    number = 0
    async with running(replica_of(store, jobs)):
        while jobs.begun.qsize() < 3:
            number += 1
            await store.put([edited(row, number)], replace=True)
            for _ in range(yields):
                await asyncio.sleep(0)
    slots = [jobs.begun.get_nowait().slot for _ in range(3)]
    assert slots == [slots[0] + n * SECOND for n in range(3)], "no slot is left out"


async def test_many_rows_with_running_attempts_are_read_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    store, release = MemoryStore(), asyncio.Event()

    async def until_released(attempt: Attempt) -> Result:
        await release.wait()
        return await ok(attempt)

    jobs, watcher = Jobs(until_released), Watcher()
    slugs = [f"ns/{number}" for number in range(200)]
    await put(store, *slugs)
    async with running(replica_of(store, jobs, observer=watcher)):
        for _ in slugs:
            await jobs.begun.get()
        reads: list[int] = []
        get = store.get

        async def counted(slugs: list[str]) -> list[object]:
            reads.append(len(slugs))
            return await get(slugs)  # type: ignore[return-value]

        monkeypatch.setattr(store, "get", counted)
        await put(store, *slugs, payload=b"new")
        await watcher.until(lambda: sum(state.revision == 2 for state in watcher.states.values()) == len(slugs))
        assert sum(reads) == len(slugs)
        assert len(reads) < 20
        release.set()
    assert (await row_of(store, "ns/0")).payload == b"new"


async def test_a_run_in_backoff_whose_edit_can_not_be_read_is_given_back() -> None:
    async def fails(attempt: Attempt) -> Result:
        return Result(False, "no")

    store, watcher = MemoryStore(), Watcher()
    await put(store, "ns/a", retry=Fixed([30.0], max_retries=1))
    async with running(replica_of(store, Jobs(fails), observer=watcher, ahead=60.0)):
        await watcher.until_event("claimed", 2)  # the second time during the backoff
        assert (await row_of(store, "ns/a")).owner is not None
        await put(store, "ns/a", kind="novel")
        await watcher.until_event("released", 2)
    row = await row_of(store, "ns/a")
    assert (row.kind, row.owner) == ("novel", None), "a replica that can read it continues"


async def test_a_payload_that_a_run_leaves_is_written_once() -> None:
    """If it were written again with the next run, it would overwrite what a client has set since."""
    store = MemoryStore()
    await put(store, "ns/a")
    (row,) = (await store.claim("me", ["job"], limit=1, ahead=0, lease=from_seconds(15.0))).rows
    row.payload_revision = 7
    owned = own(row, JobKind("job", Jobs()), Lease(row.key, row.version, 15.0), "me")
    owned.payload = b"left"
    first = owned.begin_write(Disposition.KEEP, None)
    assert (first.payload, first.payload_cleared, first.payload_revision) == (b"left", False, 7)
    owned.schedule.writes.answered()
    assert owned.begin_write(Disposition.KEEP, None).payload is None
