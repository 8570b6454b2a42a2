"""Python jobs: the results of all ways to end, and how jobs are registered and found."""

from __future__ import annotations

import asyncio
import functools
import json
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import EntryPoint, PathDistribution
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from scheduledjob.engine.executor import OUTPUT_LIMIT, Attempt, Result
from scheduledjob.engine.task import Task
from scheduledjob.jobs.job_registry import BUILT_IN
from scheduledjob.jobs.python.python_job import (
    ENTRY_POINT_GROUP,
    MAX_FORMATTED,
    MAX_FORMATTED_MESSAGE,
    JobExecutor,
    JobPluginError,
    PrintJob,
    load_jobs,
)
from scheduledjob.jobs.reasons import REASON_LIMIT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

SLOT = 1_796_119_200_000_000
"""2026-12-01T10:00:00Z"""


def attempt(**changes: Any) -> Attempt:
    values: dict[str, Any] = {
        "run_id": "run-7", "uid": "uid-1", "namespace": "team-a", "name": "report", "slot": SLOT,
        "attempt": 2, "version": 41, "deadline": 0.0,
    }  # fmt: skip
    return Attempt(**(values | changes))


async def run(job: Callable[[Task], Awaitable[Any]], **changes: Any) -> Result:
    executor = JobExecutor("report", job)
    await executor.start()
    try:
        return await executor.run(attempt(**changes))
    finally:
        await executor.stop()


async def test_a_task_says_everything_about_its_attempt() -> None:
    seen: list[Task] = []

    async def job(task: Task) -> Task:
        seen.append(task)
        return task

    assert await run(job, payload=b"p", params={"a": 1}) == Result(True)
    task = seen[0]
    assert (task.slug, task.kind, task.payload, task.attempt, task.version) == ("report", "report", b"p", 2, 41)
    assert (task.run_id, task.namespace, task.uid, task.params) == ("run-7", "team-a", "uid-1", {"a": 1})
    assert task.slot == datetime(2026, 12, 1, 10, tzinfo=UTC)
    assert task.slot.tzinfo is UTC
    assert task.result is None


async def test_payload_and_result_of_the_returned_task_are_kept() -> None:
    async def same(task: Task) -> Task:
        task.payload, task.result, task.output = b"next", b"found", b"printed"
        return task

    assert await run(same, payload=b"p") == Result(True, output=b"printed", payload=b"next", result=b"found")

    async def another(task: Task) -> Task:
        task.payload = b"not this"
        return replace(task, payload=b"this", result=b"")

    assert await run(another, payload=b"p") == Result(True, payload=b"this", result=b"")

    async def clears(task: Task) -> Task:
        task.payload = None
        return task

    assert await run(clears, payload=b"p") == Result(True, payload_cleared=True)
    assert await run(clears, payload=None) == Result(True)


async def test_a_payload_from_a_secret_is_masked_everywhere_and_not_kept() -> None:
    """Neither as it was nor as the job changed it: the next run reads the Secret again."""

    async def prints_payload(task: Task) -> Task:
        assert task.payload_is_secret
        assert task.payload == b"hunter2"
        task.output, task.payload = b"it is " + task.payload, b"changed hunter2"
        return task

    assert await run(prints_payload, payload=b"hunter2", payload_is_secret=True) == Result(True, output=b"it is ***")

    async def fails(task: Task) -> NoReturn:
        raise ValueError(f"{task.payload!r} is wrong")

    result = await run(fails, payload=b"x" * 2 * OUTPUT_LIMIT, payload_is_secret=True)
    assert (result.reason, b"xx" in result.output) == ("ValueError: b'***' is wrong", False), "also where it is cut"
    result = await run(fails, payload=b"hunter2", payload_is_secret=True)
    assert result.reason == "ValueError: b'***' is wrong"
    assert b"hunter2" not in result.output
    assert b"b'***' is wrong" in result.output


async def test_print_shows_no_payload_from_a_secret() -> None:
    lines: list[str] = []
    result = await run(PrintJob(lines.append).run, payload=b"hunter2", payload_is_secret=True)
    assert lines == ["2026-12-01T10:00:00Z team-a/report ***\n"]
    assert result.output == lines[0].encode()


async def test_none_completes_the_schedule_and_keeps_the_result() -> None:
    async def job(task: Task) -> None:
        task.result = b"last"

    assert await run(job) == Result(True, complete=True, result=b"last")


async def test_an_exception_is_a_failed_attempt_with_its_traceback_as_output() -> None:
    async def job(task: Task) -> NoReturn:
        task.output = b"before"
        task.payload = b"half done"
        raise ValueError("no\nregion " + "x" * 10)

    result = await run(job)
    assert (result.ok, result.reason, result.complete) == (False, "ValueError: no region xxxxxxxxxx", False)
    assert result.payload is None
    output = result.output.decode()
    assert output.startswith("before\nTraceback (most recent call last):\n")
    assert output.rstrip().endswith("ValueError: no\nregion xxxxxxxxxx")
    assert "python/python_job.py" not in output
    assert 'raise ValueError("no\\nregion' in output


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("unknown")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KeyError("region"), "KeyError: 'region'"),
        (RuntimeError(), "RuntimeError"),
        (SystemExit(3), "SystemExit: 3"),
        (asyncio.CancelledError(), "CancelledError"),
        (TimeoutError("the database"), "TimeoutError: the database"),
        (ExceptionGroup("many", [ExceptionGroup("one", [OSError("disk")])]), "OSError: disk"),
        (ExceptionGroup("many", [OSError("disk"), ValueError()]), "ExceptionGroup: many (2 sub-exceptions)"),
        (Unspeakable(), "Unspeakable"),
        (ValueError("x" * 10_000_000), "ValueError: " + "x" * (REASON_LIMIT - 13) + "…"),
        (ValueError("\x1b[31mred\x00\u2028"), "ValueError: [31mred"),
    ],
)
@pytest.mark.parametrize("limit", [None, 60.0])
async def test_reasons_are_a_line_of_limited_length(error: BaseException, reason: str, limit: float | None) -> None:
    async def job(task: Task) -> NoReturn:
        raise error

    result = await run(job, timeout=limit)
    assert (result.ok, result.reason) == (False, reason)
    assert len(result.output) <= OUTPUT_LIMIT


async def test_a_recursion_keeps_the_end_of_its_traceback() -> None:
    async def job(task: Task) -> Task:
        def deeper() -> NoReturn:
            deeper()

        deeper()

    result = await run(job)
    assert result.reason.startswith("RecursionError: ")
    assert len(result.output) <= OUTPUT_LIMIT
    assert b"RecursionError: " in result.output


class CountingStr(Exception):
    """Counts how often it is turned into text."""

    asked = 0

    def __str__(self) -> str:
        CountingStr.asked += 1
        return "x"


def _nested(depth: int) -> Exception:
    error: Exception = CountingStr()
    for _ in range(depth):
        error = ExceptionGroup("group", [error, CountingStr()])
    return error


def _caused(depth: int) -> Exception:
    error: Exception = CountingStr()
    for _ in range(depth):
        cause, error = error, CountingStr()
        error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "made",
    [
        lambda: _nested(1000),
        lambda: _caused(1000),
        lambda: ExceptionGroup("group", [CountingStr() for _ in range(1000)]),
        lambda: ValueError("x" * (MAX_FORMATTED_MESSAGE + 1)),
    ],
)
async def test_an_exception_of_any_size_takes_bounded_work(made: Callable[[], Exception]) -> None:
    error = made()
    CountingStr.asked = 0

    async def job(task: Task) -> Task:
        task.output = b"y" * (1 << 20)
        raise error

    result = await run(job)
    assert CountingStr.asked <= 2 * MAX_FORMATTED
    assert len(result.reason) <= REASON_LIMIT
    assert len(result.output) == OUTPUT_LIMIT
    assert result.output.endswith(f"raise error\n{type(error).__name__}\n".encode())


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        (True, "the job returned an object of type bool: return its task to go on, or None to end its schedule"),
        (b"x", "the job returned an object of type bytes: return its task to go on, or None to end its schedule"),
        ("payload", "the job left an object of type str in task.payload: make it bytes (task.set_json writes JSON)"),
        (
            "result",
            "the job left an object of type str in task.result: make it bytes (task.set_result_json writes JSON)",
        ),
        ("output", "the job left an object of type str in task.output: make it bytes"),
    ],
)
@pytest.mark.parametrize("completes", [True, False])
async def test_a_task_with_values_of_wrong_types_is_a_failure(returned: object, reason: str, completes: bool) -> None:
    async def job(task: Task) -> object:
        if not isinstance(returned, str):
            return returned
        setattr(task, returned, "text")
        return None if completes else task

    result = await run(job)
    assert (result.ok, result.reason) == (False, reason)


async def test_a_timeout_cancels_the_job_and_waits_for_its_clean_up() -> None:
    ended: list[bool] = []

    async def job(task: Task) -> Task:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.to_thread(ended.append, True)
        return task

    result = await run(job, timeout=0.01)
    assert (result.ok, result.reason) == (False, "timed out after 10ms")
    assert ended == [True]
    assert b"await asyncio.Event().wait()" in result.output


@pytest.mark.parametrize("end", ["returns", "raises", "exits"])
async def test_a_job_that_returns_or_raises_after_its_timeout_has_timed_out(end: str) -> None:
    async def job(task: Task) -> Task:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if end == "raises":
                raise ValueError("interrupted") from None
            if end == "exits":
                raise SystemExit(1) from None
        return task

    result = await run(job, timeout=0.01)
    assert (result.ok, result.reason) == (False, "timed out after 10ms")
    assert (b"ValueError: interrupted" in result.output) is (end == "raises")


@pytest.mark.parametrize("limit", [None, 60.0])
async def test_a_cancelled_run_ends_only_after_its_job(limit: float | None) -> None:
    started = asyncio.Event()
    ended: list[bool] = []

    async def job(task: Task) -> Task:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.to_thread(ended.append, True)
        return task

    running = asyncio.create_task(run(job, timeout=limit))
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended == [True]


class Reporter:
    async def run(self, task: Task) -> Task | None:
        return None


class Plain:
    def run(self, task: Task) -> Task:
        return task


class CallableJob:
    async def __call__(self, task: Task) -> Task | None:
        return None


async def function(task: Task) -> Task | None:
    return None


def decorated(inner: Callable[[Task], Awaitable[Task | None]]) -> Callable[[Task], Awaitable[Task | None]]:
    @functools.wraps(inner)
    def wrapper(task: Task) -> Awaitable[Task | None]:
        return inner(task)

    return wrapper


def plain(task: Task) -> Task:
    return task


async def generator(task: Task) -> Any:
    yield task


@pytest.mark.parametrize(
    "job", [function, Reporter(), Reporter().run, CallableJob(), decorated(function), functools.partial(function)]
)
async def test_what_is_a_job(job: Any) -> None:
    assert (await JobExecutor("report", job).run(attempt())).complete


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (plain, 'job "report": plain is not async: write "async def"'),
        (lambda task: task, "is not async"),
        (generator, 'job "report": generator is not async: write "async def"'),
        (Plain(), 'job "report": Plain.run is not async: write "async def"'),
        (Reporter, r'job "report" is the class Reporter: register an instance, Reporter\(\)'),
        (
            "text",
            'job "report" is an object of type str: register an async function, or an object with "async def run"',
        ),
        (None, 'job "report" is an object of type NoneType: register'),
    ],
)
def test_registering_something_else_than_a_job_says_what_to_write(job: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        JobExecutor("report", job)


async def test_print_writes_a_line_and_keeps_it(capsys: pytest.CaptureFixture[str]) -> None:
    executor = JobExecutor("print", PrintJob())
    line = "2026-12-01T10:00:00Z team-a/report hello é\n"
    result = await executor.run(attempt(params={"text": "hello é"}))
    assert (result.ok, result.complete, result.output) == (True, False, line.encode())
    await executor.run(attempt(namespace="", payload=b"a payload"))
    await executor.run(attempt())
    assert capsys.readouterr().out == (
        line + "2026-12-01T10:00:00Z report a payload\n" + "2026-12-01T10:00:00Z team-a/report\n"
    )
    lines: list[str] = []
    await JobExecutor("print", PrintJob(lines.append)).run(attempt(params={"text": 5}))
    assert lines == ["2026-12-01T10:00:00Z team-a/report 5\n"]
    assert capsys.readouterr().out == ""


def task(payload: bytes | None = None) -> Task:
    return Task("a", "report", payload, SLOT, 1, 1, "run")


def test_json_of_a_task() -> None:
    made = task()
    assert made.json() is None
    made.set_json({"ü": [1, None, 2**80]})
    assert made.payload == '{"ü":[1,null,1208925819614629174706176]}'.encode()
    assert made.json() == {"ü": [1, None, 2**80]}
    made.set_result_json("done")
    assert made.result == b'"done"'
    assert made.payload is not None
    assert json.loads(made.payload) == made.json()


@pytest.mark.parametrize("payload", [b"{", b"", b"\xff", b"[" * 100_000])
def test_a_payload_that_is_not_json_names_the_slug(payload: bytes) -> None:
    with pytest.raises(ValueError, match='the payload of "a" is not JSON: '):
        task(payload).json()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}])
def test_what_json_can_not_represent_is_an_error(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        task().set_json(value)


def installed(tmp_path: Path, distribution: str, *lines: str) -> list[EntryPoint]:
    """The entry points of an installed package."""
    info = tmp_path / f"{distribution.replace('-', '_')}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("\n".join([f"[{ENTRY_POINT_GROUP}]", *lines]) + "\n")
    return list(PathDistribution(info).entry_points)


async def test_jobs_of_installed_distributions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "installed_jobs.py").write_text(
        "class Report:\n    async def run(self, task):\n        return None\nasync def clean(task):\n    return task\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    jobs = load_jobs(
        installed(tmp_path, "acme-jobs", "report = installed_jobs:Report", "clean = installed_jobs:clean"), BUILT_IN
    )
    assert sorted(jobs) == ["clean", "report"]
    assert (await JobExecutor("report", jobs["report"]).run(attempt())).complete
    assert not (await JobExecutor("clean", jobs["clean"]).run(attempt())).complete


def test_each_broken_entry_point_is_named_with_its_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_jobs.py").write_text(
        "def plain(task):\n    return task\n"
        "class Needs:\n    def __init__(self, dsn):\n        pass\n"
        "async def fine(task):\n    return None\n"
    )
    (tmp_path / "exits_jobs.py").write_text("raise SystemExit('no licence')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    points = installed(
        tmp_path,
        "broken-jobs",
        "absent = nowhere_at_all:job",
        "exits = exits_jobs:job",
        "missing = broken_jobs:nothing",
        "plain = broken_jobs:plain",
        "needs = broken_jobs:Needs",
        "print = broken_jobs:fine",
        "same = broken_jobs:fine",
    )
    points += installed(tmp_path, "other-jobs", "same = broken_jobs:fine")
    with pytest.raises(JobPluginError) as caught:
        load_jobs(points, BUILT_IN)
    lines = str(caught.value).splitlines()
    of = "of broken-jobs 1.2 can't be used: "
    assert [line for line in lines if "of broken-jobs 1.2 can't" not in line][0].startswith(  # noqa: RUF015 - all but one
        'entry point "same" (broken_jobs:fine) of other-jobs 1.2 can\'t be used: broken-jobs 1.2 has the same kind'
    )
    for start in (
        f'entry point "absent" (nowhere_at_all:job) {of}ModuleNotFoundError: ',
        f'entry point "exits" (exits_jobs:job) {of}SystemExit: no licence',
        f'entry point "missing" (broken_jobs:nothing) {of}AttributeError: ',
        f'entry point "plain" (broken_jobs:plain) {of}job "plain": plain is not async: write "async def"',
        f'entry point "needs" (broken_jobs:Needs) {of}',
        f'entry point "print" (broken_jobs:fine) {of}"print" is built in: give the entry point another name',
    ):
        assert any(line.startswith(start) for line in lines), start
    assert len(lines) == 7
