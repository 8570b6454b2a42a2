"""Helpers for the tests of the shell executor: attempts, jobs that report, and processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from typing import TYPE_CHECKING, Any

import psutil

from scheduledjob.engine.clock import boot_seconds
from scheduledjob.engine.executor import Attempt
from scheduledjob.jobs.shell.shell_spec import ShellSpec
from scheduledjob.jobs.shell.spawner.processes import all_pids, status_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from scheduledjob.jobs.shell.shell_executor import ShellExecutor

FAR = 3600.0
"""Seconds; a lease that does not end during a test."""


def attempt_of(
    command: str,
    *,
    run_id: str = "",
    lease: float = FAR,
    payload: bytes | None = None,
    timeout: float | None = None,
    version: int = 1,
    references: Any = None,
    **spec: Any,
) -> Attempt:
    """An attempt that runs a command. Its run id is unique unless given."""
    return Attempt(
        run_id=run_id or f"run-{uuid.uuid4().hex}",
        uid="6c7f",
        namespace="team-a",
        name="nightly",
        slot=1_796_119_200_000_000,
        attempt=2,
        version=version,
        deadline=boot_seconds() + lease,
        timeout=timeout,
        params=ShellSpec(command, **spec),
        payload=payload,
        references=references,
    )


class Reports:
    """A FIFO into which jobs write lines, so that a test can wait for an event."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / f"reports-{uuid.uuid4().hex}"
        os.mkfifo(self.path)
        # Opened for reading and writing, so that it does not end when a job closes it.
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)
        self._data = b""

    async def line(self) -> str:
        """The next line that a job wrote."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(30):
            while b"\n" not in self._data:
                readable = asyncio.Event()
                loop.add_reader(self._descriptor, readable.set)
                try:
                    await readable.wait()
                finally:
                    loop.remove_reader(self._descriptor)
                self._data += os.read(self._descriptor, 65536)
        line, _, self._data = self._data.partition(b"\n")
        return line.decode()

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)


def bearing(text: str) -> list[int]:
    """The processes, zombies too, that have ``text`` in their environment or descend from one that has."""
    return [pid for pid in all_pids() if text.encode() in _environment(pid)]


def _environment(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/environ", "rb") as environ:
            return environ.read()
    except OSError:
        return b""


def is_alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    status = status_of(pid)
    return status is not None and status[0] not in "ZX"


def descendants(pid: int) -> set[int]:
    """The descendants of a process, zombies too."""
    parents = {other: status[1] for other in all_pids() if (status := status_of(other)) is not None}

    def below(parent: int) -> Iterator[int]:
        for other, its in parents.items():
            if its == parent:
                yield other
                yield from below(other)

    return set(below(pid))


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until a condition outside this process holds. It polls, because ``/proc`` sends no events."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.005)


def helper_pid(executor: ShellExecutor) -> int:
    """The process id of the helper."""
    assert executor._helper is not None
    return executor._helper._process.pid


@contextlib.asynccontextmanager
async def running(executor: ShellExecutor) -> AsyncIterator[ShellExecutor]:
    """A started executor. At the end, neither its helper nor this process may have a child left."""
    before = _children()
    await executor.start()
    try:
        yield executor
        assert descendants(helper_pid(executor)) == set()
    finally:
        await executor.stop()
    assert _children() <= before


def _children() -> set[int]:
    """The children of this process, without their descendants, because servers of other tests are among them."""
    return {child.pid for child in psutil.Process().children()}
