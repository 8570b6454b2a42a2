"""The time from ``kubectl apply`` to the first start of an ``every: 1s`` job, at random moments within the second."""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import TYPE_CHECKING

from bench.cluster.world import world
from bench.common import Options, Worker, percentile, spread
from bench.manifests import http_server
from bench.report import Row

if TYPE_CHECKING:
    from bench.cluster.world import World

PATIENCE = 10.0


async def to_first_start(options: Options) -> list[Row]:
    applies = 8 if options.quick else 50
    started, applied = [], []
    async with (
        world() as some,
        some.operator("--inline-http-allow=127.0.0.1"),
        Worker(http_server) as sink,
    ):
        port = await sink.answer()
        for n in range(applies):
            await asyncio.sleep(random.uniform(0.0, 1.0))
            before, after, call = await _apply(some, sink, f"job-{n}", port)
            started.append(call - before)
            applied.append(call - after)
            await some.api.delete(f"{some.scheduled_jobs}/job-{n}")
    return [
        Row(
            f"kubectl apply (from its start) to the first start of `every: 1s`, {applies} times",
            "p99 < 1.2 s",
            f"p50 {percentile(started, 0.5):.2f}, p99 {percentile(started, 0.99):.2f} s; "
            f"after kubectl's end p99 {percentile(applied, 0.99):.2f} s",
            percentile(started, 0.99) < 1.2,
            details={"seconds from its start": spread(started), "seconds from its end": spread(applied)},
        )
    ]


async def _apply(some: World, sink: Worker, name: str, port: int) -> tuple[float, float, float]:
    """Return when kubectl started, when it ended, and when the job's first request arrived, in Unix seconds."""
    manifest = {
        "apiVersion": "scheduledjobs.dev/v1beta1",
        "kind": "ScheduledJob",
        "metadata": {"name": name},
        "spec": {"triggers": [{"every": "1s"}], "job": {"curl": {"url": f"http://127.0.0.1:{port}/{name}"}}},
    }
    before = time.time()
    await some.cluster.kubectl("apply", "-n", some.namespace, "-f", "-", input=json.dumps(manifest))
    after = time.time()
    async with asyncio.timeout(PATIENCE):
        while True:
            sink.tell()
            for path, at in await sink.answer():
                if path == f"/{name}":
                    return before, after, at
            await asyncio.sleep(0.05)
