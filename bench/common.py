"""What all benchmarks share: a private Postgres, worker processes, percentiles, and the CPU time of processes.

A ``Worker`` is a separate process with its own event loop (uvloop). It runs a coroutine that communicates with this
process through a ``Line``. So a replica has a core to itself, as in production, and starts are recorded where they
happen.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import multiprocessing
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import asyncpg
import psutil
import structlog
import uvloop

from scheduledjob.engine.observer import Observer
from tests.support.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence
    from multiprocessing.connection import Connection

    from scheduledjob.domain.schedule.state import RunRecord

_SPAWN = multiprocessing.get_context("spawn")
ANSWER_SECONDS = 180.0
"""How long to wait for a message of a worker."""
SETTINGS = {"shared_buffers": "256MB", "max_wal_size": "4GB"}


@dataclass(slots=True, frozen=True)
class Options:
    """How to measure."""

    quick: bool
    """Fewer and shorter runs: to see that the benchmark works, not to compare."""

    def runs(self, full: int) -> int:
        """Return how often to repeat a noisy measurement: ``full`` times, or once if quick."""
        return 1 if self.quick else full


@contextlib.contextmanager
def postgres(**settings: str) -> Iterator[PostgresServer]:
    """Start a private, durable server: fsync, full_page_writes and synchronous_commit are on."""
    with PostgresServer(durable=True, settings=SETTINGS | settings) as server:
        yield server


async def ask(dsn: str, query: str) -> Any:
    """Run a query and return its value."""
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def run(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


# ---------------------------------------------------------------- processes


class Line:
    """One end of a pipe between two event loops. Messages are pickled."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._came = asyncio.Event()
        asyncio.get_running_loop().add_reader(connection.fileno(), self._came.set)
        os.set_blocking(connection.fileno(), True)  # uvloop makes it non-blocking, which Connection does not support

    def send(self, message: object = None) -> None:
        self._connection.send(message)

    async def receive(self) -> Any:
        """Return the next message. ``EOFError``: the other end is closed."""
        while not self._connection.poll():
            self._came.clear()
            await self._came.wait()
        return self._connection.recv()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._connection.fileno())
        self._connection.close()


class Worker:
    """A process that runs ``work(line, *args)``, a top-level function of a module. Use it with ``async with``."""

    def __init__(self, work: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
        self._connection, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_work, args=(work, theirs, args), daemon=True)
        self._theirs = theirs
        self.name = work.__name__

    async def __aenter__(self) -> Self:
        self._process.start()
        self._theirs.close()
        self._line = Line(self._connection)
        self.pid: int = self._process.pid or 0
        return self

    async def __aexit__(self, *_: object) -> None:
        self._line.close()
        await asyncio.to_thread(self._process.join, 20.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def tell(self, message: object = None) -> None:
        self._line.send(message)

    async def answer(self, seconds: float = ANSWER_SECONDS) -> Any:
        """Return the next message of the worker."""
        try:
            async with asyncio.timeout(seconds):
                return await self._line.receive()
        except (EOFError, ConnectionResetError):
            raise RuntimeError(f"{self.name} exited before it answered; see its error above") from None

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()


def _work(work: Callable[..., Coroutine[Any, Any, None]], connection: Connection, args: Sequence[object]) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))

    async def main() -> None:
        await work(Line(connection), *args)

    with contextlib.suppress(EOFError, ConnectionResetError):
        uvloop.run(main())


def settle_garbage() -> None:
    """Exclude what was imported from garbage collection, as a latency-sensitive program does."""
    gc.collect()
    gc.freeze()


class Counter:
    """A number in shared memory that one process increments and another reads, without locks."""

    def __init__(self) -> None:
        self.shared: Any = _SPAWN.Value("q", 0, lock=False)

    @property
    def value(self) -> int:
        return int(self.shared.value)


class RecordCounter(Observer):
    """Counts the runs that are recorded in history."""

    def __init__(self, shared: Any) -> None:
        self._shared = shared

    def recorded(self, records: Sequence[RunRecord]) -> None:
        self._shared.value += len(records)


async def until(reached: Callable[[], bool], seconds: float = ANSWER_SECONDS) -> None:
    """Wait for a condition that other processes bring about, by polling every 5 ms."""
    async with asyncio.timeout(seconds):
        while not reached():  # noqa: ASYNC110  # shared memory has no event
            await asyncio.sleep(0.005)


# ---------------------------------------------------------------- CPU


class Cpu:
    """CPU seconds used by some processes since this object was created, including their exited children."""

    def __init__(self, pids: Sequence[int], server: PostgresServer | None = None) -> None:
        self._processes = [psutil.Process(pid) for pid in pids]
        self._server = None if server is None else psutil.Process(server.pid)
        self._before = self._now()

    def _now(self) -> tuple[float, float]:
        replicas = sum(_used(process) for process in self._processes)
        server = 0.0
        if self._server is not None:
            server = _used(self._server)
            for child in self._server.children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    server += _used(child)
        return replicas, server

    def used(self) -> tuple[float, float]:
        """Return the CPU seconds of the processes and of Postgres."""
        now = self._now()
        return now[0] - self._before[0], now[1] - self._before[1]


def _used(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def use_cores(count: int) -> list[int]:
    """Bind this process and its future children to that many cores. Return the cores."""
    if not hasattr(os, "sched_setaffinity"):
        return []
    cores = sorted(os.sched_getaffinity(0))[: count or None]
    os.sched_setaffinity(0, cores)
    return cores


# ---------------------------------------------------------------- numbers


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that is not exceeded by at least ``share`` of the values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def spread(values: Sequence[float], digits: int = 3) -> dict[str, float]:
    """Return p50, p95, p99 and max."""
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    return {name: round(percentile(values, share), digits) for name, share in shares.items()} | {
        "max": round(max(values), digits)
    }
