"""Each promise of the library's documentation, on a store in memory."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

import scheduledjob
from scheduledjob import (
    At,
    Cron,
    CurlJob,
    Every,
    Exponential,
    Fixed,
    PrintJob,
    Scheduler,
    ShellJob,
    SlugTaken,
    StoreUnavailable,
    Task,
)
from scheduledjob.scheduler import ROWS_AT_ONCE
from scheduledjob.stores.memory import MemoryStore
from tests.library.support import Ran, with_job

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from scheduledjob.engine.store import Put
    from scheduledjob.engine.stored_row import NewRow

PATIENCE = 60.0
HOUR = 3600.0


@pytest.fixture(autouse=True)
async def _patience() -> AsyncIterator[None]:
    async with asyncio.timeout(PATIENCE):
        yield


async def gone(scheduler: Scheduler, slug: str) -> None:
    """Wait until a slug has left ``slugs()``."""
    while slug in await scheduler.slugs():  # noqa: ASYNC110  # the library has no event for that
        await asyncio.sleep(0.005)


async def kept(scheduler: Scheduler, slug: str, result: bytes) -> Task:
    while (task := await scheduler.get(slug)) is None or task.result != result:  # noqa: ASYNC110  # nor for that
        await asyncio.sleep(0.005)
    return task


# ---------------------------------------------------------------- public names


def test_the_package_exposes_exactly_its_public_names() -> None:
    assert set(scheduledjob.__all__) >= {
        "At", "Calendar", "Cron", "CurlJob", "Every", "Exponential", "Fixed", "PrintJob", "Scheduler", "ShellJob",
        "Task",
    }  # fmt: skip
    assert scheduledjob.__all__ == sorted(scheduledjob.__all__)
    assert set(scheduledjob.__all__) == set(scheduledjob._HOMES)
    for name in scheduledjob.__all__:
        assert getattr(scheduledjob, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = scheduledjob.Nothing


def test_triggers_take_and_return_aware_datetimes() -> None:
    after = datetime(2026, 1, 2, 12, tzinfo=UTC)
    cron = Cron("0 0 12 ? * MON-FRI", "Europe/Lisbon")
    assert cron.next(after) == datetime(2026, 1, 5, 12, tzinfo=UTC)
    assert cron.previous(after) == after
    assert cron.explain()
    with pytest.raises(ValueError, match="time zone"):
        cron.next(datetime(2026, 1, 1))  # noqa: DTZ001  # what a user may give
    with pytest.raises(ValueError, match="minute"):
        Cron("61 * * * *")


# ---------------------------------------------------------------- registration


async def test_jobs_are_registered_before_the_start_and_scheduled_after_it() -> None:
    scheduler, _ = with_job()
    with pytest.raises(RuntimeError, match="not open: write `async with scheduler:`"):
        await scheduler.schedule("a", "job", delay=0.0)
    async with scheduler:
        with pytest.raises(RuntimeError, match="register jobs before `async with scheduler`"):
            scheduler.register(Ran(), name="late")
        with pytest.raises(RuntimeError, match="is open, or was closed"):
            await scheduler.__aenter__()
    with pytest.raises(RuntimeError, match="create a new one"):
        await scheduler.__aenter__()


# ---------------------------------------------------------------- first slots


async def test_delay_at_and_trigger_decide_the_first_slot() -> None:
    scheduler, job = with_job(trigger=Every(1.0))
    moment = datetime.now(UTC) - timedelta(seconds=5)
    async with scheduler:
        await scheduler.schedule("at", "job", at=moment)
        first = await job.tasks.get()
        assert (first.slug, first.slot) == ("at", moment)
        second = await job.tasks.get()  # the trigger's slots come after it
        assert second.slug == "at"
        assert second.slot > moment
        assert second.slot.microsecond == 0
        await scheduler.delete("at")
        await scheduler.schedule("by trigger", "job")
        assert (await job.tasks.get()).slot.microsecond == 0
        await scheduler.schedule("delay", "job", delay=HOUR)
        planned = await scheduler.get("delay")
        assert planned is not None
        assert timedelta(seconds=HOUR - 60) < planned.slot - datetime.now(UTC) <= timedelta(seconds=HOUR)


async def test_nothing_runs_before_its_time() -> None:
    scheduler, job = with_job()
    async with scheduler:
        before = datetime.now(UTC)
        await scheduler.schedule("a", "job", delay=0.05)
        task = await job.tasks.get()
        assert task.slot >= before + timedelta(seconds=0.04)
        assert datetime.now(UTC) >= task.slot - timedelta(milliseconds=5)


async def test_a_client_that_does_not_know_the_kind_needs_delay_or_at() -> None:
    async with Scheduler("memory:", execute=False) as client:
        with pytest.raises(ValueError, match=r"'report' has no trigger here: give delay=0\.0"):
            await client.schedule("a", "report")
        await client.schedule("a", "report", delay=5.0)
        await client.schedule("b", "report", at=datetime.now(UTC))
        assert await client.slugs() == ["a", "b"]
        task = await client.get("a")
        assert task is not None
        assert (task.slug, task.kind, task.attempt, task.result) == ("a", "report", 1, None)


# ---------------------------------------------------------------- tasks


async def test_the_fields_of_a_task() -> None:
    scheduler, job = with_job()
    async with scheduler:
        await scheduler.schedule("a", "job", payload=b'{"region": "eu"}', delay=0.0)
        task = await job.tasks.get()
    assert (task.slug, task.kind, task.attempt) == ("a", "job", 1)
    assert task.json() == {"region": "eu"}
    assert task.slot.tzinfo is UTC
    assert task.version >= 1
    assert task.run_id.endswith(str(task.slot_instant))


async def test_a_returned_task_continues_none_completes_and_an_error_is_retried() -> None:
    scheduler = Scheduler("memory:")
    seen: list[tuple[int, bytes | None]] = []

    @scheduler.job("counts", trigger=Every(1.0), backoff=Fixed([0.01, 0.02]))
    async def counts(task: Task) -> Task | None:
        seen.append((task.attempt, task.payload))
        if task.payload == b"first":
            task.payload = b"second"
            return task
        if task.attempt < 3:
            raise ConnectionError("not yet")
        return None

    async with scheduler:
        await scheduler.schedule("a", "counts", payload=b"first", delay=0.0)
        await gone(scheduler, "a")
        assert await scheduler.get("a") is None
        assert seen == [(1, b"first"), (1, b"second"), (2, b"second"), (3, b"second")]
        await scheduler.schedule("a", "counts", payload=b"again", delay=HOUR)  # it may be scheduled again
        assert await scheduler.slugs() == ["a"]


async def test_a_one_shot_is_removed_when_it_has_run_or_finally_failed() -> None:
    scheduler = Scheduler("memory:")

    @scheduler.job("fails", backoff=Fixed([0.01]))
    async def fails(task: Task) -> Task | None:
        raise RuntimeError(f"attempt {task.attempt}")

    scheduler.register(Ran(), name="runs")
    async with scheduler:
        await scheduler.schedule("a", "fails", delay=0.0)
        await scheduler.schedule("b", "runs", delay=0.0)
        await gone(scheduler, "a")
        await gone(scheduler, "b")


async def test_payload_and_result_are_kept() -> None:
    scheduler = Scheduler("memory:")

    @scheduler.job("job", trigger=Every(1000.0))
    async def job(task: Task) -> Task:
        task.set_result_json({"seen": task.json()})
        task.payload = b"2"
        return task

    async with scheduler:
        await scheduler.schedule("a", "job", payload=b"1", delay=0.0)
        task = await kept(scheduler, "a", b'{"seen":1}')
        assert task.payload == b"2"
        assert task.slot > datetime.now(UTC)  # what comes next


# ---------------------------------------------------------------- slugs


async def test_a_slug_is_unique_and_replaced_on_demand() -> None:
    scheduler, job = with_job()
    async with scheduler:
        await scheduler.schedule("nightly", "job", delay=HOUR)
        with pytest.raises(SlugTaken, match=r"'nightly'.*replace=True") as taken:
            await scheduler.schedule("nightly", "job", delay=0.0)
        assert taken.value.slugs == ("nightly",)
        assert isinstance(taken.value, ValueError)
        await scheduler.schedule("nightly", "job", payload=b"new", delay=0.0, replace=True)
        assert (await job.tasks.get()).payload == b"new"


async def test_slugs_are_sorted_across_pages() -> None:
    async with Scheduler("memory:", execute=False) as client:
        names = [f"job-{n:05}" for n in range(2300)]
        await client.schedule_many({"slug": slug, "kind": "k", "delay": HOUR} for slug in reversed(names))
        assert await client.slugs() == names
        await client.clear()
        assert await client.slugs() == []


async def test_many_are_scheduled_all_or_none() -> None:
    async with Scheduler("memory:", execute=False) as client:
        await client.schedule("b", "k", delay=HOUR)
        many = [{"slug": slug, "kind": "k", "delay": HOUR} for slug in "abc"]
        with pytest.raises(SlugTaken, match="'b'"):
            await client.schedule_many(many)
        with pytest.raises(ValueError, match="'wait' is not an argument of schedule"):
            await client.schedule_many([{"slug": "d", "kind": "k", "delay": 0.0}, {"slug": "e", "wait": 1}])
        with pytest.raises(ValueError, match="'d' is given twice"):
            await client.schedule_many([{"slug": "d", "kind": "k", "delay": 0.0}] * 2)
        assert await client.slugs() == ["b"]
        await client.schedule_many(many, replace=True)
        assert await client.slugs() == ["a", "b", "c"]


async def test_many_take_few_round_trips(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    put = MemoryStore.put

    async def counted(self: MemoryStore, rows: Sequence[NewRow], *, replace: bool) -> list[Put]:
        calls.append(len(rows))
        return await put(self, rows, replace=replace)

    monkeypatch.setattr(MemoryStore, "put", counted)
    async with Scheduler("memory:", execute=False) as client:
        await client.schedule_many({"slug": str(n), "kind": "k", "delay": HOUR} for n in range(5000))
    assert calls == [5000]


async def test_the_event_loop_goes_on_while_many_are_scheduled() -> None:
    turns = 0

    async def other_work() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with Scheduler("memory:", execute=False) as client:
        other = asyncio.create_task(other_work())
        await client.schedule_many({"slug": str(n), "kind": "k", "delay": HOUR} for n in range(20 * ROWS_AT_ONCE))
        other.cancel()
    assert turns >= 20


async def test_delete_ends_the_run_and_returns_whether_the_slug_existed() -> None:
    scheduler = Scheduler("memory:")
    begun, ended = asyncio.Event(), asyncio.Event()

    @scheduler.job("hangs")
    async def hangs(task: Task) -> Task:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return task

    async with scheduler:
        await scheduler.schedule("a", "hangs", delay=0.0)
        await begun.wait()
        assert await scheduler.delete("a")
        await ended.wait()
        assert not await scheduler.delete("a")
        assert await scheduler.get("a") is None


@pytest.mark.parametrize("act", ["delete", "clear"])
async def test_a_deletion_by_the_program_itself_is_not_logged_as_fenced(act: str) -> None:
    scheduler = Scheduler("memory:")
    begun, ended = asyncio.Event(), asyncio.Event()

    @scheduler.job("hangs")
    async def hangs(task: Task) -> Task:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return task

    @scheduler.job("deletes itself")
    async def deletes(task: Task) -> Task:
        await scheduler.delete(task.slug)
        return task

    with capture_logs() as logs:
        async with scheduler:
            await scheduler.schedule("self", "deletes itself", delay=0.0)
            await gone(scheduler, "self")
            await scheduler.schedule("a", "hangs", delay=0.0)
            await begun.wait()
            await (scheduler.delete("a") if act == "delete" else scheduler.clear())
            await ended.wait()
    assert not [line for line in logs if "fenced" in line["event"]]


def test_the_repr_of_a_task_is_readable_and_hides_secrets() -> None:
    task = Task("a", "job", b"geheim", 1_764_583_200_000_000, 1, 7, "run")
    assert repr(task) == (
        "Task(slug='a', kind='job', slot=2025-12-01T10:00:00Z, attempt=1, version=7, run_id='run', "
        "payload=b'geheim', result=None)"
    )
    task.payload_is_secret = True
    assert "geheim" not in repr(task)


# ---------------------------------------------------------------- built-in jobs


async def test_shell_and_print_jobs() -> None:
    scheduler = Scheduler("memory:")
    lines: asyncio.Queue[str] = asyncio.Queue()
    scheduler.register(ShellJob(), backoff=Fixed([0.01]))
    scheduler.register(PrintJob(lines.put_nowait))
    async with scheduler:
        await scheduler.schedule("sh", "shell", payload=b"exit 0", delay=0.0)
        await gone(scheduler, "sh")
        await scheduler.schedule("say", "print", payload=b"hello", delay=0.0)
        assert (await lines.get()).endswith(" say hello\n")


async def test_a_curl_job_sends_the_request_in_its_payload() -> None:
    requests: asyncio.Queue[bytes] = asyncio.Queue()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.put_nowait(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    scheduler = Scheduler("memory:")
    scheduler.register(CurlJob(method="PUT", headers={"X-Mine": "yes"}))
    async with server, scheduler:
        await scheduler.schedule("ping", "curl", payload=f"http://127.0.0.1:{port}/path".encode(), delay=0.0)
        request = (await requests.get()).decode()
        await gone(scheduler, "ping")
    assert request.startswith("PUT /path HTTP/1.1")
    assert "X-Mine: yes" in request
    assert "X-ScheduledJob-Name: ping" in request
    assert "Idempotency-Key: " in request


def test_triggers_and_backoffs_of_the_first_page() -> None:
    scheduler = Scheduler("postgresql://localhost/nowhere", heartbeat=60.0, jitter=0.0)
    scheduler.register(ShellJob(), trigger=Every(30.0), backoff=Fixed([10.0, 60.0]))
    scheduler.register(CurlJob(), trigger=At(datetime.now(UTC)), backoff=Exponential())
    scheduler.register(PrintJob(), trigger=Cron("H * * * *", seed=""))


# ---------------------------------------------------------------- shutdown


async def test_an_exception_inside_the_block_is_raised_unchanged() -> None:
    scheduler, _ = with_job()
    with pytest.raises(KeyError, match="mine"):
        async with scheduler:
            raise KeyError("mine")


async def test_cancellation_shuts_it_down_cleanly() -> None:
    scheduler = Scheduler("memory:")
    begun, finished = asyncio.Event(), asyncio.Event()

    @scheduler.job("short")
    async def short(task: Task) -> Task:
        begun.set()
        await asyncio.sleep(0.05)
        finished.set()
        return task

    async def program() -> None:
        async with scheduler:
            await scheduler.schedule("a", "short", delay=0.0)
            await asyncio.Event().wait()

    running = asyncio.create_task(program())
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert finished.is_set()  # within the grace period


async def test_an_unavailable_store_is_an_error_at_the_start() -> None:
    scheduler = Scheduler("postgresql://user:secret@127.0.0.1:1/nowhere", execute=False)
    for _ in range(2):  # the program may try again
        with pytest.raises(StoreUnavailable) as error:
            async with scheduler:
                pass
        assert "secret" not in str(error.value)


# ---------------------------------------------------------------- tenants


async def test_a_tenant_whose_runs_hang_leaves_room_for_another() -> None:
    scheduler, ran = Scheduler("memory:", capacity=16, grace=0.0), asyncio.Queue[str]()

    @scheduler.job("hang")
    async def hang(task: Task) -> None:
        await asyncio.Event().wait()

    @scheduler.job("quick")
    async def quick(task: Task) -> None:
        ran.put_nowait(task.slug)

    async with scheduler:
        many = [{"slug": f"hang-{n}", "kind": "hang", "delay": 0.0, "tenant": "hog"} for n in range(100)]
        await scheduler.schedule_many(many)
        await scheduler.schedule("first", "quick", delay=0.0, tenant="other")
        assert await ran.get() == "first"
        await scheduler.schedule("of the hog", "quick", delay=0.0, tenant="hog")
        await scheduler.schedule("second", "quick", delay=0.0, tenant="other")
        assert await ran.get() == "second"
