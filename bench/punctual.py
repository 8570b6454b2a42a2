"""The lateness of starts: a thousand in one instant, two thousand a second, and recurring schedules.

All schedules are stored beforehand. Lateness is measured inside the job, see ``noting``.
"""

from __future__ import annotations

import asyncio
import math
import time
from datetime import UTC, datetime, timedelta

from bench.common import Cpu, Options, Worker, median, postgres
from bench.noting import Start, lateness, noting_replica, scheduler_with
from bench.peer import noting_peer, schedule_peer
from bench.report import Row
from scheduledjob import Scheduler

BURST = 1000
RATE = 2000


def instant(moment: float) -> datetime:
    """Convert seconds since 1970 to an aware datetime with microseconds."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=round(moment * 1e6))


async def sleep_until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.time()))


def in_time(moment: float) -> None:
    """Raise an error if preparations took too long, so that they are not reported as lateness."""
    if time.time() > moment - 0.5:
        raise RuntimeError("storing the schedules took longer than planned: the machine is too busy")


async def one_instant(options: Options) -> list[Row]:
    """A thousand one-offs due in one instant, alternating with pgqueuer."""
    ours, theirs = [], []
    with postgres() as server:
        mine, other = server.new_database(), server.new_database()
        await schedule_peer(other, 0, 0.0)
        async with Worker(noting_replica, mine, {}) as replica, Worker(noting_peer, other) as peer:
            await replica.answer()
            await peer.answer()
            async with Scheduler(mine, execute=False) as client:
                for number in range(options.runs(7)):
                    due = time.time() + 3.0
                    await client.schedule_many(
                        [{"slug": f"{number}-{n}", "kind": "note", "at": instant(due)} for n in range(BURST)]
                    )
                    await sleep_until(due + 2.0)
                    replica.tell()
                    starts: list[Start] = await replica.answer()
                    expected = {(f"{number}-{n}", round(due * 1e6)) for n in range(BURST)}
                    ours.append(lateness(starts, expected))
                    await schedule_peer(other, BURST, 3.0)
                    await asyncio.sleep(5.0)
                    peer.tell()
                    late = [1000 * (began - due) for _, due, began in await peer.answer()]
                    theirs.append(max(late) if len(late) == BURST else math.inf)
    last, their_last = median([burst.late["max"] for burst in ours]), median(theirs)
    return [
        Row(
            f"{BURST:,} one-offs due at one instant: last start",
            "< 30 ms",
            f"{last:.1f} ms",
            last < 30 and all(burst.whole for burst in ours),
            f"{their_last:.1f} ms",
            round(their_last / last, 2),
            {"ours": [burst.details() for burst in ours], "pgqueuer last ms": theirs},
        )
    ]


async def spread_evenly(options: Options) -> list[Row]:
    """One-offs spread evenly over a minute."""
    seconds = 10 if options.quick else 60
    runs = RATE * seconds
    with postgres() as server:
        dsn = server.new_database()
        async with Worker(noting_replica, dsn, {}) as replica:
            await replica.answer()
            begin = math.ceil(time.time() + 5 + runs / 8000)
            slots = [begin * 1_000_000 + n * 1_000_000 // RATE for n in range(runs)]
            async with Scheduler(dsn, execute=False) as client:
                for first in range(0, runs, 5000):
                    some = range(first, min(first + 5000, runs))
                    await client.schedule_many(
                        [{"slug": f"job-{n}", "kind": "note", "at": instant(slots[n] / 1e6)} for n in some]
                    )
            in_time(begin)
            await sleep_until(begin)
            cpu = Cpu([replica.pid], server)
            await asyncio.sleep(seconds)
            used, server_used = cpu.used()
            await asyncio.sleep(2.0)
            replica.tell()
            judged = lateness(await replica.answer(), {(f"job-{n}", slot) for n, slot in enumerate(slots)})
    return [
        Row(
            f"{RATE:,} starts/s, spread evenly, {seconds} s",
            "p50 < 1 ms, p99 < 5 ms, none early, missed, doubled",
            str(judged),
            judged.late["p50"] < 1 and judged.late["p99"] < 5 and judged.whole,
            details=judged.details() | cores(used, server_used, seconds),
        )
    ]


def cores(used: float, server_used: float, seconds: float) -> dict[str, float]:
    return {
        "replica CPU %": round(100 * used / seconds, 1),
        "Postgres CPU %": round(100 * server_used / seconds, 1),
    }


async def recurring(options: Options) -> list[Row]:
    """Schedules that are all due in the same second, every ten seconds."""
    rows, rounds = [], 2 if options.quick else 6
    for schedules in (1000, 5000):
        with postgres() as server:
            dsn = server.new_database()
            async with Worker(noting_replica, dsn, {"capacity": 8192}) as replica:
                await replica.answer()
                async with scheduler_with(dsn, [], execute=False) as client:
                    await client.schedule_many([{"slug": f"job-{n}", "kind": "ten"} for n in range(schedules)])
                begin = math.ceil((time.time() + 2) / 10) * 10
                await sleep_until(begin - 1)
                cpu = Cpu([replica.pid], server)
                await asyncio.sleep(10 * rounds)
                used, server_used = cpu.used()
                replica.tell()
                expected = {
                    (f"job-{n}", (begin + 10 * number) * 1_000_000)
                    for n in range(schedules)
                    for number in range(rounds)
                }
                judged = lateness(await replica.answer(), expected)
        rows.append(
            Row(
                f"{schedules:,} schedules, all due every 10 s",
                "none early, missed, doubled",
                str(judged),
                judged.whole,
                details=judged.details() | cores(used, server_used, 10 * rounds),
            )
        )
    return rows
