"""Replicas as processes on a real Postgres: killed, suspended, and with clocks that are an hour wrong."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import AsyncExitStack, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from scheduledjob import Scheduler
from scheduledjob.domain.schedule.state import Outcome, RunRecord
from scheduledjob.domain.time.instants import SECOND
from scheduledjob.stores import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.postgres]

PATIENCE = 60.0
PROGRAM = "tests.engine.replica_program"


class Line(NamedTuple):
    what: str
    pid: int
    slug: str
    attempt: int
    at: int


class Stage:
    """The programs of one test, with one log and one database."""

    def __init__(self, dsn: str, directory: Path, stack: ExitStack) -> None:
        self.dsn = dsn
        self.log = directory / "log"
        self._stack = stack

    def start(self, **settings: Any) -> subprocess.Popen[bytes]:
        return self._stack.enter_context(_program(self.dsn, self.log, settings))

    def lines(self, what: str | None = None, pid: int | None = None) -> list[Line]:
        text = self.log.read_text() if self.log.exists() else ""
        lines = [
            Line(first, int(number), slug, int(attempt), int(at))
            for first, number, slug, attempt, at in (line.split() for line in text.splitlines())
        ]
        return [line for line in lines if what in {None, line.what} and pid in {None, line.pid}]

    async def until(self, enough: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not enough():  # noqa: ASYNC110  # what other processes do comes with no event
                await asyncio.sleep(0.02)

    async def ready(self, *programs: subprocess.Popen[bytes]) -> None:
        await self.until(lambda: all(self.lines("ready", program.pid) for program in programs))

    async def history(self) -> list[RunRecord]:
        store = open_store(self.dsn)
        await store.connect()
        try:
            return await store.history(limit=10_000)
        finally:
            await store.close()


@contextmanager
def _program(dsn: str, log: Path, settings: dict[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", PROGRAM, dsn, str(log), json.dumps(settings)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def stage(postgres_dsn: str, tmp_path: Path) -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(postgres_dsn, tmp_path, stack)


@pytest.fixture
async def client(postgres_dsn: str) -> AsyncIterator[Scheduler]:
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(Scheduler(postgres_dsn, execute=False))


async def emptied(client: Scheduler) -> None:
    async with asyncio.timeout(PATIENCE):
        while await client.slugs():  # noqa: ASYNC110  # what other processes do comes with no event
            await asyncio.sleep(0.05)


async def test_another_replica_recovers_the_runs_of_a_killed_one(stage: Stage, client: Scheduler) -> None:
    count = 300
    victim, other = (stage.start(lease=1.5, takes=0.15, capacity=20) for _ in range(2))
    await stage.ready(victim, other)
    await client.schedule_many({"slug": f"job-{n}", "kind": "job", "delay": 0.0} for n in range(count))
    await stage.until(lambda: len(stage.lines("start", victim.pid)) > 40)
    victim.kill()
    await emptied(client)

    records = {record.slug: record for record in await stage.history()}
    assert len(await stage.history()) == len(records) == count
    assert {record.outcome for record in records.values()} == {Outcome.SUCCEEDED}
    starts = stage.lines("start")
    assert len({(line.slug, line.attempt) for line in starts}) == len(starts), "an attempt was made twice"
    interrupted = {line.slug for line in stage.lines("start", victim.pid)} - {
        slug for slug, record in records.items() if f"-{victim.pid}-" in record.replica
    }
    assert interrupted
    for slug, record in records.items():
        assert record.attempt == max(line.attempt for line in starts if line.slug == slug)
        if slug in interrupted:
            assert record.attempt >= 2
            assert f"-{other.pid}-" in record.replica


async def test_a_replica_that_was_suspended_longer_than_its_lease_is_fenced(stage: Stage, client: Scheduler) -> None:
    victim = stage.start(lease=1.0, takes=0.6)
    await stage.ready(victim)
    await client.schedule("slow", "job", delay=0.0)
    await stage.until(lambda: bool(stage.lines("start", victim.pid)))
    victim.send_signal(signal.SIGSTOP)
    other = stage.start(lease=15.0)
    await stage.until(lambda: bool(stage.lines("end", other.pid)))
    await emptied(client)
    victim.send_signal(signal.SIGCONT)
    await stage.until(lambda: bool(stage.lines("fenced", victim.pid)))
    (record,) = await stage.history()
    assert (record.outcome, record.attempt) == (Outcome.SUCCEEDED, 2)
    assert f"-{other.pid}-" in record.replica
    assert [(line.pid, line.attempt) for line in stage.lines("start")] == [(victim.pid, 1), (other.pid, 2)]


@pytest.mark.parametrize("wrong", [3600.0, -3600.0])
async def test_a_wall_clock_that_is_an_hour_off_changes_nothing(stage: Stage, client: Scheduler, wrong: float) -> None:
    delays = {f"job-{n}": 0.2 + 0.05 * n for n in range(20)}
    replica = stage.start(clock=wrong, schedule=delays)
    await stage.ready(replica)
    await emptied(client)
    (ready,) = stage.lines("ready", replica.pid)
    slots = {record.slug: record.slot for record in await stage.history()}
    assert slots.keys() == delays.keys()
    for start in stage.lines("start"):
        assert start.at >= slots[start.slug]
        assert abs(start.at - ready.at) < 600 * SECOND
        assert abs(slots[start.slug] - ready.at) < 600 * SECOND


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_children_of_a_lost_replica_are_dead_before_another_starts(
    stage: Stage, client: Scheduler, tmp_path: Path, how: signal.Signals
) -> None:
    pids = tmp_path / "pids"
    command = f"""
        first=$(head -n 1 {pids} 2>/dev/null)
        if [ -n "$first" ] && kill -0 "$first" 2>/dev/null; then echo alive >> {pids}; fi
        echo $$ >> {pids}
        [ -n "$first" ] || exec sleep 1000
    """
    victim = stage.start(lease=1.5)
    await stage.ready(victim)
    await client.schedule("child", "shell", payload=command.encode(), delay=0.0)
    await stage.until(lambda: pids.exists() and pids.read_text().endswith("\n"))
    child = int(pids.read_text())
    other = stage.start()
    await stage.ready(other)
    victim.send_signal(how)
    await emptied(client)
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert "alive" not in pids.read_text()
    (record,) = await stage.history()
    assert (record.outcome, record.attempt) == (Outcome.SUCCEEDED, 2)
