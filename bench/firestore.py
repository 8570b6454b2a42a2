"""What Firestore would bill: documents written and read for a thousand due runs, and by an idle replica.

They are counted at Google's own client, against the emulator. The emulator's speed differs from Firestore's, so no time
is reported.
"""

from __future__ import annotations

import asyncio
import os

import pytest

from bench.common import Counter, Options, RecordCounter, until
from bench.report import Row
from scheduledjob import Scheduler, Task
from tests.stores.firestore.metering import Meter
from tests.support.firestore import any_firestore, new_target
from tests.support.processes import ServerUnavailableError

RUNS = 1000


async def cost(options: Options) -> list[Row]:
    """The whole engine, from the claim to the last record."""
    seconds = 15 if options.quick else 60
    try:
        with any_firestore() as host, pytest.MonkeyPatch.context() as patch:
            os.environ["FIRESTORE_EMULATOR_HOST"] = host
            meter = Meter()
            meter.install(patch)
            return await _cost(new_target(host).url, meter, seconds)
    except ServerUnavailableError as error:
        return [Row("Firestore cost", "<= 3 written, 2 read for each run", f"not measured: {error}"[:160], None)]


async def _cost(url: str, meter: Meter, seconds: float) -> list[Row]:
    async with Scheduler(url, execute=False) as client:
        for first in range(0, RUNS, 500):
            await client.schedule_many(
                [{"slug": f"job-{n}", "kind": "noop", "delay": 0.0} for n in range(first, first + 500)]
            )
    counter = Counter()
    scheduler = Scheduler(url, observer=RecordCounter(counter.shared))

    @scheduler.job("noop")
    async def noop(task: Task) -> Task:
        return task

    meter.reset()
    async with scheduler:
        await until(lambda: counter.value >= RUNS)
        written, read, deleted = meter.written / RUNS, meter.read / RUNS, meter.deleted / RUNS
        await asyncio.sleep(5.0)
        meter.reset()
        await asyncio.sleep(seconds)
        should_poll, idle_read, idle_written = meter.calls["run_query"], meter.read, meter.written
    return [
        Row(
            f"Firestore cost, {RUNS:,} due",
            "<= 3 written, 2 read for each run",
            f"{written:.2f} written, {read:.2f} read, {deleted:.2f} deleted",
            written <= 3 and read <= 2,
            details={"written": written, "read": read, "deleted": deleted},
        ),
        Row(
            "Firestore cost, idle replica",
            "<= 1 read for each poll",
            f"{idle_read} read, {idle_written} written in {should_poll} polls, {seconds:g} s",
            idle_read <= should_poll,
            details={"read": idle_read, "written": idle_written, "polls": should_poll, "seconds": seconds},
        ),
    ]
