"""The duration of a claim while a million schedules are stored."""

from __future__ import annotations

import time

from bench.common import Options, postgres, run, spread
from bench.postgres_floor import AHEAD, LEASE, REPLICA, completed, desired_rows
from bench.report import Row
from scheduledjob.domain.time.instants import DAY
from scheduledjob.stores.postgres import PostgresStore

DUE = 20


async def claim_latency(options: Options) -> list[Row]:
    """Claims that find nothing, alternating with claims that find 20."""
    stored, claims = (100_000, 200) if options.quick else (1_000_000, 1000)
    idle: list[float] = []
    busy: list[float] = []
    with postgres() as server:
        dsn = server.new_database()
        store = PostgresStore(dsn)
        await store.connect()
        for first in range(0, stored, 10_000):
            far = desired_rows(10_000, await store.now(), offset=DAY)
            for offset, desired in enumerate(far):
                desired.slug = f"far-{first + offset}"
            await store.put(far, replace=False)
        await run(dsn, "VACUUM ANALYZE scheduledjob.schedule")
        await run(dsn, "CHECKPOINT")
        for number in range(claims):
            if number % 2:
                due = desired_rows(DUE, await store.now())
                for desired in due:
                    desired.slug = f"due-{number}-{desired.slug}"
                await store.put(due, replace=False)
            began = time.perf_counter()
            claimed = await store.claim(REPLICA, ["noop", "shell", "curl"], limit=500, ahead=AHEAD, lease=LEASE)
            took = 1000 * (time.perf_counter() - began)
            (busy if claimed.rows else idle).append(took)
            await store.settle(REPLICA, [completed(row, claimed.now) for row in claimed.rows])
        await store.close()
    nothing, some = spread(idle), spread(busy)
    worst = max(nothing["p99"], some["p99"])
    return [
        Row(
            f"claim, {stored:,} schedules stored",
            "p99 < 5 ms",
            f"nothing due: p50 {nothing['p50']:.2f}, p99 {nothing['p99']:.2f} ms; "
            f"{DUE} due: p50 {some['p50']:.2f}, p99 {some['p99']:.2f} ms",
            worst < 5,
            details={"nothing due ms": nothing, f"{DUE} due ms": some, "claims": claims},
        )
    ]
