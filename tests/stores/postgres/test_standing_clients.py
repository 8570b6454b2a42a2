"""Real replicas beside real clients that stand still: no run is fenced because of them."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
import pytest

from scheduledjob.domain.time.instants import HOUR
from scheduledjob.engine.executor import Attempt, Result
from scheduledjob.stores.postgres import PostgresStore
from tests.engine.support import Jobs, Watcher, put, replica_of, running
from tests.stores.support import desired, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.postgres

LEASE = 6.0
RUNS = 50
SLUGS = [f"ns/job-{n:02}" for n in range(RUNS)]
RENEWALS = "SELECT count(*) FROM scheduledjob.schedule WHERE owner IS NOT NULL AND wake_at > $1 AND slug = ANY($2)"
LOCK = "SELECT 1 FROM scheduledjob.schedule WHERE slug = $1 FOR UPDATE"
BACKENDS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"

CLIENT = """
import asyncio, sys
import asyncpg
from scheduledjob.stores.postgres.connections import PostgresServer
from scheduledjob.stores.postgres.address import parse_address

async def main():
    connection = await PostgresServer(parse_address(sys.argv[1]), 10.0).open()
    await connection.execute("BEGIN")
    await connection.execute("UPDATE scheduledjob.schedule SET revision = revision + 1 WHERE slug = 'ns/job-07'")
    await connection.execute("SELECT 1 FROM scheduledjob.replica FOR SHARE")
    print("locked", flush=True)
    await asyncio.sleep(1000)

asyncio.run(main())
"""


class Gate:
    """Jobs that run until the gate opens."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def __call__(self, attempt: Attempt) -> Result:
        await self.open.wait()
        return Result(True)


@asynccontextmanager
async def running_jobs(store: PostgresStore, slugs: list[str]) -> AsyncIterator[tuple[Gate, Watcher, Jobs]]:
    """Within, a replica runs these jobs, which end when the gate opens."""
    gate, seen = Gate(), Watcher()
    jobs = Jobs(gate)
    await put(store, *slugs)
    async with running(replica_of(store, jobs, observer=seen, lease=LEASE)):
        for _ in slugs:
            await jobs.begun.get()
        yield gate, seen, jobs


async def all_renewed(store: PostgresStore, connection: asyncpg.Connection[asyncpg.Record], slugs: list[str]) -> None:
    """Wait until each of these rows was renewed after now."""
    end = await store.now() + round(LEASE * 1_000_000)

    async def renewed() -> bool:
        return bool(await connection.fetchval(RENEWALS, end, slugs) == len(slugs))

    await until(renewed)


async def test_a_lock_on_one_running_schedule_fences_no_run(
    store: PostgresStore, connection: asyncpg.Connection[asyncpg.Record], postgres_dsn: str
) -> None:
    async with running_jobs(store, SLUGS) as (gate, seen, _):
        client = await asyncpg.connect(postgres_dsn)
        transaction = client.transaction()
        await transaction.start()
        await client.execute(LOCK, SLUGS[7])
        await all_renewed(store, connection, [slug for slug in SLUGS if slug != SLUGS[7]])
        client.terminate()
        await all_renewed(store, connection, SLUGS)
        gate.open.set()
        await seen.until_recorded(RUNS)
    assert not [event for event in seen.events if event[0] == "fenced"]


async def test_a_client_that_is_suspended_in_a_transaction_fences_no_run(
    store: PostgresStore, connection: asyncpg.Connection[asyncpg.Record], postgres_dsn: str
) -> None:
    async with running_jobs(store, SLUGS) as (gate, seen, jobs):
        client = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CLIENT, postgres_dsn, stdout=asyncio.subprocess.PIPE
        )
        assert client.stdout is not None
        try:
            assert await client.stdout.readline() == b"locked\n"
            client.send_signal(signal.SIGSTOP)
            # The server ends its session, so its row is renewed while it is still suspended.
            await all_renewed(store, connection, SLUGS)
            await put(store, "ns/another")
            await jobs.begun.get()
            gate.open.set()
            await seen.until_recorded(RUNS + 1)
        finally:
            client.kill()
            await client.wait()
    assert not [event for event in seen.events if event[0] == "fenced"]


async def test_clients_that_pile_up_leave_connections_for_replicas(
    store: PostgresStore, connection: asyncpg.Connection[asyncpg.Record], postgres_dsn: str
) -> None:
    """Each gives up and comes again, while one of them stands still."""
    clients = [PostgresStore(postgres_dsn, timeout=0.3) for _ in range(10)]
    for client in clients:
        await client.connect()
    async with running_jobs(store, SLUGS[:5]) as (gate, seen, _):
        standing = await asyncpg.connect(postgres_dsn)
        transaction = standing.transaction()
        await transaction.start()
        await standing.execute(LOCK, SLUGS[3])
        most = 0
        for number in range(8):
            rows = [desired(SLUGS[3], HOUR, payload=str(number).encode())]
            await asyncio.gather(*(client.put(rows, replace=True) for client in clients), return_exceptions=True)
            most = max(most, await connection.fetchval(BACKENDS))
        standing.terminate()
        gate.open.set()
        await seen.until_recorded(5)
    for client in clients:
        await client.close()
    assert most <= 3 * len(clients) + 10
    # The locked row can't be renewed; on a slow machine, that is longer than its lease.
    assert not [event for event in seen.events if event[0] == "fenced" and event[1] != SLUGS[3]]


@pytest.mark.parametrize("table", ["history", "hook_call", "installation", "lock", "presence", "replica", "tombstone"])
async def test_locked_rows_of_other_tables_hold_up_nothing(
    store: PostgresStore, connection: asyncpg.Connection[asyncpg.Record], table: str
) -> None:
    slugs = SLUGS[:3]
    async with running_jobs(store, slugs) as (gate, seen, jobs), connection.transaction():
        await connection.execute(f"SELECT 1 FROM scheduledjob.{table} FOR UPDATE")
        await put(store, "ns/later")
        assert (await jobs.begun.get()).slug == "ns/later"
        gate.open.set()
        await seen.until_recorded(len(slugs) + 1)
    assert not [event for event in seen.events if event[0] == "fenced"]


async def test_a_record_that_the_server_refuses_holds_up_no_other(
    store: PostgresStore, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    await connection.execute("ALTER TABLE scheduledjob.history ADD CONSTRAINT refused CHECK (slug <> 'ns/job-03')")
    slugs = SLUGS[:10]
    async with running_jobs(store, slugs) as (gate, seen, jobs):
        gate.open.set()
        await seen.until_recorded(len(slugs) - 1)
        assert "ns/job-03" not in {record.slug for record in seen.records}
        await connection.execute("ALTER TABLE scheduledjob.history DROP CONSTRAINT refused")
        await seen.until_recorded(len(slugs))
        assert jobs.begun.empty(), "no run is repeated"
    assert not [event for event in seen.events if event[0] == "fenced"]
