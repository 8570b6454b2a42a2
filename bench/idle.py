"""How fast an idle replica starts new work, and what an idle replica costs."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

import asyncpg
import psutil
from pgqueuer.db import AsyncpgPoolDriver
from pgqueuer.queries import Queries

from bench.common import Cpu, Options, Worker, postgres, settle_garbage, spread
from bench.noting import Start, noting_replica, scheduler_with
from bench.peer import noting_peer, schedule_peer
from bench.report import Row
from scheduledjob import Scheduler

if TYPE_CHECKING:
    from bench.common import Line

DAY = 86_400.0
MIB = 1024 * 1024


async def insert_to_start(options: Options) -> list[Row]:
    """The time from scheduling in this process to the start in another one, alternating with pgqueuer."""
    count = 50 if options.quick else 500
    called: dict[str, float] = {}
    their_calls: list[float] = []
    with postgres() as server:
        mine, other = server.new_database(), server.new_database()
        await schedule_peer(other, 0, 0.0)
        async with (
            Worker(noting_replica, mine, {}) as replica,
            Worker(noting_peer, other) as peer,
            Scheduler(mine, execute=False) as client,
            asyncpg.create_pool(other, min_size=1) as pool,
        ):
            await replica.answer()
            await peer.answer()
            queue = Queries(AsyncpgPoolDriver(pool))
            for number in range(count + 5):
                await asyncio.sleep(random.uniform(0.03, 0.06))
                called[f"job-{number}"] = time.time()
                await client.schedule(f"job-{number}", "note", delay=0.0)
                await asyncio.sleep(random.uniform(0.03, 0.06))
                their_calls.append(time.time())
                await queue.enqueue("note", None)
            await asyncio.sleep(0.5)
            replica.tell()
            peer.tell()
            starts: list[Start] = await replica.answer()
            their_starts = sorted(began for _, _, began in await peer.answer())
    # The first few samples include connecting.
    ours = spread([1000 * (began - called[slug]) for slug, _, began in starts if int(slug[4:]) >= 5])
    theirs = spread([1000 * (began - call) for began, call in zip(their_starts, their_calls, strict=True)][5:])
    return [
        Row(
            "insert to start, idle",
            "p50 < 2.5 ms, p99 < 5 ms",
            f"p50 {ours['p50']:.2f}, p99 {ours['p99']:.2f} ms",
            ours["p50"] < 2.5 and ours["p99"] < 5 and len(starts) == count + 5,
            f"p50 {theirs['p50']:.2f}, p99 {theirs['p99']:.2f} ms",
            round(theirs["p50"] / ours["p50"], 2),
            {"ours ms": ours, "pgqueuer ms": theirs, "samples": count},
        )
    ]


async def idle_replica(options: Options) -> list[Row]:
    """The CPU time and memory of a replica on a store with 100,000 schedules, none of them due."""
    schedules, seconds = 100_000, 10 if options.quick else 60
    with postgres() as server:
        dsn = server.new_database()
        async with Worker(noting_replica, dsn, {}) as replica:
            await replica.answer()
            async with Scheduler(dsn, execute=False) as client:
                for first in range(0, schedules, 10_000):
                    await client.schedule_many(
                        [{"slug": f"job-{n}", "kind": "note", "delay": DAY} for n in range(first, first + 10_000)]
                    )
            await asyncio.sleep(3.0)
            cpu = Cpu([replica.pid])
            await asyncio.sleep(seconds)
            share = 100 * cpu.used()[0] / seconds
            rss = psutil.Process(replica.pid).memory_info().rss / MIB
    return [
        Row(
            f"idle replica, {schedules:,} schedules stored",
            "< 2 % of a core, < 150 MiB",
            f"{share:.2f} %, {rss:.0f} MiB",
            share < 2 and rss < 150,
            details={"CPU %": round(share, 3), "RSS MiB": round(rss, 1), "seconds": seconds},
        )
    ]


async def memory(options: Options) -> list[Row]:
    """The memory that each schedule adds to a process with the memory store."""
    schedules = 10_000 if options.quick else 100_000
    async with Worker(memory_holder, schedules) as holder:
        before, after = await holder.answer()
    each = (after - before) / schedules
    return [
        Row(
            "memory for each schedule held, memory store",
            "-",
            f"{each:,.0f} bytes",
            None,
            details={"schedules": schedules, "before MiB": before / MIB, "after MiB": after / MIB},
        )
    ]


async def memory_holder(line: Line, schedules: int) -> None:
    process = psutil.Process()
    async with scheduler_with("memory:", []) as scheduler:
        settle_garbage()
        before = process.memory_info().rss
        for first in range(0, schedules, 1000):
            await scheduler.schedule_many(
                [{"slug": f"job-{n}", "kind": "note", "delay": DAY} for n in range(first, first + 1000)]
            )
        line.send((before, process.memory_info().rss))
