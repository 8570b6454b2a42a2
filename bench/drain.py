"""Drain a backlog of no-op one-off runs that are all due, with history, and compare with pgqueuer.

Each side gets its own database on the same server, filled beforehand; our runs and the peer's alternate. The time of
both starts when a replica with its modules imported is told to start, so connecting counts. Ours ends when the store
has confirmed the record of the last run, and the peer's when its drain mode returns.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from bench.common import Counter, Cpu, Options, RecordCounter, Worker, ask, median, postgres, run, settle_garbage, until
from bench.peer import drain_peer, fill_peer
from bench.report import Row
from scheduledjob import Scheduler, Task

if TYPE_CHECKING:
    from bench.common import Line
    from tests.support.postgres import PostgresServer


async def replica(line: Line, dsn: str, shared: Any) -> None:
    """Execute due runs until told to stop."""
    scheduler = Scheduler(dsn, observer=RecordCounter(shared))

    @scheduler.job("noop")
    async def noop(task: Task) -> Task:
        return task

    settle_garbage()
    line.send()
    await line.receive()
    async with scheduler:
        await line.receive()


async def fill(dsn: str, runs: int) -> None:
    async with Scheduler(dsn, execute=False) as client:
        for first in range(0, runs, 10_000):
            await client.schedule_many(
                [{"slug": f"job-{n}", "kind": "noop", "delay": 0.0} for n in range(first, min(runs, first + 10_000))]
            )


async def drain_ours(server: PostgresServer, runs: int, replicas: int) -> dict[str, float]:
    dsn = server.new_database()
    await fill(dsn, runs)
    await run(dsn, "CHECKPOINT")
    counters = [Counter() for _ in range(replicas)]
    workers = [Worker(replica, dsn, counter.shared) for counter in counters]
    for worker in workers:
        await worker.__aenter__()
    for worker in workers:
        await worker.answer()
    cpu = Cpu([worker.pid for worker in workers], server)
    begun = time.perf_counter()
    for worker in workers:
        worker.tell()
    await until(lambda: sum(counter.value for counter in counters) >= runs)
    took = time.perf_counter() - begun
    used, server_used = cpu.used()
    for worker in workers:
        worker.tell()
        await worker.__aexit__()
    kept = await ask(dsn, "SELECT count(*) FROM scheduledjob.history WHERE outcome = 'Succeeded'")
    left = await ask(dsn, "SELECT count(*) FROM scheduledjob.schedule")
    server.drop_database(dsn)
    assert (kept, left) == (runs, 0), f"{kept} runs of {runs} in history, {left} schedules left"
    return _numbers(runs, took, used, server_used)


async def drain_theirs(server: PostgresServer, runs: int, replicas: int) -> dict[str, float]:
    dsn = server.new_database()
    await fill_peer(dsn, runs)
    await run(dsn, "CHECKPOINT")
    workers = [Worker(drain_peer, dsn) for _ in range(replicas)]
    for worker in workers:
        await worker.__aenter__()
    for worker in workers:
        await worker.answer()
    cpu = Cpu([worker.pid for worker in workers], server)
    begun = time.perf_counter()
    for worker in workers:
        worker.tell()
    ran = sum([await worker.answer() for worker in workers])
    took = time.perf_counter() - begun
    used, server_used = cpu.used()
    for worker in workers:
        await worker.__aexit__()
    kept = await ask(dsn, "SELECT count(*) FROM pgqueuer_log WHERE status = 'successful'")
    server.drop_database(dsn)
    assert ran == kept == runs, f"pgqueuer ran {ran} of {runs}, and logged {kept}"
    return _numbers(runs, took, used, server_used)


def _numbers(runs: int, took: float, used: float, server_used: float) -> dict[str, float]:
    return {
        "rate": round(runs / took),
        "replica CPU us for each": round(1e6 * used / runs, 1),
        "Postgres CPU us for each": round(1e6 * server_used / runs, 1),
    }


async def measure(options: Options, server: PostgresServer, runs: int, replicas: int, bar: float) -> Row:
    ours, theirs = [], []
    for _ in range(options.runs(3)):
        ours.append(await drain_ours(server, runs, replicas))
        theirs.append(await drain_theirs(server, runs, replicas))
    rate, peer = median([run["rate"] for run in ours]), median([run["rate"] for run in theirs])
    return Row(
        f"drain {runs:,} one-offs, {replicas} replica{'s' * (replicas > 1)}",
        f"{bar} times pgqueuer",
        f"{rate:,.0f}/s",
        rate / peer >= bar,
        f"{peer:,.0f}/s",
        round(rate / peer, 2),
        {"ours": ours, "pgqueuer": theirs},
    )


async def drain_one(options: Options) -> list[Row]:
    with postgres() as server:
        return [await measure(options, server, 20_000, 1, 1.5)]


async def drain_two(options: Options) -> list[Row]:
    with postgres() as server:
        return [await measure(options, server, 100_000, 2, 1.3)]
