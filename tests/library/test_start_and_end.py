"""The start and the end of schedulers in a program: failures, SIGTERM with several of them, and use after the end."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from scheduledjob import Scheduler, ShellJob, Task
from scheduledjob.engine import lease_thread
from scheduledjob.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from scheduledjob.engine.executor import Executor

PATIENCE = 60.0


@pytest.fixture(autouse=True)
async def _patience() -> AsyncIterator[None]:
    async with asyncio.timeout(PATIENCE):
        yield


class ClosingStore(MemoryStore):
    closed = 0

    async def close(self) -> None:
        self.closed += 1
        await super().close()


def with_store(scheduler: Scheduler, store: MemoryStore) -> Scheduler:
    scheduler._store = store
    return scheduler


# ---------------------------------------------------------------- a start that fails


class BrokenShell(ShellJob):
    def executor(self) -> Executor:
        executor = super().executor()

        async def start() -> None:
            raise OSError("no helper process")

        executor.start = start  # type: ignore[method-assign]
        return executor


async def test_a_failed_start_raises_its_own_error_and_leaves_nothing_open() -> None:
    store = ClosingStore()
    scheduler = with_store(Scheduler("memory:"), store)
    scheduler.register(BrokenShell())
    with pytest.raises(OSError, match="no helper process"):
        async with scheduler:
            pytest.fail("it has started")
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)  # a cancellation that is left over would be raised here
    assert store.closed == 1
    assert [other for other in asyncio.all_tasks() if "replica" in repr(other.get_coro())] == []


async def test_a_lease_thread_that_can_not_start_is_the_error_of_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(lease_thread.LeaseThread, "start", fails)
    store = ClosingStore()
    with pytest.raises(RuntimeError, match="can't start new thread"):
        async with with_store(Scheduler("memory:"), store):
            pytest.fail("it has started")
    assert store.closed == 1


async def test_a_start_that_is_cancelled_leaves_nothing_open() -> None:
    asked = asyncio.Event()

    class Silent(ClosingStore):
        async def now(self) -> int:
            asked.set()
            return await asyncio.Event().wait() and 0

    store = Silent()
    before = threading.active_count()

    async def program() -> None:
        async with with_store(Scheduler("memory:"), store):
            pytest.fail("it has started")

    running = asyncio.create_task(program())
    await asked.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert store.closed == 1
    assert threading.active_count() == before


# ---------------------------------------------------------------- after the end


USES: list[Callable[[Scheduler], Awaitable[Any]]] = [
    lambda scheduler: scheduler.schedule("a", "job", delay=0.0),
    lambda scheduler: scheduler.schedule_many([{"slug": "a", "kind": "job", "delay": 0.0}]),
    lambda scheduler: scheduler.get("a"),
    lambda scheduler: scheduler.slugs(),
    lambda scheduler: scheduler.delete("a"),
    lambda scheduler: scheduler.clear(),
]


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("execute", [True, False])
async def test_a_closed_scheduler_refuses_every_use(use: Callable[[Scheduler], Awaitable[Any]], execute: bool) -> None:
    scheduler = Scheduler("memory:", execute=execute)

    @scheduler.job("job")
    async def job(task: Task) -> Task:
        return task

    with pytest.raises(RuntimeError, match="is not open: write `async with scheduler:`"):
        await use(scheduler)
    async with scheduler:
        await use(scheduler)
    with pytest.raises(RuntimeError, match="the scheduler is closed: create a new one"):
        await use(scheduler)
    with pytest.raises(RuntimeError, match="was closed: create a new one"):
        async with scheduler:
            pass


async def test_a_job_may_schedule_while_its_scheduler_ends() -> None:
    scheduler, begun, go = Scheduler("memory:", grace=PATIENCE), asyncio.Event(), asyncio.Event()
    failures: list[BaseException] = []

    @scheduler.job("job")
    async def job(task: Task) -> None:
        begun.set()
        await go.wait()
        try:
            await scheduler.schedule("next", "job", delay=3600.0)
        except RuntimeError as error:
            failures.append(error)

    async with scheduler:
        await scheduler.schedule("a", "job", delay=0.0)
        await begun.wait()
        asyncio.get_running_loop().call_later(0.01, go.set)
    assert failures == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_scheduler_whose_task_is_cancelled_by_others_fails() -> None:
    """The program would go on, and run nothing."""

    async def program() -> None:
        async with Scheduler("memory:"):
            for task in asyncio.all_tasks():
                if task not in {running, test}:
                    task.cancel()
            await asyncio.Event().wait()

    test = asyncio.current_task()
    running = asyncio.create_task(program())
    with pytest.raises(RuntimeError, match="was cancelled by a job or by another part of the program"):
        await running


# ---------------------------------------------------------------- SIGTERM

TWO = """
import asyncio, signal, sys
from scheduledjob import Scheduler, Task

def made(name, seconds):
    scheduler = Scheduler("memory:", grace=30.0)

    @scheduler.job("job")
    async def job(task: Task) -> Task:
        print("begun", flush=True)
        await asyncio.sleep(seconds)
        print("finished", name, flush=True)
        return task

    return scheduler

short, long = made("short", 0.2), made("long", 1.0)

async def block(scheduler):
    async with scheduler:
        await scheduler.schedule("a", "job", delay=0.0)
        await asyncio.Event().wait()

async def nested():
    async with short, long:
        for scheduler in (short, long):
            await scheduler.schedule("a", "job", delay=0.0)
        await asyncio.Event().wait()

async def gathered():
    await asyncio.gather(block(short), block(long))

async def grouped():
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(block(short))
        tasks.create_task(block(long))

async def inside():
    async with long:
        await long.schedule("a", "job", delay=0.0)
        await asyncio.gather(block(short))

try:
    asyncio.run(globals()[sys.argv[1]]())
finally:
    print("handler", signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, flush=True)
"""


@pytest.mark.parametrize("shape", ["nested", "gathered", "grouped", "inside"])
def test_sigterm_ends_each_scheduler_of_a_program_cleanly(shape: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", TWO, shape], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        assert [program.stdout.readline() for _ in range(2)] == ["begun\n"] * 2
        program.send_signal(signal.SIGTERM)
        output, errors = program.communicate(timeout=PATIENCE)
    lines = output.splitlines()
    assert sorted(lines[:2]) == ["finished long", "finished short"]
    assert lines[2:] == ["handler True"]
    assert program.returncode == 0
    if shape in {"nested", "inside"}:  # else asyncio logs the SystemExit that leaves a task
        assert errors == ""


ENDING = """
import asyncio, sys
from scheduledjob import Scheduler, Task

outer, scheduler = Scheduler("memory:", grace=30.0), Scheduler("memory:", grace=30.0)
begun, finish = asyncio.Event(), asyncio.Event()

@scheduler.job("job")
async def job(task: Task) -> Task:
    asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline).add_done_callback(lambda _: finish.set())
    begun.set()
    await finish.wait()
    print("finished", flush=True)
    return task

async def main():
    async with outer:
        async with scheduler:
            await scheduler.schedule("a", "job", delay=0.0)
            await begun.wait()
            try:
                if sys.argv[1] == "by SIGTERM":
                    print("begun", flush=True)
                    await asyncio.Event().wait()
            finally:
                print("ending", flush=True)
        print("the program goes on", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("end", ["by itself", "by SIGTERM"])
def test_sigterm_while_a_scheduler_ends_does_not_hurry_its_jobs_and_still_ends_the_program(end: str) -> None:
    """Process managers and shells send it twice, to the process group and to the process."""
    with subprocess.Popen(
        [sys.executable, "-c", ENDING, end], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        if end == "by SIGTERM":
            assert program.stdout.readline() == "begun\n"
            program.send_signal(signal.SIGTERM)
        assert program.stdout.readline() == "ending\n"
        program.send_signal(signal.SIGTERM)
        output, _ = program.communicate("finish\n", timeout=PATIENCE)
    assert output.splitlines()[0] == "finished"
    assert program.returncode == 0


async def test_the_handler_of_sigterm_is_given_back_by_the_last_scheduler() -> None:
    async with Scheduler("memory:"):
        async with Scheduler("memory:"):
            pass
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


async def test_the_handler_of_a_program_is_left_alone() -> None:
    loop, heard = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, heard.set)
    try:
        async with Scheduler("memory:"):
            signal.raise_signal(signal.SIGTERM)
            await heard.wait()
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
