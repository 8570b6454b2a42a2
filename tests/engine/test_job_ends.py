"""However a job ends, that ends its attempt, and neither its replica nor the runs of other jobs."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, NoReturn

import pytest
from structlog.testing import capture_logs

from scheduledjob.domain.schedule.backoff import Fixed
from scheduledjob.domain.schedule.definition import Concurrency, Timeouts
from scheduledjob.domain.schedule.state import Outcome
from scheduledjob.domain.time.instants import SECOND
from scheduledjob.domain.triggers.every import EveryTrigger
from scheduledjob.engine import attempt_runner, replica, shutdown
from scheduledjob.engine.executor import Result
from scheduledjob.engine.job_errors import is_from_outside
from scheduledjob.jobs.python.python_job import JobExecutor
from scheduledjob.stores.memory import MemoryStore

from .support import PATIENCE, Jobs, Watcher, desired, for_ever, put, replica_of, row_of, running, single_slot

if TYPE_CHECKING:
    from scheduledjob.domain.schedule.state import RunRecord
    from scheduledjob.engine.executor import Attempt, Executor
    from scheduledjob.engine.task import Task

FAILS_ONCE = Fixed([0.01], max_retries=0)


class AbortError(BaseException):
    """As pytest, PyO3 and gevent define them."""


class UnspeakableError(BaseException):
    def __str__(self) -> str:
        raise KeyboardInterrupt


OWN_ENDS = [
    (AbortError("by itself"), "AbortError: by itself"),
    (UnspeakableError(), "UnspeakableError"),
    (SystemExit(3), "SystemExit: 3"),
    (KeyboardInterrupt(), "KeyboardInterrupt"),
    (GeneratorExit(), "GeneratorExit"),
    (asyncio.CancelledError(), "CancelledError"),
    (BaseExceptionGroup("two", [AbortError(), ValueError()]), "BaseExceptionGroup: two (2 sub-exceptions)"),
    (BaseExceptionGroup("one", [AbortError("inside")]), "AbortError: inside"),
]


class Ending:
    """A job that ends by ``error`` at once."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    async def attempt(self, attempt: Attempt) -> NoReturn:
        raise self._error

    async def run(self, task: Task) -> NoReturn:
        raise self._error


@pytest.mark.parametrize(("error", "reason"), OWN_ENDS, ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("python_job", [True, False])
async def test_whatever_a_job_raises_is_the_failure_of_its_attempt(
    error: BaseException, reason: str, python_job: bool
) -> None:
    store, watcher, ending = MemoryStore(), Watcher(), Ending(error)
    executor: Executor = JobExecutor("job", ending) if python_job else Jobs(ending.attempt)
    await put(store, "ns/bad", retry=FAILS_ONCE)
    async with running(replica_of(store, executor, observer=watcher)):
        await watcher.until_recorded()
        await put(store, "ns/next", retry=FAILS_ONCE)
        await watcher.until_recorded(2)
    assert [(record.outcome, record.reason) for record in watcher.records] == [(Outcome.FAILED, reason)] * 2


async def test_a_job_that_cancels_its_own_task_has_failed() -> None:
    async def cancels_itself(attempt: Attempt) -> Result:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)
        raise AssertionError("it was not cancelled")

    store, watcher = MemoryStore(), Watcher()
    await put(store, "ns/bad", retry=FAILS_ONCE)
    async with running(replica_of(store, Jobs(cancels_itself), observer=watcher)):
        await watcher.until_recorded()
    assert [(record.outcome, record.reason) for record in watcher.records] == [(Outcome.FAILED, "CancelledError")]


@pytest.mark.parametrize("timeouts", [Timeouts(), Timeouts(attempt=60 * SECOND)])
async def test_a_future_that_closes_the_coroutines_of_a_job_ends_its_attempt(timeouts: Timeouts) -> None:
    """asyncio throws the exception of a future into the task, and a GeneratorExit closes what the task awaits."""

    async def job(task: Task) -> Task:
        failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        failed.get_loop().call_soon(failed.set_exception, GeneratorExit())
        await failed
        raise AssertionError("the future has not failed")

    store, watcher = MemoryStore(), Watcher()
    await put(store, "ns/bad", retry=FAILS_ONCE, timeouts=timeouts)
    async with running(replica_of(store, JobExecutor("job", job), observer=watcher)):
        await watcher.until_recorded()
    assert [(record.outcome, record.reason) for record in watcher.records] == [(Outcome.FAILED, "GeneratorExit")]


async def test_a_reason_that_can_not_be_encoded_ends_no_replica() -> None:
    async def job(attempt: Attempt) -> Result:
        return Result(False, "exit code 3: \udc80 äö")

    store, watcher, called = MemoryStore(), Watcher(), asyncio.Event()

    async def hook(hook: object, attempt: Attempt, record: RunRecord) -> Result:
        called.set()
        return Result(True)

    await put(store, "ns/bad", retry=FAILS_ONCE, on_failure=({"url": "f"},))
    async with running(replica_of(store, Jobs(job), observer=watcher, hook=hook)):
        await watcher.until_recorded()
        await called.wait()
    assert [record.reason for record in watcher.records] == ["exit code 3: ? äö"]


class EndlessBytes(bytes):
    """Bytes of a job that are no better than its exceptions."""

    def __len__(self) -> int:
        raise AbortError("no length")


async def test_a_result_that_raises_is_the_failure_of_its_attempt() -> None:
    async def job(task: Task) -> Task:
        task.result = EndlessBytes(b"x")
        return task

    store, watcher = MemoryStore(), Watcher()
    await put(store, "ns/bad", retry=FAILS_ONCE)
    async with running(replica_of(store, JobExecutor("job", job), observer=watcher)):
        await watcher.until_recorded()
    assert [(record.outcome, record.reason) for record in watcher.records] == [
        (Outcome.FAILED, "AbortError: no length")
    ]


EXITS = [
    (SystemExit(3), "SystemExit: 3"),
    (KeyboardInterrupt("by itself"), "KeyboardInterrupt: by itself"),
]


@pytest.mark.parametrize(("error", "reason"), EXITS, ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("grouped", [False, True])
async def test_a_task_of_a_job_that_exits_is_the_failure_of_the_attempt(
    error: BaseException, reason: str, grouped: bool
) -> None:
    """asyncio would end the event loop, and the program with it."""

    async def exits() -> NoReturn:
        await asyncio.sleep(0)
        raise error

    async def job(task: Task) -> Task:
        if grouped:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(exits())
        else:
            await asyncio.create_task(exits(), name="exits")
        return task

    store, watcher = MemoryStore(), Watcher()
    await put(store, "ns/bad", retry=FAILS_ONCE)
    async with running(replica_of(store, JobExecutor("job", job), observer=watcher)):
        await watcher.until_recorded()
    assert [(record.outcome, record.reason) for record in watcher.records] == [(Outcome.FAILED, reason)]


async def test_the_tasks_of_jobs_are_tasks_like_others() -> None:
    """They return, fail, are cancelled before they start, and close like those of ``asyncio.create_task``."""
    seen: list[object] = []

    async def returns(value: int) -> int:
        await asyncio.sleep(0)
        return value

    async def job(task: Task) -> Task:
        seen.append(await asyncio.gather(*(returns(number) for number in range(3))))
        unstarted, endless = asyncio.create_task(returns(1)), asyncio.create_task(asyncio.Event().wait())
        unstarted.cancel()
        await asyncio.sleep(0)
        endless.cancel()
        await asyncio.wait([unstarted, endless])
        seen.append((unstarted.cancelled(), endless.cancelled()))
        started = asyncio.create_task(returns(1))
        seen.append(("returns" in repr(started), [frame.f_code.co_name for frame in started.get_stack()]))
        await started
        return task

    loop = asyncio.get_running_loop()
    store, watcher = MemoryStore(), Watcher()
    await put(store, "ns/good")
    async with running(replica_of(store, JobExecutor("job", job), observer=watcher)):
        async with running(replica_of(store, Jobs(), observer=watcher)):
            assert loop.get_task_factory() is not None
        await watcher.until_recorded()
        assert watcher.records[0].outcome is Outcome.SUCCEEDED, watcher.records[0].reason
    assert seen == [[0, 1, 2], (True, True), (True, ["returns"])]
    assert loop.get_task_factory() is None


async def test_a_replica_whose_tasks_are_cancelled_by_others_fails() -> None:
    """A task group ignores the cancellation of a service: the replica would go on, and claim nothing more."""

    async def cancels_a_service(attempt: Attempt) -> Result:
        (claiming,) = (task for task in asyncio.all_tasks() if "Claimer.run" in repr(task.get_coro()))
        claiming.cancel()
        return Result(True)

    store = MemoryStore()
    await put(store, "ns/a")
    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(replica_of(store, Jobs(cancels_a_service)).run(), PATIENCE)
    assert caught.group_contains(RuntimeError, match="was cancelled by a job or by another part of the program")


async def test_the_cancellation_of_a_replica_stops_its_jobs() -> None:
    store, watcher, jobs = MemoryStore(), Watcher(), Jobs(for_ever)
    await put(store, "ns/a")
    made = replica_of(store, jobs, observer=watcher)
    task = asyncio.create_task(made.run())
    await jobs.begun.get()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, PATIENCE)
    assert jobs.active == 0
    assert not watcher.records


def test_ctrl_c_is_not_an_error_of_the_job() -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        signal.raise_signal(signal.SIGINT)
    assert is_from_outside(caught.value)


def test_a_second_ctrl_c_of_asyncio_is_not_an_error_of_the_job() -> None:
    answers: list[bool] = []

    async def main() -> None:
        signal.raise_signal(signal.SIGINT)  # cancels this task
        with pytest.raises(KeyboardInterrupt) as caught:
            signal.raise_signal(signal.SIGINT)
        answers.append(is_from_outside(caught.value))

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert answers == [True]


def test_a_closed_coroutine_is_not_an_error_of_the_job() -> None:
    seen: list[bool] = []

    async def job() -> None:
        try:
            await asyncio.sleep(0)
        except GeneratorExit as error:
            seen.append(is_from_outside(error))
            raise

    coroutine = job()
    coroutine.send(None)
    coroutine.close()
    assert seen == [True]


# ---------------------------------------------------------------- the end of the replica


def test_a_job_that_ignores_its_cancellation_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of the replica nor of ``asyncio.run``."""
    for module in (shutdown, replica):
        monkeypatch.setattr(module, "STOP_LIMIT", 0.05)
    turns = 0

    async def ignores(attempt: Attempt) -> Result:
        nonlocal turns
        while turns < 1000:
            turns += 1
            try:
                await asyncio.sleep(0.005)
            except asyncio.CancelledError:
                continue
        return Result(True)

    async def main() -> None:
        store, jobs = MemoryStore(), Jobs(ignores)
        await put(store, "ns/stubborn")
        async with running(replica_of(store, jobs, grace=0.0)):
            await jobs.begun.get()

    with capture_logs() as logs:
        asyncio.run(main())
    assert turns < 1000
    (line,) = [line for line in logs if line["log_level"] == "error"]
    assert line["slug"] == "ns/stubborn"
    assert "did not end when it was cancelled" in line["event"]


async def test_a_replica_without_an_orderly_end_abandons_such_a_job_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica, "STOP_LIMIT", 0.05)
    released = asyncio.Event()

    async def ignores(attempt: Attempt) -> Result:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue
        return Result(True)

    store, jobs = MemoryStore(), Jobs(ignores)
    await put(store, "ns/stubborn")
    task = asyncio.create_task(replica_of(store, jobs).run())
    await jobs.begun.get()
    task.cancel()
    with capture_logs() as logs, pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, PATIENCE)
    released.set()
    assert [line["slug"] for line in logs if line["log_level"] == "error"] == ["ns/stubborn"]


async def test_a_fault_of_the_program_in_an_attempt_still_ends_the_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise AssertionError("a fault of the program")

    monkeypatch.setattr(attempt_runner.AttemptRunner, "_ended", broken)
    store, jobs = MemoryStore(), Jobs()
    await put(store, "ns/a")
    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(replica_of(store, jobs).run(), PATIENCE)
    assert caught.group_contains(AssertionError, match="a fault of the program")


# ---------------------------------------------------------------- no new work after stop()


async def test_a_replica_that_was_told_to_stop_starts_no_new_slot() -> None:
    """A schedule with Allow goes on with its runs during the grace period, and hands the new ones back unstarted."""
    store, watcher = MemoryStore(), Watcher()
    finish = asyncio.Event()

    async def until_told(attempt: Attempt) -> Result:
        await finish.wait()
        return Result(True)

    jobs = Jobs(until_told)
    now = await store.now()
    definition = single_slot(now, triggers=(EveryTrigger(SECOND),), concurrency=Concurrency.ALLOW)
    await store.put([desired("ns/every", definition, now)], replace=False)
    made = replica_of(store, jobs, observer=watcher, grace=PATIENCE)
    async with running(made):
        first = await jobs.begun.get()
        made.stop()
        await watcher.until(
            lambda: "ns/every" in watcher.states and len(watcher.states["ns/every"].runs) >= 3
        )  # two slots have come due since
        finish.set()
    assert jobs.begun.empty()
    row = await row_of(store, "ns/every")
    state = watcher.states["ns/every"]
    assert row.owner is None
    assert row.wake_at is not None
    assert {run.attempt for run in state.runs} == {1}
    assert first.slot not in {run.slot for run in state.runs}
    assert len(state.runs) >= 2


async def test_a_replica_that_was_told_to_stop_starts_no_retry() -> None:
    store, watcher = MemoryStore(), Watcher()
    fail, finish = asyncio.Event(), asyncio.Event()

    first: list[int] = []

    async def the_first_fails(attempt: Attempt) -> Result:
        first.append(attempt.slot)
        await (fail if attempt.slot == first[0] else finish).wait()
        return Result(attempt.slot != first[0])

    jobs = Jobs(the_first_fails)
    now = await store.now()
    definition = single_slot(now, triggers=(EveryTrigger(SECOND),), concurrency=Concurrency.ALLOW, retry=Fixed([0.01]))
    await store.put([desired("ns/every", definition, now)], replace=False)
    made = replica_of(store, jobs, observer=watcher, grace=PATIENCE)
    async with running(made):
        await jobs.begun.get()
        await jobs.begun.get()
        made.stop()
        fail.set()
        await watcher.until(
            lambda: "ns/every" in watcher.states and any(run.attempt == 2 for run in watcher.states["ns/every"].runs)
        )
        finish.set()
    assert jobs.begun.empty()
    assert [run.attempt for run in watcher.states["ns/every"].runs if run.slot == first[0]] == [2]
