"""An operator that restarts with ten thousand ScheduledJobs: time until ready, memory, and writes."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import psutil

from bench.cluster.world import settled, world
from bench.report import Row

if TYPE_CHECKING:
    from collections import Counter

    from bench.common import Options

WRITES = ("POST", "PUT", "PATCH", "DELETE", "APPLY")
RESOURCES = ("scheduledjobs", "events", "pods")
"""The resources that an operator writes. Nothing else writes them here."""
OBSERVED_SECONDS = 75.0
"""How long the operator is observed once it is ready. This includes a resync."""


async def restarted(options: Options) -> list[Row]:
    objects = 1000 if options.quick else 10_000
    spec = {
        "triggers": [{"cron": "0 30 2 1 1 ? 2099"}],
        "job": {"curl": {"url": "http://example.com/", "headers": {"X-Report": "nightly"}}},
        "retry": {"maxRetries": 3, "exponential": {"initial": "10s", "max": "5m"}},
    }
    async with world() as some:
        async with some.operator("--status-budget=10000") as before:
            await some.create({f"job-{n}": spec for n in range(objects)})
            await settled(before, objects)
        await asyncio.sleep(5)
        counted = await some.requests(*RESOURCES)
        process = some.operator()
        began = time.monotonic()
        await process.start()
        try:
            await process.ready()
            ready = time.monotonic() - began
            at_first = psutil.Process(process.pid).memory_info().rss / 2**20
            held = await process.metric("scheduledjob_schedules")
            most = at_first
            until = time.monotonic() + (20 if options.quick else OBSERVED_SECONDS)
            while time.monotonic() < until:
                most = max(most, psutil.Process(process.pid).memory_info().rss / 2**20)
                await asyncio.sleep(0.2)
            writes = _writes(await some.requests(*RESOURCES) - counted)
            asked_for = await process.metric("scheduledjob_api_requests_total")
            dirty = await process.metric("scheduledjob_status_dirty")
        finally:
            await process.stop()
    return [
        Row(
            f"{objects:,} ScheduledJobs held, operator restarted",
            "ready in 15 s, < 200 MiB, no write",
            f"ready in {ready:.1f} s, {most:.0f} MiB, {writes} writes",
            ready < 15 and most < 200 and writes == 0 and held == objects and dirty == 0,
            details={
                "ready s": round(ready, 2),
                "MiB when ready": round(at_first, 1),
                "most MiB": round(most, 1),
                "objects": held,
                "its requests": asked_for,
            },
        )
    ]


def _writes(requests: Counter[str]) -> int:
    return sum(requests[verb] for verb in WRITES)
