"""Each promise of the library's documentation, on a store in memory."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from scheduledjob.engine.store import Put
    from scheduledjob.engine.stored_row import NewRow

PATIENCE = 30.0
HOUR = 3600.0


@pytest.fixture(autouse=True)
async def _patience() -> AsyncIterator[None]:
    async with asyncio.timeout(PATIENCE):
        yield


class Ran:
    """A job that continues its schedule, and lets a test wait for its runs."""

    def __init__(self) -> None:
        self.tasks: asyncio.Queue[Task] = asyncio.Queue()

    async def run(self, task: Task) -> Task | None:
        self.tasks.put_nowait(task)
        return task


def with_job(**registered: Any) -> tuple[Scheduler, Ran]:
    scheduler, job = Scheduler("memory:"), Ran()
    scheduler.register(job, name="job", **registered)
    return scheduler, job


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


def make(text: str) -> object:
    """Run what a user may type, without type checking."""
    return eval(text, vars(scheduledjob) | {name: getattr(scheduledjob, name) for name in scheduledjob.__all__} | GIVEN)


GIVEN: dict[str, Any] = {"datetime": datetime, "timedelta": timedelta}


@pytest.mark.parametrize(
    ("typed", "error", "message"),
    [
        ('Every("5m")', TypeError, "an interval of '5m' is not allowed: give a number of seconds, 300 for this"),
        ("Every(timedelta(minutes=5))", TypeError, "give a number of seconds, 300 for this"),
        ('Every("30")', TypeError, "30 for this"),
        ('Every("often")', TypeError, "a number of seconds, as in 30"),
        ("Every(True)", TypeError, "an interval of True"),
        ("Every(None)", TypeError, "an interval of None"),
        ('Every(30, "2026-12-01T10:00:00Z")', TypeError, r"not a datetime: give an aware one, as in datetime\(2026"),
        ("At(5)", TypeError, "5 is not a moment: give an aware datetime, or text"),
        ('At("2026-12-01T10:00:00Z").next("now")', TypeError, "'now' is not a datetime: give an aware one"),
        ('At("2026-12-01T10:00:00Z").previous(datetime(2026, 1, 1))', ValueError, "has no time zone"),
        ("Cron(5)", ValueError, 'an expression of 5 is not allowed: give text, as in "30 2'),
        ("Cron(['*'])", ValueError, "an expression of"),
        ('Cron("* * * * *", None)', ValueError, 'a time zone of None is not allowed: give text, as in "Europe/Lisbon"'),
        ('Cron("H * * * *", seed=5)', ValueError, "a seed of 5"),
        ('Cron("* * * * *").next("now")', TypeError, "'now' is not a datetime"),
        ('Exponential("10s")', TypeError, "initial of '10s' is not allowed: give a number of seconds, 10 for this"),
        ('Exponential(max="1h30m")', TypeError, "5400 for this"),
        ('Exponential(multiplier="2")', TypeError, "multiplier '2' is not allowed: a number"),
        ("Exponential(max_retries=2.5)", TypeError, "max_retries 2.5 is not allowed: a whole number"),
        ('Fixed("10s")', TypeError, r"give a list of waits in seconds, as in \[10.0, 60.0\]"),
        ("Fixed(10.0)", TypeError, "give a list of waits"),
        ('Fixed(["10s"])', TypeError, "10 for this"),
        ("ShellJob(None)", ValueError, 'shell None is not allowed: give the path of a program, as in "/bin/sh"'),
        ('CurlJob("G T")', ValueError, "method 'G T' is not allowed"),
        ("CurlJob(headers=[('a', 'b')])", TypeError, "headers are list: give a mapping"),
        ("CurlJob(headers={'a': 5})", TypeError, "header 'a': 5 is not allowed: give text"),
        ('PrintJob("x")', TypeError, "write is str: give a function"),
        ("Scheduler(None)", TypeError, 'url is NoneType: give text, as in "memory:"'),
        ('Scheduler("memory:", instance=None)', ValueError, "instance None is not allowed: give a name"),
        ('Scheduler("memory:", heartbeat="60s")', ValueError, "a number of seconds, at least 0.001, 60 for this"),
        ('Scheduler("memory:", capacity=1.5)', ValueError, "capacity of 1.5 is not allowed: a whole number"),
        ('Scheduler("memory:").job(print)', TypeError, r'write @scheduler.job\("print"\)'),
        ('Scheduler("memory:").register(PrintJob(), name="")', ValueError, "name '' is not allowed"),
        ('Scheduler("memory:").register(PrintJob(), name=5)', ValueError, "name 5 is not allowed"),
        ('Scheduler("memory:").register(PrintJob(), backoff=[1])', TypeError, r"backoff is list: give Exponential\("),
    ],
)
def test_a_wrong_argument_type_is_refused_with_an_example(typed: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(typed)


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


def test_invalid_registrations_are_refused() -> None:
    scheduler, _ = with_job()
    with pytest.raises(ValueError, match="'job' is registered already"):
        scheduler.register(Ran(), name="job")
    with pytest.raises(ValueError, match=r"Ran has no kind: register it with name="):
        scheduler.register(Ran())
    with pytest.raises(TypeError, match=r"give Cron\(\.\.\.\), Every\(\.\.\.\), Calendar\(\.\.\.\) or At"):
        scheduler.register(Ran(), name="x", trigger="* * * * *")  # type: ignore[arg-type]  # what a user may give
    with pytest.raises(TypeError, match='write "async def"'):
        scheduler.job("y")(lambda task: task)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "mysql://x"}, "'mysql' names no store"),
        ({"url": "nothing"}, "give one of memory:"),
        ({"heartbeat": 0.0}, "heartbeat of 0.0 is not allowed"),
        ({"lease": float("nan")}, "lease of nan is not allowed"),
        ({"capacity": 0}, "capacity of 0 is not allowed"),
        ({"grace": -1}, "grace of -1 is not allowed"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scheduler(**({"url": "memory:"} | settings))


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


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "job 'job' has no trigger here: give delay=0.0 to run it now, delay= or at="),
        ({"delay": 1.0, "at": datetime.now(UTC)}, ValueError, "delay and at are both given"),
        ({"delay": -1.0}, ValueError, "delay -1.0 is not allowed"),
        ({"delay": float("nan")}, ValueError, "delay nan is not allowed"),
        (
            {"delay": "5m"},
            ValueError,
            "delay '5m' is not allowed: a number of seconds from now, 0 or more, 300 for this",
        ),
        ({"at": "tomorrow"}, TypeError, "at is str: give an aware datetime"),
        ({"at": datetime(2030, 1, 1)}, ValueError, "has no time zone"),  # noqa: DTZ001  # what a user may give
        ({"delay": 0.0, "payload": "text"}, TypeError, "payload is str: give bytes"),
        ({"delay": 0.0, "kind": "other"}, ValueError, r"no job 'other' is registered here.*\(registered: job\)"),
        ({"delay": 0.0, "slug": ""}, ValueError, "slug '' is not allowed"),
        ({"delay": 0.0, "slug": "a\0b"}, ValueError, "is not allowed: 1 to 253 characters of UTF-8 without NUL"),
        ({"delay": 0.0, "slug": "a\ud800"}, ValueError, "is not allowed: 1 to 253 characters of UTF-8 without NUL"),
        ({"delay": 0.0, "slug": "a" * 254}, ValueError, "is not allowed: 1 to 253 characters"),
    ],
)
async def test_invalid_schedules_are_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    scheduler, job = with_job()
    async with scheduler:
        with pytest.raises(error, match=message):
            await scheduler.schedule(**({"slug": "a", "kind": "job"} | arguments))
        assert await scheduler.slugs() == []
    assert job.tasks.empty()


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


async def test_slugs_and_schedules_of_a_wrong_type_are_refused() -> None:
    async with Scheduler("memory:", execute=False) as client:
        for act in (client.get, client.delete):
            with pytest.raises(TypeError, match="slug is int: give text"):
                await act(5)  # type: ignore[arg-type]  # what a user may give
        with pytest.raises(TypeError, match="schedules is dict: give a list, as in"):
            await client.schedule_many({"slug": "a", "kind": "k"})  # type: ignore[dict-item]  # as above
        with pytest.raises(TypeError, match="a schedule is str: give a mapping, as in"):
            await client.schedule_many(["a"])  # type: ignore[list-item]  # as above


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


@pytest.mark.parametrize("tenant", [7, "n" * 254, "a\0b", "a\ud800", None])
async def test_a_tenant_that_is_not_allowed_is_refused(tenant: Any) -> None:
    scheduler, _ = with_job()
    async with scheduler:
        with pytest.raises(ValueError, match=r"tenant .* is not allowed: up to 253"):
            await scheduler.schedule("a", "job", delay=0.0, tenant=tenant)


@pytest.mark.parametrize("weight", [0, -1, 101, "2"])
def test_a_weight_that_is_not_allowed_is_refused(weight: Any) -> None:
    with pytest.raises(ValueError, match=r"of tenant 'a' is not allowed: a number from 0.01 to 100"):
        Scheduler("memory:", weights={"a": weight})
