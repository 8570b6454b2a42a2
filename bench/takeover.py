"""Two replicas, one of which gets SIGKILL in the middle of ten thousand runs.

Most runs are short Python jobs. Some are shell jobs that take longer than the lease, so some of them are running on the
replica that is killed. The benchmark then checks history (each slot once, all succeeded), how long the runs of the dead
replica waited for the other one, and when the last process that the dead replica had started was gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import asyncpg
import psutil

from bench.common import Options, Worker, postgres, settle_garbage
from bench.punctual import in_time, instant, sleep_until
from bench.report import Row
from scheduledjob import Scheduler, ShellJob, Task
from scheduledjob.engine.observer import Observer

if TYPE_CHECKING:
    from bench.common import Line
    from scheduledjob.domain.time.instants import Instant, Micros
    from scheduledjob.engine.executor import Attempt

RUNS, SHELLS = 10_000, 40
SECONDS = 10.0
LEASE = 15.0
SLEEP = "sleep 20"


class Starts(Observer):
    """Records each started attempt: (slug, attempt, time)."""

    def __init__(self) -> None:
        self.noted: list[tuple[str, int, float]] = []

    def started(self, attempt: Attempt, due: Instant, late: Micros) -> None:
        self.noted.append((attempt.name, attempt.attempt, time.time()))


async def working_replica(line: Line, dsn: str) -> None:
    """Run a replica that reports starts immediately, because it may be killed."""
    starts = Starts()
    scheduler = Scheduler(dsn, lease=LEASE, observer=starts)

    @scheduler.job("short")
    async def short(task: Task) -> Task:
        await asyncio.sleep(0.02)
        return task

    scheduler.register(ShellJob())
    settle_garbage()
    async with scheduler:
        line.send()
        while True:
            await asyncio.sleep(0.02)
            if starts.noted:
                line.send(starts.noted[:])
                starts.noted.clear()


async def kill_one(options: Options) -> list[Row]:
    """Send SIGKILL to one replica after half of the time."""
    again: dict[str, float] = {}
    """The start times of second and later attempts, by slug."""

    async def follow(worker: Worker) -> None:
        with contextlib.suppress(RuntimeError):
            while True:
                again.update({slug: moment for slug, attempt, moment in await worker.answer() if attempt > 1})

    with postgres() as server:
        dsn = server.new_database()
        async with Worker(working_replica, dsn) as doomed, Worker(working_replica, dsn) as other:
            await doomed.answer()
            await other.answer()
            begin = time.time() + 5.0
            slots = {f"short-{n}": begin + n * SECONDS / RUNS for n in range(RUNS - SHELLS)}
            slots |= {f"shell-{n}": begin + n * SECONDS / SHELLS for n in range(SHELLS)}
            async with Scheduler(dsn, execute=False) as client:
                await client.schedule_many(
                    [
                        {
                            "slug": slug,
                            "kind": slug.partition("-")[0],
                            "at": instant(slot),
                            "payload": SLEEP.encode() if slug.startswith("shell") else None,
                        }
                        for slug, slot in slots.items()
                    ]
                )
                in_time(begin)
                following = [asyncio.create_task(follow(worker)) for worker in (doomed, other)]
                await sleep_until(begin + SECONDS / 2)
                orphans = psutil.Process(doomed.pid).children(recursive=True)
                shells = sum(_is_job(process) for process in orphans)
                doomed.kill()
                killed = time.time()
                gone = await _all_gone(orphans, killed)
                async with asyncio.timeout(LEASE + 60):
                    while await client.slugs():  # noqa: ASYNC110  # only the store knows
                        await asyncio.sleep(0.25)
                for task in following:
                    task.cancel()
        records = await _history(dsn)
    ended = [record for record in records if record["outcome"] == "Succeeded"]
    gap = max((moment - max(killed, slots[slug]) for slug, moment in again.items()), default=0.0)
    late = max(record["started"] / 1e6 - slots[record["slug"]] for record in records if record["attempt"] == 1)
    whole = len(ended) == len(records) == len({record["slug"] for record in records}) == RUNS
    return [
        Row(
            f"SIGKILL of one of two replicas amid {RUNS:,} runs",
            f"every slot once, taken over < {LEASE + 1:g} s, no child left after {LEASE:g} s",
            f"{len(ended):,} ended once; {len(again)} started again, the last {gap:.1f} s after; "
            f"{shells} shell jobs of the dead one gone after {gone:.2f} s",
            whole and max(gap, late) < LEASE + 1 and gone < LEASE and shells > 0,
            details={
                "records": len(records),
                "succeeded": len(ended),
                "started again": len(again),
                "longest wait after the kill s": round(gap, 2),
                "latest first attempt s": round(late, 2),
                "shell jobs of the dead one": shells,
                "its last process gone after s": round(gone, 3),
            },
        )
    ]


def _is_job(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.name() == "sleep"
    return False


async def _all_gone(processes: list[psutil.Process], killed: float) -> float:
    """Return the seconds from the kill until none of them runs, at most a minute."""
    while time.time() < killed + 60:
        if not any(_alive(process) for process in processes):
            break
        await asyncio.sleep(0.01)
    return time.time() - killed


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


async def _history(dsn: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetch("SELECT slug, slot, started, attempt, outcome FROM scheduledjob.history")
    finally:
        await connection.close()
