"""No job outlives its lease, whether its replica is killed, stopped, silent or shut down cleanly.

The replica is a process of its own, so that it can be killed. It runs the attempts of its command line, and renews
their leases when the test says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from scheduledjob.engine.clock import boot_seconds
from scheduledjob.jobs.shell.shell_executor import ShellExecutor
from tests.jobs.shell_support import Reports, attempt_of, bearing, descendants, is_alive, running, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

REPLICA = """
import asyncio, os, sys
from scheduledjob.engine.clock import boot_seconds
from scheduledjob.jobs.shell.shell_executor import ShellExecutor
from tests.jobs.shell_support import attempt_of

async def main(lease, *commands):
    executor = ShellExecutor()
    await executor.start()
    print(executor._helper._process.pid, flush=True)
    async with asyncio.TaskGroup() as group:
        for command in commands:
            group.create_task(executor.run(attempt_of(command, lease=float(lease), run_id=os.environ["MARKER"])))

asyncio.run(main(*sys.argv[1:]))
"""

DAEMON = "setsid sh -c 'setsid sh -c \"echo up > {0}; exec sleep 1000\" & exit' & sleep 1000"
STUBBORN = "trap '' TERM; echo up > {0}; sleep 1000; sleep 1000"
NAMELESS = "env -i setsid sh -c 'echo up > {0}; exec sleep 1000' & exec sleep 1000"


@pytest.fixture
async def executor() -> AsyncIterator[ShellExecutor]:
    async with running(ShellExecutor()) as executor:
        yield executor


class Replica:
    """A replica with three running jobs: one with a daemon, one that ignores TERM, one without its environment."""

    process: asyncio.subprocess.Process
    helper: int
    jobs: set[int]
    marker: str

    def living(self) -> set[int]:
        return {pid for pid in self.jobs | set(bearing(self.marker)) if is_alive(pid) and pid != self.process.pid}


@contextlib.asynccontextmanager
async def replica_with_jobs(reports: Reports, lease: float) -> AsyncIterator[Replica]:
    replica = Replica()
    replica.marker = reports.path.name
    commands = [command.format(reports.path) for command in (DAEMON, STUBBORN, NAMELESS)]
    replica.process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        REPLICA,
        str(lease),
        *commands,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "MARKER": replica.marker, "PYTHONPATH": os.getcwd()},
    )
    try:
        assert replica.process.stdout is not None
        replica.helper = int(await replica.process.stdout.readline())
        for _ in commands:
            await reports.line()
        replica.jobs = descendants(replica.helper)
        assert len(replica.living()) >= 5
        yield replica
    finally:
        with contextlib.suppress(ProcessLookupError):
            replica.process.kill()
        await replica.process.wait()
        await until(lambda: not replica.living() and not is_alive(replica.helper))


async def test_a_killed_replica_leaves_no_job(reports: Reports) -> None:
    async with replica_with_jobs(reports, lease=3600) as replica:
        replica.process.kill()
        await replica.process.wait()
        await until(lambda: not replica.living())
        await until(lambda: not is_alive(replica.helper))


async def test_a_stopped_replica_leaves_no_job_when_its_lease_has_ended(reports: Reports) -> None:
    lease = 4.0
    before = boot_seconds()
    async with replica_with_jobs(reports, lease) as replica:
        replica.process.send_signal(signal.SIGSTOP)
        assert replica.living()
        await until(lambda: not replica.living())
        # The attempts were made after ``before``, so their leases end later than this.
        assert boot_seconds() > before + lease - 1.0 - 0.1
        assert is_alive(replica.helper)
        replica.process.send_signal(signal.SIGCONT)
        await replica.process.wait()


async def test_a_replica_that_forked_can_be_killed_too(executor: ShellExecutor, reports: Reports) -> None:
    """A fork inherits the helper's socket, which stays open as long as the fork lives."""
    code = REPLICA.replace(
        "    async with", "    if os.fork() == 0:\n        import time; time.sleep(60); os._exit(0)\n    async with"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "ignore",
        "-c",
        code,
        "3600",
        f"echo $$ > {reports.path}; exec sleep 1000",
        env={**os.environ, "MARKER": reports.path.name, "PYTHONPATH": os.getcwd()},
        stdout=asyncio.subprocess.DEVNULL,
    )
    job = int(await reports.line())
    fork = descendants(process.pid) - {job}
    process.kill()
    await process.wait()
    await until(lambda: not is_alive(job))
    for pid in fork:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("command", [DAEMON, STUBBORN, NAMELESS])
async def test_a_job_is_dead_before_its_deadline(executor: ShellExecutor, reports: Reports, command: str) -> None:
    attempt = attempt_of(command.format(reports.path), lease=2.5)
    result = await executor.run(attempt)
    assert boot_seconds() < attempt.deadline
    assert result.reason == "ended because its lease was about to pass"
    assert bearing(attempt.run_id) == []


async def test_a_lease_that_has_ended_starts_nothing(executor: ShellExecutor, tmp_path: Path) -> None:
    result = await executor.run(attempt_of(f"echo > {tmp_path}/ran", lease=-0.001))
    assert result.reason == "ended because its lease was about to pass"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("lease", [40 * 86_400.0, 1e12, math.inf])
async def test_a_deadline_can_be_later_than_the_longest_wait_of_a_selector(
    executor: ShellExecutor, lease: float
) -> None:
    attempt = attempt_of("read line; echo $line", lease=lease, timeout=min(lease, 1e12), payload=b"done\n")
    result = await executor.run(attempt)
    assert (result.reason, result.output) == ("", b"done\n")


async def test_a_renewed_lease_moves_the_deadline(executor: ShellExecutor, reports: Reports) -> None:
    """Of two leases, one is renewed: its job outlives both old deadlines and ends by itself."""
    lease = 3.0
    renewed = attempt_of(f"echo up > {reports.path}; read line < {reports.path}.go; echo $line", lease=lease)
    left = attempt_of(f"echo up > {reports.path}; sleep 1000", lease=lease)
    os.mkfifo(f"{reports.path}.go")
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(executor.run(attempt)) for attempt in (renewed, left)]
        await reports.line()
        await reports.line()
        # From a thread without an event loop, like the engine.
        thread = threading.Thread(target=executor.extend, args=([renewed.run_id, "unknown"], boot_seconds() + 3600))
        thread.start()
        await asyncio.to_thread(thread.join)
        assert (await tasks[1]).reason == "ended because its lease was about to pass"
        await until(lambda: boot_seconds() > left.deadline)
        assert not tasks[0].done()
        await asyncio.to_thread(Path(f"{reports.path}.go").write_text, "on it went\n")
        assert (await tasks[0]).output == b"on it went\n"


async def test_a_renewal_before_the_helper_knows_the_job_counts(executor: ShellExecutor) -> None:
    """Requests too large for the socket wait, and the renewals overtake them."""
    attempts = [attempt_of("echo done", lease=0.0, payload=b"x" * 65536) for _ in range(40)]
    assert executor._helper is not None
    helper = executor._helper._process.pid
    os.kill(helper, signal.SIGSTOP)
    await until(lambda: psutil.Process(helper).status() == psutil.STATUS_STOPPED)
    tasks = [asyncio.create_task(executor.run(attempt)) for attempt in attempts]
    await asyncio.sleep(0)
    executor.extend([attempt.run_id for attempt in attempts], boot_seconds() + 3600)
    os.kill(helper, signal.SIGCONT)
    assert {result.output for result in await asyncio.gather(*tasks)} == {b"done\n"}


async def test_a_renewal_while_secrets_are_resolved_counts(executor: ShellExecutor) -> None:
    from scheduledjob.engine.executor import Value

    asked, answer = asyncio.Event(), asyncio.Event()

    class Slow:
        async def resolve(self, kind: str, name: str, key: str) -> bytes:
            asked.set()
            await answer.wait()
            return b"x"

    attempt = attempt_of("echo done", lease=0.0, env={"A": Value(secret=("a", "b"))}, references=Slow())
    task = asyncio.create_task(executor.run(attempt))
    await asked.wait()
    executor.extend([attempt.run_id], boot_seconds() + 3600)
    answer.set()
    assert (await task).output == b"done\n"


async def test_a_renewal_never_blocks_when_the_helper_does_not_read(executor: ShellExecutor, reports: Reports) -> None:
    """The pipe fills up long before the end. What it does not take is kept, with the newest deadline only."""
    attempts = [attempt_of(f"echo up > {reports.path}; exec sleep 1000", lease=30) for _ in range(20)]
    tasks = [asyncio.create_task(executor.run(attempt)) for attempt in attempts]
    for _ in attempts:
        await reports.line()
    assert executor._helper is not None
    helper = executor._helper
    os.kill(helper._process.pid, signal.SIGSTOP)
    run_ids = [attempt.run_id for attempt in attempts]
    for n in range(5000):
        executor.extend(run_ids, boot_seconds() + 30 + n)
    assert len(helper._unsent) == len(run_ids)
    os.kill(helper._process.pid, signal.SIGCONT)

    def all_sent() -> bool:
        executor.extend(run_ids, boot_seconds() + 30)
        return not helper._unsent

    await until(all_sent)
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)


async def test_a_renewal_before_the_start_or_after_the_end_has_no_effect(executor: ShellExecutor) -> None:
    ShellExecutor().extend(["run"], boot_seconds())
    attempt = attempt_of("true")
    await executor.run(attempt)
    executor.extend([attempt.run_id], boot_seconds() + 10)
    assert (await executor.run(attempt_of("true"))).ok
