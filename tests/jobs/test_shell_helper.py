"""The helper process: it dies, is stopped, does not start, is interrupted, is closed."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import pytest

from scheduledjob.jobs.shell.helper import HelperError
from scheduledjob.jobs.shell.shell_executor import ShellExecutor
from tests.jobs.shell_support import attempt_of, bearing, helper_pid, is_alive, until

if TYPE_CHECKING:
    from tests.jobs.shell_support import Reports


async def test_the_jobs_of_a_dead_helper_are_killed_and_it_is_replaced(
    executor: ShellExecutor, reports: Reports
) -> None:
    commands = [f"(setsid sh -c 'echo up > {reports.path}; exec sleep 1000' &); sleep 1000"] * 5
    attempts = [attempt_of(command) for command in commands]
    tasks = [asyncio.create_task(executor.run(attempt)) for attempt in attempts]
    for _ in attempts:
        await reports.line()
    os.kill(helper_pid(executor), signal.SIGKILL)
    for attempt, task in zip(attempts, tasks, strict=True):
        result = await task
        assert result.reason == "the helper process that ran this job has died; the job was killed"
        assert [pid for pid in bearing(attempt.run_id) if is_alive(pid)] == []
    assert (await executor.run(attempt_of("true"))).ok


async def test_a_helper_that_is_stopped_does_not_keep_a_cancelled_job_alive(
    executor: ShellExecutor, reports: Reports
) -> None:
    attempt = attempt_of(f"echo $$ > {reports.path}; exec sleep 1000", lease=2.5)
    task = asyncio.create_task(executor.run(attempt))
    job = int(await reports.line())
    os.kill(helper_pid(executor), signal.SIGSTOP)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not is_alive(job)
    assert (await executor.run(attempt_of("true"))).ok


async def test_a_helper_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(HelperError, match="ended at once with status 1"):
        await ShellExecutor().start()
    monkeypatch.setattr("sys.executable", "/nope/python")
    with pytest.raises(HelperError, match=r"can't be started: .*/nope/python"):
        await ShellExecutor().start()


async def test_a_terminal_can_not_interrupt_the_helper(executor: ShellExecutor) -> None:
    helper = helper_pid(executor)
    assert os.getsid(helper) == helper
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(helper, number)
    assert (await executor.run(attempt_of("true"))).ok
    assert helper_pid(executor) == helper


async def test_stopping_leaves_nothing(reports: Reports) -> None:
    executor = ShellExecutor()
    await executor.start()
    helper = helper_pid(executor)
    task = asyncio.create_task(executor.run(attempt_of(f"setsid sh -c 'echo $$ > {reports.path}; exec sleep 1000'")))
    job = int(await reports.line())
    await executor.stop()
    assert not (await task).ok
    await until(lambda: not is_alive(job))
    assert not is_alive(helper)
