"""How much 10,000 due runs of one tenant delay a lone run of another.

The runs of the backlog are all due in one instant. Lone runs are due while the replica works the backlog off: some are
stored beforehand, so that they are claimed ahead of time, and some are scheduled to run at once. The same lone runs
without a backlog are the comparison.
"""

from __future__ import annotations

import asyncio
import time

from bench.common import Options, Worker, postgres, spread
from bench.noting import Lateness, Start, lateness, noting_replica
from bench.punctual import in_time, instant, sleep_until
from bench.report import Row
from scheduledjob import Scheduler

BACKLOG = 10_000
LONE = 10
"""Lone runs of each sort in each backlog."""
APART = 0.03
"""Seconds from one lone run to the next."""


async def delay_of_a_lone_run(options: Options) -> list[Row]:
    """Lone runs beside a backlog of another tenant, and without it."""
    planned: dict[bool, list[Start]] = {True: [], False: []}
    at_once: dict[bool, list[float]] = {True: [], False: []}
    expected: dict[bool, set[tuple[str, int]]] = {True: set(), False: set()}
    with postgres() as server:
        dsn = server.new_database()
        async with Worker(noting_replica, dsn, {}) as replica, Scheduler(dsn, execute=False) as client:
            await replica.answer()
            for number in range(options.runs(20)):
                for busy in (True, False):
                    begin = time.time() + 4.0
                    if busy:
                        await client.schedule_many(
                            [
                                {"slug": f"hog-{number}-{n}", "kind": "note", "at": instant(begin), "tenant": "hog"}
                                for n in range(BACKLOG)
                            ]
                        )
                    slots = {f"planned-{number}-{busy}-{n}": begin + 0.02 + n * APART for n in range(LONE)}
                    await client.schedule_many(
                        [
                            {"slug": slug, "kind": "note", "at": instant(slot), "tenant": "lone"}
                            for slug, slot in slots.items()
                        ]
                    )
                    expected[busy] |= {(slug, round(slot * 1e6)) for slug, slot in slots.items()}
                    in_time(begin)
                    await sleep_until(begin - 3 * APART)
                    for n in range(3):  # what stood still for seconds takes some 50 ms for its first call
                        await client.schedule(f"before-{number}-{busy}-{n}", "note", delay=0.0, tenant="lone")
                    scheduled: dict[str, float] = {}
                    for n in range(LONE):
                        await sleep_until(begin + 0.035 + n * APART)
                        slug = f"at-once-{number}-{busy}-{n}"
                        scheduled[slug] = time.time()
                        await client.schedule(slug, "note", delay=0.0, tenant="lone")
                    await asyncio.sleep(3.0)
                    replica.tell()
                    starts: list[Start] = await replica.answer()
                    planned[busy] += starts
                    at_once[busy] += [
                        1000 * (began - scheduled[slug]) for slug, _, began in starts if slug in scheduled
                    ]
    beside, alone = (lateness(planned[busy], expected[busy]) for busy in (True, False))
    return [
        _row("stored beforehand", beside.late, alone.late, beside),
        _row("scheduled to run at once", spread(at_once[True]), spread(at_once[False])),
    ]


def _row(what: str, beside: dict[str, float], alone: dict[str, float], judged: Lateness | None = None) -> Row:
    delay = beside["p99"] - alone["p50"]
    return Row(
        f"a lone run, {what}, beside {BACKLOG:,} due runs of another tenant: delay at p99",
        "< 50 ms",
        f"{delay:.1f} ms",
        delay < 50 and (judged is None or judged.whole),
        details={"beside ms": beside, "alone ms": alone},
    )
