"""What a client writes while a run is active counts: it is neither overwritten by the run nor lost.

Each test runs on the store in memory, on Postgres and on Firestore.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from msgspec import UNSET

from scheduledjob import Every, Fixed, Scheduler, Task
from scheduledjob.domain.schedule.state import Outcome
from tests.engine.support import PATIENCE, Watcher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from scheduledjob.domain.schedule.state import State
    from scheduledjob.engine.store import Put
    from scheduledjob.engine.stored_row import NewRow, Row
    from tests.support.firestore import FirestoreTarget

HOUR = 3600.0


@pytest.fixture(
    params=[
        "memory",
        pytest.param("postgres", marks=pytest.mark.postgres),
        pytest.param("firestore", marks=pytest.mark.firestore),
    ]
)
def url(request: pytest.FixtureRequest) -> str:
    match request.param:
        case "postgres":
            return str(request.getfixturevalue("postgres_dsn"))
        case "firestore":
            return str(request.getfixturevalue("firestore_target").url)
        case _:
            return "memory:"


class Steered:
    """A job that reports each run, and ends it as the test says."""

    def __init__(self) -> None:
        self.begun: asyncio.Queue[Task] = asyncio.Queue()
        self.ends: asyncio.Queue[Callable[[Task], Task | None]] = asyncio.Queue()

    async def run(self, task: Task) -> Task | None:
        self.begun.put_nowait(task)
        end = await self.ends.get()
        return end(task)

    def end(self, how: Callable[[Task], Task | None] = lambda task: task) -> None:
        self.ends.put_nowait(how)


def leaves(payload: bytes | None) -> Callable[[Task], Task]:
    def end(task: Task) -> Task:
        task.payload = payload
        return task

    return end


class Steering:
    """An open scheduler with a job that the test steers."""

    def __init__(self, scheduler: Scheduler, job: Steered, watcher: Watcher) -> None:
        self.schedule = scheduler.schedule
        self.store = scheduler._store
        self.job = job
        self._watcher = watcher

    def wrote(self, condition: Callable[[State], bool]) -> Awaitable[None]:
        """Wait until the owner has written a state that meets the condition."""
        return self._watcher.until(lambda: "x" in self._watcher.states and condition(self._watcher.states["x"]))

    def took_in(self, revision: int) -> Awaitable[None]:
        """Wait until a slot that this revision names waits for the active run."""
        return self.wrote(lambda state: state.revision == revision and len(state.waiting) == 1)

    def succeeded(self, times: int) -> Awaitable[None]:
        return self.wrote(lambda state: state.succeeded == times)

    async def released(self, times: int = 1) -> Row | None:
        """Wait until the row was released so many times, and return it; None: it was removed."""
        await self._watcher.until_event("released", times)
        (row,) = await self.store.get(["x"])
        return row


@asynccontextmanager
async def steering(url: str, *, every: float | None = None) -> AsyncIterator[Steering]:
    job, watcher = Steered(), Watcher()
    scheduler = Scheduler(url, heartbeat=1.0, observer=watcher, grace=1.0)
    scheduler.register(job, name="job", trigger=None if every is None else Every(every))
    async with asyncio.timeout(PATIENCE), scheduler:
        yield Steering(scheduler, job, watcher)


# ---------------------------------------------------------------- payloads


async def test_a_run_does_not_overwrite_a_payload_that_a_client_has_set_meanwhile(url: str) -> None:
    async with steering(url, every=HOUR) as x:
        await x.schedule("x", "job", payload=b"old", delay=0.0)
        await x.job.begun.get()
        await x.schedule("x", "job", payload=b"new", replace=True)
        x.job.end(leaves(b"of the run"))
        row = await x.released()
        assert row is not None
        assert row.payload == b"new"
        await x.schedule("x", "job", delay=0.0, replace=True)
        assert (await x.job.begun.get()).payload == b"new"
        x.job.end(leaves(b"later"))
        await x.succeeded(2)
        (row,) = await x.store.get(["x"])
        assert row is not None
        assert row.payload == b"later", "no client has set one since"


async def test_a_client_that_gives_no_payload_keeps_the_one_that_a_run_leaves(url: str) -> None:
    async with steering(url, every=HOUR) as x:
        await x.schedule("x", "job", payload=b"1", delay=0.0)
        await x.job.begun.get()
        await x.schedule("x", "job", delay=0.0, replace=True)
        x.job.end(leaves(b"2"))
        assert (await x.job.begun.get()).payload == b"2"
        x.job.end()


async def test_a_client_clears_the_payload(url: str) -> None:
    async with steering(url, every=HOUR) as x:
        await x.schedule("x", "job", payload=b"1", delay=0.0)
        await x.job.begun.get()
        await x.schedule("x", "job", payload=None, delay=0.0, replace=True)
        x.job.end(leaves(b"of the run"))
        assert (await x.job.begun.get()).payload is None
        x.job.end()


async def test_a_job_clears_the_payload(url: str) -> None:
    async with steering(url, every=HOUR) as x:
        await x.schedule("x", "job", payload=b"1", delay=0.0)
        await x.job.begun.get()
        x.job.end(leaves(None))
        row = await x.released()
        assert row is not None
        assert row.payload is None


# ---------------------------------------------------------------- slots that a client names


@pytest.mark.parametrize("every", [None, HOUR])
@pytest.mark.parametrize("delay", [0.0, 0.2])
async def test_a_slot_named_while_a_run_is_active_runs_after_it(url: str, every: float | None, delay: float) -> None:
    async with steering(url, every=every) as x:
        await x.schedule("x", "job", payload=b"1", delay=0.0)
        first = await x.job.begun.get()
        for change in (b"2", b"3"):
            await x.schedule("x", "job", payload=change, delay=delay, replace=True)
        await x.took_in(3)
        x.job.end()
        second = await x.job.begun.get()
        assert second.payload == b"3", "the last one counts"
        assert second.run_id != first.run_id
        x.job.end()
        assert (await x.released() is None) is (every is None)
        assert x.job.begun.empty()


async def test_slots_named_one_after_the_other_do_not_pile_up(url: str) -> None:
    async with steering(url) as x:
        await x.schedule("x", "job", payload=b"1", delay=0.0)
        await x.job.begun.get()
        for revision in range(2, 7):
            await x.schedule("x", "job", payload=b"%d" % revision, delay=0.0, replace=True)
            await x.took_in(revision)
        x.job.end()
        assert (await x.job.begun.get()).payload == b"6"
        x.job.end()
        assert await x.released() is None
        assert x.job.begun.empty()


@pytest.mark.parametrize("returns_task", [True, False])
@pytest.mark.parametrize(("every", "delay"), [(None, 0.0), (None, 0.1), (HOUR, 0.0), (HOUR, 0.1), (HOUR, None)])
async def test_a_job_that_schedules_itself_anew_goes_on(
    url: str, returns_task: bool, every: float | None, delay: float | None
) -> None:
    watcher = Watcher()
    scheduler = Scheduler(url, heartbeat=1.0, observer=watcher)
    seen: asyncio.Queue[bytes | None] = asyncio.Queue()

    @scheduler.job("job", trigger=None if every is None else Every(every))
    async def job(task: Task) -> Task | None:
        seen.put_nowait(task.payload)
        if task.payload == b"1":
            await scheduler.schedule(task.slug, "job", payload=b"2", delay=delay, replace=True)
            return task if returns_task else None
        return None

    async with asyncio.timeout(PATIENCE), scheduler:
        await scheduler.schedule("x", "job", payload=b"1", delay=0.0)
        assert await seen.get() == b"1"
        if delay is None:
            await watcher.until(lambda: "x" in watcher.states and watcher.states["x"].next is not None)
            task = await scheduler.get("x")
            assert task is not None
            assert task.payload == b"2"
            assert task.slot > datetime.now(UTC)
        else:
            assert await seen.get() == b"2"


@pytest.mark.parametrize("gives_payload", [False, True])
@pytest.mark.parametrize("earlier", ["new", "replaced", "by trigger"])
@pytest.mark.parametrize("from_client", [False, True])
async def test_a_job_that_schedules_itself_as_it_is_goes_on_by_its_trigger(
    url: str, gives_payload: bool, earlier: str, from_client: bool
) -> None:
    """It changes nothing and returns None, which would end the schedule otherwise."""
    if url == "memory:" and from_client:
        pytest.skip("no other process can use the store in memory")
    watcher = Watcher()
    scheduler = Scheduler(url, heartbeat=1.0, observer=watcher)
    client = Scheduler(url, execute=False) if from_client else scheduler
    runs: list[Task] = []

    async def job(task: Task) -> None:
        runs.append(task)
        if task.slot == runs[0].slot:  # also if its first attempt was lost on a busy machine
            await client.schedule("x", "job", payload=b"1" if gives_payload else UNSET, replace=True)

    trigger = Every(1.0 if earlier == "by trigger" else HOUR)
    for registry in {scheduler, client}:
        registry.job("job", trigger=trigger)(job)
    async with asyncio.timeout(PATIENCE), scheduler, client if from_client else nullcontext():
        if earlier == "replaced":
            await scheduler.schedule("x", "job", payload=b"0", delay=HOUR)
        delay = None if earlier == "by trigger" else 0.0
        await scheduler.schedule("x", "job", payload=b"1", delay=delay, replace=True)
        if earlier == "by trigger":
            await watcher.until(lambda: runs != [] and runs[-1].slot > runs[0].slot)
            *before, last = runs
            assert [task.attempt for task in before] == list(range(1, len(runs)))
            assert last.attempt == 1
            assert {task.payload for task in runs} == {b"1"}
            return

        def waits_for_its_trigger() -> bool:
            state = watcher.states.get("x")
            return state is not None and state.succeeded == 1 and state.next is not None

        await watcher.until(waits_for_its_trigger)
        task = await scheduler.get("x")
        assert task is not None
        assert task.slot > datetime.now(UTC)
        assert {run.slot for run in runs} == {runs[0].slot}
        assert [run.attempt for run in runs] == list(range(1, len(runs) + 1)), "no attempt starts twice"


async def test_a_named_slot_that_waits_stays_if_it_is_scheduled_again_as_it_is(url: str) -> None:
    async with steering(url, every=HOUR) as x:
        await x.schedule("x", "job", payload=b"1", delay=0.0)
        await x.job.begun.get()
        await x.schedule("x", "job", delay=0.5, replace=True)
        for _ in range(3):
            await x.schedule("x", "job", replace=True)
        x.job.end(lambda task: None)
        await x.job.begun.get()
        x.job.end()
        await x.succeeded(2)
        assert x.job.begun.empty()


async def test_a_job_that_deletes_its_schedule_and_schedules_itself_anew_goes_on(url: str) -> None:
    """The deletion cancels the job."""
    scheduler = Scheduler(url, heartbeat=1.0)
    runs: asyncio.Queue[Task] = asyncio.Queue()

    @scheduler.job("job")
    async def job(task: Task) -> None:
        runs.put_nowait(task)
        if task.payload == b"1":
            await scheduler.delete("x")
            await scheduler.schedule("x", "job", payload=b"2", delay=0.0)

    async with asyncio.timeout(PATIENCE), scheduler:
        await scheduler.schedule("x", "job", payload=b"1", delay=0.0)
        assert [(await runs.get()).payload, (await runs.get()).payload] == [b"1", b"2"]


async def test_a_call_whose_caller_is_cancelled_schedules_all_the_same(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(PATIENCE), Scheduler(url, execute=False) as client:
        put, begun, goes_on = client._store.put, asyncio.Event(), asyncio.Event()

        async def slow(rows: Sequence[NewRow], *, replace: bool) -> list[Put]:
            begun.set()
            await goes_on.wait()
            return await put(rows, replace=replace)

        monkeypatch.setattr(client._store, "put", slow)
        calling = asyncio.create_task(client.schedule("x", "job", delay=HOUR))
        await begun.wait()
        calling.cancel()
        await asyncio.wait([calling])
        assert calling.cancelled()
        goes_on.set()
        await asyncio.wait(client._writing)
        assert await client.slugs() == ["x"]


async def test_the_same_slot_named_again_is_another_run(url: str) -> None:
    async with steering(url, every=HOUR) as x:
        at = datetime.now(UTC) - timedelta(seconds=1)
        await x.schedule("x", "job", at=at, payload=b"1")
        runs = []
        for turn in range(1, 4):
            task = await x.job.begun.get()
            runs.append(task.run_id)
            assert task.slot == at
            x.job.end()
            await x.succeeded(turn)
            await x.schedule("x", "job", at=at, replace=True)
        await x.job.begun.get()
        assert len(set(runs)) == 3
        assert {record.run_id for record in await x.store.history("x")} == set(runs)
        x.job.end()


@pytest.mark.parametrize("leaves_result", [False, True])
async def test_what_a_run_leaves_is_kept_or_the_run_fails_with_words(url: str, leaves_result: bool) -> None:
    """1 MiB is the limit of every store but Firestore, whose documents are smaller. It must not drop them silently."""
    watcher = Watcher()
    scheduler = Scheduler(url, heartbeat=1.0, observer=watcher)
    left = bytes(1 << 20)

    @scheduler.job("job", trigger=Every(HOUR), backoff=Fixed([0.01], max_retries=0))
    async def job(task: Task) -> Task:
        if leaves_result:
            task.result = left
        else:
            task.payload = left
        return task

    async with asyncio.timeout(PATIENCE), scheduler:
        await scheduler.schedule("x", "job", delay=0.0)
        await watcher.until_recorded()
        task = await scheduler.get("x")
    assert task is not None
    if url.startswith("firestore"):
        assert watcher.records[0].outcome is Outcome.FAILED
        assert "this store keeps" in watcher.records[0].reason
    else:
        assert (task.result if leaves_result else task.payload) == left


@pytest.mark.firestore
async def test_a_payload_that_firestore_does_not_keep_is_refused(firestore_target: FirestoreTarget) -> None:
    async with Scheduler(firestore_target.url, execute=False) as client:
        with pytest.raises(ValueError, match="what this store keeps"):
            await client.schedule("x", "job", payload=bytes(1 << 20), delay=HOUR)
        assert await client.slugs() == []
