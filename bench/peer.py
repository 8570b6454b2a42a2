"""pgqueuer, the fastest Python peer, set up as it recommends: pool driver, batches of 1,000, autovacuum settings."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode

from bench.common import settle_garbage

if TYPE_CHECKING:
    from pgqueuer.models import Job

    from bench.common import Line

BATCH = 1000


async def install_peer(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    queries = Queries(AsyncpgDriver(connection))
    await queries.install()
    await queries.optimize_autovacuum()
    await connection.close()


async def fill_peer(dsn: str, runs: int) -> None:
    await install_peer(dsn)
    connection = await asyncpg.connect(dsn)
    queries = Queries(AsyncpgDriver(connection))
    for first in range(0, runs, 10_000):
        count = min(10_000, runs - first)
        await queries.enqueue(["noop"] * count, [None] * count, [0] * count)
    await connection.close()


async def drain_peer(line: Line, dsn: str) -> None:
    """Execute due runs until none is left, and send how many it executed."""
    ran = 0
    settle_garbage()
    line.send()
    await line.receive()
    async with asyncpg.create_pool(dsn) as pool:
        queuer = PgQueuer(AsyncpgPoolDriver(pool))

        @queuer.entrypoint("noop")
        async def noop(job: Job) -> None:
            nonlocal ran
            ran += 1

        await queuer.run(batch_size=BATCH, mode=QueueExecutionMode.drain)
        line.send(ran)


async def schedule_peer(dsn: str, runs: int, delay: float) -> None:
    """Enqueue runs that are all due ``delay`` seconds from now. Without runs, install the tables instead."""
    if not runs:
        await install_peer(dsn)
        return
    connection = await asyncpg.connect(dsn)
    queries = Queries(AsyncpgDriver(connection))
    await queries.enqueue(["note"] * runs, [None] * runs, [0] * runs, [timedelta(seconds=delay)] * runs)
    await connection.close()


async def noting_peer(line: Line, dsn: str) -> None:
    """A worker that answers each message with the starts since the last one: (entry, due, start), in seconds."""
    starts: list[tuple[int, float, float]] = []
    settle_garbage()
    async with asyncpg.create_pool(dsn) as pool:
        queuer = PgQueuer(AsyncpgPoolDriver(pool))

        @queuer.entrypoint("note")
        async def note(job: Job) -> None:
            starts.append((job.id, job.execute_after.timestamp(), time.time()))

        running = asyncio.create_task(queuer.run(batch_size=BATCH))
        await asyncio.sleep(1.0)
        line.send()
        try:
            while True:
                await line.receive()
                line.send(starts[:])
                starts.clear()
        finally:
            queuer.shutdown.set()
            await running
