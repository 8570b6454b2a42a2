"""The speed of the Postgres store without an engine: claim and settle due one-off rows, with no job between.

The drain benchmark can't be faster than this; the difference is what the engine adds. Run it as
``python -m bench.postgres_floor``. ``--profile`` shows where Python spends its time, ``--explain`` the server's plans.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import cProfile
import pstats
import time

import psutil
import uvloop

from scheduledjob.domain.schedule.state import Outcome, Run, RunRecord, State, run_id
from scheduledjob.domain.time.instants import DAY, SECOND
from scheduledjob.engine.stored_row import Disposition, NewRow, Origin, Row, Settlement
from scheduledjob.stores.postgres import PostgresStore
from tests.support.postgres import PostgresServer

REPLICA = "bench-replica"
AHEAD = SECOND // 2
LEASE = 15 * SECOND


def desired_rows(count: int, now: int, *, offset: int = 0) -> list[NewRow]:
    state = State(decided_until=now, next=Run(slot=now + offset, due=now + offset)).encode()
    return [
        NewRow(f"job-{n:07}", f"uid-{n:07}", "noop", Origin.LIBRARY, "", state, now + offset, created_at=now)
        for n in range(count)
    ]


def completed(row: Row, now: int) -> Settlement:
    state = State.decode(row.state)
    run = state.next
    assert run is not None
    record = RunRecord(
        run_id(row.uid, run), row.uid, row.slug, run.slot, now, now, 1, Outcome.SUCCEEDED, replica=REPLICA,
        expires=now + 7 * DAY,
    )  # fmt: skip
    return Settlement(row.key, row.version, Disposition.REMOVE, row.state, None, row.revision, [record])


async def drain(store: PostgresStore, batch: int, writers: int) -> int:
    """Claim and settle until nothing is due. Return the number of rows."""
    full: asyncio.Queue[list[Settlement] | None] = asyncio.Queue(writers)
    done = 0

    async def write() -> None:
        nonlocal done
        while (settlements := await full.get()) is not None:
            settled = sum(map(bool, await store.settle(REPLICA, settlements)))
            done += settled

    async with asyncio.TaskGroup() as tasks:
        for _ in range(writers):
            tasks.create_task(write())
        while True:
            claimed = await store.claim(REPLICA, ["noop", "shell", "curl"], limit=batch, ahead=AHEAD, lease=LEASE)
            if not claimed.rows:
                break
            await full.put([completed(row, claimed.now) for row in claimed.rows])
        for _ in range(writers):
            await full.put(None)
    return done


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def server_seconds(server: PostgresServer) -> float:
    """Return the CPU seconds of the server's processes, which outlive the measurement."""
    total = 0.0
    for process in psutil.Process(server.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            used = process.cpu_times()
            total += used.user + used.system
    return total


async def bench(arguments: argparse.Namespace, server: PostgresServer) -> None:
    store = PostgresStore(server.dsn)
    await store.connect()
    for attempt in range(arguments.repeat):
        started = time.perf_counter()
        await store.put(desired_rows(arguments.rows, await store.now()), replace=False)
        put = time.perf_counter() - started
        with cProfile.Profile() if arguments.profile else contextlib.nullcontext() as profile:
            ours, theirs = time.process_time(), server_seconds(server)
            started = time.perf_counter()
            done = await drain(store, arguments.batch, arguments.writers)
            took = time.perf_counter() - started
            ours, theirs = time.process_time() - ours, server_seconds(server) - theirs
        print(
            f"{attempt}: put {arguments.rows / put:9,.0f}/s   drain {done / took:9,.0f}/s   "
            f"CPU for each row: Python {1e6 * ours / done:.1f} us, Postgres {1e6 * theirs / done:.1f} us"
        )
        assert done == arguments.rows, f"{done} rows of {arguments.rows} were run"
        if profile is not None:
            pstats.Stats(profile).sort_stats("tottime").print_stats(18)
    if arguments.stored:
        await store.put(desired_rows(arguments.stored, await store.now(), offset=DAY), replace=False)
        idle: list[float] = []
        busy: list[float] = []
        for n in range(500):
            if n % 2:
                late = desired_rows(20, await store.now())
                for desired in late:
                    desired.slug = f"due-{n}-{desired.slug}"
                await store.put(late, replace=False)
            started = time.perf_counter()
            claimed = await store.claim(REPLICA, ["noop", "shell", "curl"], limit=500, ahead=AHEAD, lease=LEASE)
            (busy if claimed.rows else idle).append(1000 * (time.perf_counter() - started))
            await store.settle(REPLICA, [completed(row, claimed.now) for row in claimed.rows])
        for name, times in (("nothing due", idle), ("20 due", busy)):
            print(
                f"claim, {arguments.stored:,} stored, {name}: p50 {percentile(times, 0.5):.2f} ms, "
                f"p99 {percentile(times, 0.99):.2f} ms, max {max(times):.2f} ms"
            )
    await store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--writers", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument(
        "--stored",
        type=int,
        default=0,
        help="rows that are not due while claims are measured",
    )
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--explain", action="store_true")
    arguments = parser.parse_args()
    settings = {"shared_buffers": "256MB", "max_wal_size": "4GB"}
    if arguments.explain:
        settings |= {
            "shared_preload_libraries": "auto_explain",
            "auto_explain.log_min_duration": "3ms",
            "auto_explain.log_analyze": "on",
            "auto_explain.log_buffers": "on",
            "auto_explain.log_nested_statements": "on",
        }
    with PostgresServer(durable=True, settings=settings) as server:
        uvloop.run(bench(arguments, server))
        if arguments.explain:
            print(server.log.read_text())


if __name__ == "__main__":
    main()
