"""No statement of a replica waits for a client that stands still, and no client keeps a lock for long."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
import pytest

from scheduledjob.domain.time.instants import HOUR, SECOND
from scheduledjob.engine.store import Put, ReplicaInfo, StoreUnavailable
from scheduledjob.engine.stored_row import Disposition, NewRow, Origin
from scheduledjob.stores.postgres import PostgresStore, migrations
from scheduledjob.stores.postgres import connections as connections_module
from scheduledjob.stores.postgres import schedules as schedules_module
from scheduledjob.stores.postgres.address import parse_address
from tests.stores.support import LEASE, PATIENCE, claim, desired, put_due, record, settlement, take, until
from tests.support.proxy import proxy_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from scheduledjob.engine.stored_row import Row

pytestmark = pytest.mark.postgres

LOCK = "SELECT id FROM scheduledjob.schedule WHERE slug = ANY($1::text[]) FOR UPDATE"
WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted"
BACKENDS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


@asynccontextmanager
async def locked(connection: asyncpg.Connection[asyncpg.Record], *slugs: str) -> AsyncIterator[None]:
    """A client that has locked these rows, and stands still."""
    async with connection.transaction():
        assert len(await connection.fetch(LOCK, slugs)) == len(slugs)
        yield


async def owned(store: PostgresStore, count: int) -> dict[str, Row]:
    await put_due(store, *[f"job-{n:02}" for n in range(count)])
    return {row.slug: row for row in await take(store, count)}


async def test_a_locked_row_costs_no_other_row_its_renewal(
    store: PostgresStore, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    rows = await owned(store, 50)
    held = [(row.key, row.version) for row in rows.values()]
    async with store.renewer("alice") as renewer:
        async with locked(connection, "job-07"):
            answer = await renewer.renew(held, LEASE)
        assert set(answer.revisions) == {row.key for row in rows.values()} - {rows["job-07"].key}
        assert list(answer.busy) == [rows["job-07"].key]
        answer = await renewer.renew(held, LEASE)
    assert len(answer.revisions) == 50
    assert not answer.busy


async def test_a_row_that_is_lost_while_it_is_locked_is_not_busy(
    store: PostgresStore, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    rows = await owned(store, 2)
    held = [(row.key, row.version - (row.slug == "job-01")) for row in rows.values()]
    async with store.renewer("alice") as renewer, locked(connection, "job-00", "job-01"):
        answer = await renewer.renew(held, LEASE)
    assert (answer.revisions, list(answer.busy)) == ({}, [rows["job-00"].key])


async def test_a_row_that_is_locked_for_moments_only_is_renewed_by_waiting(
    store: PostgresStore, connection: asyncpg.Connection[asyncpg.Record], postgres_dsn: str
) -> None:
    (row,) = (await owned(store, 1)).values()
    watcher = await asyncpg.connect(postgres_dsn)
    async with store.renewer("alice") as renewer, asyncio.timeout(PATIENCE):
        while True:
            async with asyncio.TaskGroup() as tasks, locked(connection, "job-00"):
                renewing = tasks.create_task(renewer.renew([(row.key, row.version)], HOUR))
                while not renewing.done() and not await watcher.fetchval(WAITING):
                    pass
            if renewing.result().revisions:
                break
    await watcher.close()


@pytest.mark.parametrize("disposition", list(Disposition))
async def test_a_locked_row_costs_no_other_row_its_end(
    store: PostgresStore, connection: asyncpg.Connection[asyncpg.Record], disposition: Disposition
) -> None:
    rows = await owned(store, 20)
    now = await store.now()
    ends = [settlement(row, disposition, records=[record(f"run-{slug}", now)]) for slug, row in rows.items()]
    async with asyncio.timeout(PATIENCE), locked(connection, "job-07"):
        assert list(await store.settle("alice", ends)) == [None if slug == "job-07" else True for slug in rows]
        # Until the client is gone, its row is left out without a wait.
        assert list(await store.settle("alice", ends)) == [None if slug == "job-07" else False for slug in rows]
        assert len(await store.history()) == 19
    (end,) = [end for end in ends if end.key == rows["job-07"].key]
    assert list(await store.settle("alice", [end])) == [True]
    assert list(await store.settle("alice", [end])) == [False]
    assert len(await store.history()) == 20


async def test_an_announcement_does_not_wait_for_a_client_that_stands_still(
    store: PostgresStore, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    now = await store.now()
    info = ReplicaInfo("alice", "1.0", 1)
    assert await store.announce(info, now + HOUR)
    async with asyncio.timeout(PATIENCE), connection.transaction():
        await connection.fetch("SELECT 1 FROM scheduledjob.replica FOR SHARE")
        assert not await store.announce(info, now + 2 * HOUR)
        await store.withdraw("alice")
        assert await store.prune() == 0
    assert await store.announce(info, now + 2 * HOUR)


def observed(generation: int) -> list[NewRow]:
    """Return the rows of five objects, as an operator writes them."""
    rows = [desired(f"job-{n}", 1, origin=Origin.CLUSTER, definition=str(generation)) for n in range(5)]
    for row in rows:
        row.generation = generation
    return rows


async def test_an_observed_object_whose_row_is_locked_is_written_after_the_others(
    store: PostgresStore, connection: asyncpg.Connection[asyncpg.Record], postgres_dsn: str
) -> None:
    assert await store.reconcile(observed(1)) == [Put.CREATED] * 5
    watcher = await asyncpg.connect(postgres_dsn)
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks, locked(connection, "job-3"):
        reconciling = tasks.create_task(store.reconcile(observed(2)))
        query = "SELECT count(*) FROM scheduledjob.schedule WHERE generation = 2"
        while await watcher.fetchval(query) != 4:
            pass
        assert not reconciling.done()
    assert reconciling.result() == [Put.UPDATED] * 5
    await watcher.close()


IN_VAIN = "lock timeout"


@pytest.fixture
def few_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a locked row up soon."""
    monkeypatch.setattr(connections_module, "_MAX_WAITS", 1)


@pytest.mark.usefixtures("few_waits")
async def test_rows_that_stay_locked_cost_no_other_object_its_edit(
    store: PostgresStore, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    await store.reconcile(observed(1))
    async with locked(connection, "job-1", "job-3"):
        with pytest.raises(StoreUnavailable, match=IN_VAIN):
            await store.reconcile(observed(2))
    assert {row.slug: row.generation for row in await store.rows()} == {
        "job-0": 2, "job-1": 1, "job-2": 2, "job-3": 1, "job-4": 2
    }  # fmt: skip


@pytest.mark.usefixtures("few_waits")
@pytest.mark.parametrize("lock", ["FOR UPDATE", "FOR SHARE", "FOR KEY SHARE"])
async def test_a_row_that_stays_locked_costs_no_other_object_its_deletion(
    store: PostgresStore, connection: asyncpg.Connection[asyncpg.Record], lock: str
) -> None:
    rows = [desired(f"job-{n}", 1, origin=Origin.CLUSTER) for n in range(5)]
    gone = [(row.slug, row.uid) for row in rows]
    await store.reconcile(rows)
    async with connection.transaction():
        await connection.fetch(f"SELECT id FROM scheduledjob.schedule WHERE slug = 'job-3' {lock}")
        with pytest.raises(StoreUnavailable, match=IN_VAIN):
            await store.tombstone(gone)
        assert [row.slug for row in await store.rows()] == ["job-3"]
    assert await store.tombstone(gone) == [False, False, False, True, False]


@pytest.mark.usefixtures("few_waits")
async def test_a_row_that_stays_locked_costs_no_other_row_its_touch(
    store: PostgresStore, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    slugs = [f"job-{n}" for n in range(5)]
    await store.put([desired(slug) for slug in slugs], replace=False)
    async with locked(connection, "job-3"):
        with pytest.raises(StoreUnavailable, match=IN_VAIN):
            await store.touch([*slugs, "missing"])
    assert [row.revision for row in await store.rows()] == [2, 2, 2, 1, 2]
    await store.touch(["job-3"])
    assert [row.revision for row in await store.rows()] == [2] * 5


@pytest.mark.parametrize("lock", ["FOR UPDATE", "FOR SHARE", "FOR KEY SHARE"])
@pytest.mark.parametrize("why", ["expired", "pushed out", "examined"])
async def test_a_locked_record_costs_no_other_record_its_pruning(
    store: PostgresStore, connection: asyncpg.Connection[asyncpg.Record], lock: str, why: str
) -> None:
    now = await store.now()
    rows = await owned(store, 5)
    expires = now - 1 if why == "expired" else now + HOUR
    ends = [
        settlement(row, records=[record(f"{slug}-{n}", now + n, slug=slug, keep=1, expires=expires) for n in range(2)])
        for slug, row in rows.items()
    ]
    await store.settle("alice", ends)
    store.history_grew.take(100)
    store.history_grew.examined = why != "examined"
    if why == "pushed out":
        store.history_grew.add(rows)
    async with connection.transaction():
        await connection.fetch(f"SELECT run_id FROM scheduledjob.history WHERE run_id = 'job-03-0' {lock}")
        await store.prune()
        left = {run.run_id for run in await store.history()}
    kept = set() if why == "expired" else {f"{slug}-1" for slug in rows}
    assert left == {"job-03-0", *kept}


@pytest.mark.parametrize("replace", [False, True])
async def test_a_client_does_not_wait_for_a_locked_announcement(
    store: PostgresStore, connection: asyncpg.Connection[asyncpg.Record], postgres_dsn: str, replace: bool
) -> None:
    """It can't see when that replica polls, so it notifies all."""
    now = await store.now()
    assert await store.announce(ReplicaInfo("alice", "1.0", 1), now)
    assert await store.announce(ReplicaInfo("bob", "1.0", 1), now)
    listener = await asyncpg.connect(postgres_dsn)
    heard: asyncio.Queue[object] = asyncio.Queue()
    await listener.add_listener(store._channel, lambda *args: heard.put_nowait(args[-1]))
    async with asyncio.timeout(PATIENCE):
        await store.put([desired("unlocked", now + HOUR)], replace=replace)
        async with connection.transaction():
            await connection.fetch("SELECT 1 FROM scheduledjob.replica WHERE id = 'bob' FOR UPDATE")
            await store.put([desired("locked", now + 2 * HOUR)], replace=replace)
        assert str(now + 2 * HOUR) in str(await heard.get()), "nothing was due before the polls of the first"
    await listener.close()


async def test_a_due_row_that_a_client_had_locked_is_looked_for_soon(
    store: PostgresStore, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    """If the client's transaction is rolled back, nobody notifies the replicas."""
    await put_due(store, "job-00")
    async with locked(connection, "job-00"):
        batch = await claim(store)
    assert batch.rows == []
    assert batch.next_wake is not None
    assert batch.next_wake <= batch.now + SECOND


# ---------------------------------------------------------------- clients that stand still


async def test_the_server_ends_a_client_that_stands_still_in_a_transaction(
    store: PostgresStore, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the client had been suspended: its event loop does nothing more, and its socket stays open."""
    monkeypatch.setattr(connections_module, "IDLE_LIMIT", 0.2)
    suspended = PostgresStore(postgres_dsn)
    await suspended.connect()
    rows = await owned(store, 3)
    stands_still, go_on = asyncio.Event(), asyncio.Event()

    async def stand_still(*arguments: object) -> None:
        stands_still.set()
        await go_on.wait()

    monkeypatch.setattr(suspended, "_notify", stand_still)
    held = [(row.key, row.version) for row in rows.values()]
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        writing = tasks.create_task(suspended.put([desired("job-01", payload=b"new")], replace=True))
        await stands_still.wait()
        async with store.renewer("alice") as renewer:
            answer = await renewer.renew(held, LEASE)
            assert len(answer.revisions) >= 2
            while len((await renewer.renew(held, LEASE)).revisions) < 3:
                pass
        # Nothing was committed, so the call is repeated when the client continues.
        monkeypatch.undo()
        go_on.set()
    assert writing.result() == [Put.UPDATED]
    await suspended.close()


async def test_abandoned_calls_leave_no_backend_behind(
    store: PostgresStore, connection: asyncpg.Connection[asyncpg.Record], postgres_dsn: str
) -> None:
    impatient = PostgresStore(postgres_dsn, timeout=0.2)
    await impatient.connect()
    await owned(store, 1)
    await store.close()
    async with locked(connection, "job-00"):
        for _ in range(20):
            with pytest.raises(StoreUnavailable):
                await impatient.put([desired("job-00", payload=b"new")], replace=True)

        async def gone() -> bool:
            return bool(await connection.fetchval(BACKENDS) <= 1)

        await until(gone)
    await impatient.close()


async def test_a_large_write_is_several_transactions(
    store: PostgresStore, connection: asyncpg.Connection[asyncpg.Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedules_module, "CHUNK", 10)
    rows = [desired(f"job-{n:02}", 1) for n in range(30)]
    assert await store.put(rows, replace=False) == [Put.CREATED] * 30
    count = "SELECT count(DISTINCT xmin::text) FROM scheduledjob.schedule"
    assert await connection.fetchval(count) == 3
    for row in rows:
        row.payload = b"new"
    assert await store.put(rows, replace=True) == [Put.UPDATED] * 30
    assert await connection.fetchval(count) == 3
    monkeypatch.setattr(schedules_module, "CHUNK", 1000)
    monkeypatch.setattr(schedules_module, "CHUNK_BYTES", 100)
    for row in rows:
        row.payload = bytes(45)
    assert await store.put(rows, replace=True) == [Put.UPDATED] * 30
    assert await connection.fetchval(count) >= 15


async def test_a_client_that_does_not_receive_an_answer_loses_its_locks(
    store: PostgresStore, postgres_dsn: str
) -> None:
    """The server can't send all of the answer, so the statement does not end, and no statement timeout applies."""
    (row,) = (await owned(store, 1)).values()
    large = "SELECT repeat('x', 1000000) FROM scheduledjob.schedule AS s, generate_series(1, 50) FOR UPDATE OF s"
    async with proxy_of(postgres_dsn) as proxy, store.renewer("alice") as renewer, asyncio.timeout(2 * PATIENCE):
        server = connections_module.PostgresServer(parse_address(proxy.url), 10.0)
        large_reader = await server.open()
        proxy.receives.clear()
        fetching = asyncio.create_task(large_reader.fetch(large))
        while not (await renewer.renew([(row.key, row.version)], LEASE)).busy:
            pass
        while not (await renewer.renew([(row.key, row.version)], LEASE)).revisions:
            pass
        large_reader.terminate()
        await asyncio.gather(fetching, return_exceptions=True)


async def test_a_migration_that_waits_for_a_report_does_not_hold_up_renewals(
    store: PostgresStore,
    connection: asyncpg.Connection[asyncpg.Record],
    postgres_dsn: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every statement queues behind a waiting ALTER TABLE, so the migration gives up soon, and is tried again."""
    monkeypatch.setattr(migrations, "LOCK_LIMIT", 0.1)
    alter = migrations.Half(9999, False, "9999_pre_test", "ALTER TABLE scheduledjob.schedule ADD COLUMN test integer")
    monkeypatch.setattr(migrations.migrate, "__kwdefaults__", {"finish": False, "wanted": [*migrations.OWN, alter]})
    (row,) = (await owned(store, 1)).values()
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks, store.renewer("alice") as renewer:
        async with connection.transaction():
            await connection.fetch("SELECT count(*) FROM scheduledjob.schedule")
            migrating = tasks.create_task(store.migrate())
            for _ in range(20):
                assert (await renewer.renew([(row.key, row.version)], LEASE)).revisions
            assert not migrating.done()
        assert await migrating == ["version 9999, first half: test"]


async def limits_of(store: PostgresStore, names: Sequence[str]) -> list[str]:
    async with store._pool.transaction("reading settings") as connection:
        return [await connection.fetchval(f"SHOW {name}") for name in names]


async def test_the_server_knows_the_limits(store: PostgresStore) -> None:
    names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
    assert await limits_of(store, names) == ["10s", "500ms", "2s"]
    assert await limits_of(store, ("tcp_user_timeout", "client_connection_check_interval")) == ["5000", "1s"]


async def test_a_server_that_does_not_know_a_limit_works_without_it(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = {"tcp_user_timeout": "1", "client_connection_check_interval_of_the_future": "1"}
    monkeypatch.setattr(connections_module, "_NEWER", unknown)
    store = PostgresStore(postgres_dsn)
    await store.connect()
    assert await limits_of(store, ("statement_timeout",)) == ["10s"]
    await store.close()
