"""The schema is migrated once, by any replica, and second halves wait for older replicas."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from scheduledjob.domain.time.instants import HOUR
from scheduledjob.engine.store import ReplicaInfo, StoreError
from scheduledjob.stores.postgres import PostgresStore
from scheduledjob.stores.postgres.migrations import DEAD_AFTER, OWN, SCHEMA_VERSION, Half, halves, migrate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from scheduledjob.stores.postgres.connections import Connection

pytestmark = pytest.mark.postgres

NEXT = SCHEMA_VERSION + 1
PRE = Half(NEXT, False, f"{NEXT:04}_pre_a_column", "ALTER TABLE scheduledjob.schedule ADD COLUMN new integer")
POST = Half(NEXT, True, f"{NEXT:04}_post_a_column", "ALTER TABLE scheduledjob.schedule DROP COLUMN result")
LATER = [*OWN, PRE, POST]


@pytest.fixture
async def store(postgres_dsn: str) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(postgres_dsn)
    yield store
    await store.close()


@pytest.fixture
async def connection(postgres_dsn: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(postgres_dsn)
    yield connection
    await connection.close()


async def columns(connection: Connection) -> set[str]:
    found = await connection.fetch(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = 'scheduledjob' "
        "AND table_name = 'schedule'"
    )
    return {line[0] for line in found}


async def indexes(connection: Connection) -> set[str]:
    found = await connection.fetch(
        "SELECT indexname FROM pg_indexes WHERE schemaname = 'scheduledjob' AND tablename = 'schedule'"
    )
    return {line[0] for line in found}


def test_halves_are_in_order() -> None:
    assert sorted([POST, PRE]) == [PRE, POST]
    order = [(half.version, half.post) for half in halves()]
    assert order == sorted(order)
    assert len({half.name for half in OWN}) == len(OWN)


async def test_an_empty_database_is_migrated_once(store: PostgresStore) -> None:
    assert await store.migrate() == [
        "version 1, first half: tables",
        "version 2, first half: objects of a cluster",
        "version 3, first half: payloads and hooks",
        "version 4, first half: tenants",
        "version 5, first half: expired history",
        "version 6, first half: chains of followed runs",
        "version 7, first half: leases apart",
        "version 7, second half: leases apart",
    ]
    assert await store.migrate() == []
    assert await store.migrate(finish=True) == []
    await store.connect()
    assert await store.rows() == []


async def test_a_start_migrates_by_itself(store: PostgresStore) -> None:
    await store.connect()
    assert await store.migrate() == []


async def test_four_processes_may_start_at_the_same_time(postgres_dsn: str, store: PostgresStore) -> None:
    script = """
import asyncio, sys
from scheduledjob.stores.postgres import PostgresStore
async def main():
    store = PostgresStore(sys.argv[1])
    print("ready", flush=True)
    sys.stdin.readline()
    await store.connect()
    print(await store.now(), store._installation)
    await store.close()
asyncio.run(main())
"""
    pipe = asyncio.subprocess.PIPE
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, postgres_dsn, stdin=pipe, stdout=pipe, stderr=pipe
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    answers = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    assert [process.returncode for process in processes] == [0] * 4, answers
    assert len({stdout.split()[1] for stdout, _ in answers}) == 1
    assert await store.migrate() == []


async def test_a_second_half_waits_for_finish(store: PostgresStore, connection: Connection) -> None:
    await store.connect()
    assert await migrate(connection, wanted=LATER) == [f"version {NEXT}, first half: a column"]
    assert "new" in await columns(connection)
    assert await migrate(connection, finish=True, wanted=LATER) == [f"version {NEXT}, second half: a column"]
    assert "result" not in await columns(connection)


async def test_only_finish_drops_the_indexes_that_older_replicas_need(
    store: PostgresStore, connection: Connection
) -> None:
    await migrate(connection, wanted=[half for half in OWN if half.version < 7])
    await store.connect()
    older = {"schedule_wake", "schedule_tenant"}
    assert older < await indexes(connection)
    assert await store.migrate(finish=True) == ["version 7, second half: leases apart"]
    assert not older & await indexes(connection)


async def test_finish_refuses_while_an_older_replica_is_alive(store: PostgresStore, connection: Connection) -> None:
    await store.connect()
    now = await store.now()
    await store.announce(ReplicaInfo("old-one", "0.1.0", SCHEMA_VERSION), now)
    await store.announce(ReplicaInfo("new-one", "0.2.0", NEXT), now + HOUR)
    with pytest.raises(StoreError, match=r"'old-one' \(scheduledjob 0\.1\.0, installation 'local'\); upgrade or stop"):
        await migrate(connection, finish=True, wanted=LATER)
    assert "new" not in await columns(connection), "all of it was undone"

    await store.withdraw("old-one")
    assert len(await migrate(connection, finish=True, wanted=LATER)) == 2


async def test_a_dead_replica_does_not_hold_up_finish(store: PostgresStore, connection: Connection) -> None:
    await store.connect()
    await store.announce(ReplicaInfo("dead", "0.1.0", SCHEMA_VERSION), await store.now() - DEAD_AFTER)
    assert len(await migrate(connection, finish=True, wanted=LATER)) == 2


async def test_a_replica_too_old_for_the_schema_says_so(store: PostgresStore, connection: Connection) -> None:
    await store.migrate()
    await migrate(connection, wanted=LATER)
    await store.connect()
    await migrate(connection, finish=True, wanted=LATER)
    with pytest.raises(StoreError, match=f"version {NEXT} of the schema.*run a newer scheduledjob"):
        await store.connect()


async def test_a_failed_half_changes_nothing(connection: Connection) -> None:
    broken = Half(NEXT, False, f"{NEXT:04}_pre_broken", "CREATE TABLE scheduledjob.half_done (); SELECT nonsense")
    with pytest.raises(asyncpg.UndefinedColumnError):
        await migrate(connection, wanted=[*OWN, broken])
    assert await connection.fetchval("SELECT to_regnamespace('scheduledjob') IS NULL")


async def test_a_role_that_may_not_create_is_told_what_it_needs(postgres_dsn: str, connection: Connection) -> None:
    role = f"poor_{Path(postgres_dsn).name}"
    await connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    try:
        poor = PostgresStore(f"postgresql://{role}:secret@{postgres_dsn.rpartition('@')[2]}")
        with pytest.raises(StoreError, match=r"permission denied.*the role needs CREATE on the database") as caught:
            await poor.connect()
        assert "secret" not in str(caught.value)
        await poor.close()

        await connection.execute(f"CREATE SCHEMA scheduledjob AUTHORIZATION {role}")
        given = PostgresStore(poor._server.address.dsn)
        await given.connect()
        await given.close()
    finally:
        await connection.execute("DROP SCHEMA IF EXISTS scheduledjob CASCADE")
        await connection.execute(f"DROP ROLE {role}")
