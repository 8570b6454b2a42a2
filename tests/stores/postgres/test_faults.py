"""What replicas and clients see when the server restarts, stops answering, refuses, or is behind a pooler."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg
import pytest
from structlog.testing import capture_logs

from scheduledjob.domain.schedule.state import State
from scheduledjob.domain.time.instants import HOUR, SECOND
from scheduledjob.engine.store import Put, Quotas, ReplicaInfo, StoreError, StoreUnavailable, Wake
from scheduledjob.engine.stored_row import NewRow, Origin
from scheduledjob.stores.postgres import PostgresStore
from scheduledjob.stores.postgres.listener import _ListeningConnection
from scheduledjob.stores.postgres.queries import SQL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.support.pgbouncer import PgBouncer
    from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.postgres

PATIENCE = 60.0
LEASE = 60 * SECOND
OTHERS = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted"


@pytest.fixture
async def store(own_postgres: PostgresServer) -> AsyncIterator[PostgresStore]:
    """A store on its own server, which a test may stop. Its time limits are short."""
    store = PostgresStore(own_postgres.dsn, timeout=1.0)
    store.probe_interval = store.probe_timeout = 0.2
    await store.connect()
    yield store
    await store.close()


def desired(slug: str) -> NewRow:
    return NewRow(
        slug=slug,
        uid=f"uid-{slug}",
        kind="noop",
        origin=Origin.LIBRARY,
        definition="",
        state=State(decided_until=0).encode(),
        wake_at=0,
    )


def password(url: str) -> str:
    secret = urlsplit(url).password
    assert secret
    return secret


def polls(store: PostgresStore) -> bool:
    """Return ``polls`` as it is now: a type checker takes an attribute to be what was asserted of it before."""
    return store.polls


class Wakes(list[Wake]):
    """The notifications, to be awaited."""

    def __init__(self) -> None:
        super().__init__()
        self._more = asyncio.Event()

    def __call__(self, wake: Wake) -> None:
        self.append(wake)
        self._more.set()

    async def next(self) -> Wake:
        async with asyncio.timeout(PATIENCE):
            while not self:
                self._more.clear()
                await self._more.wait()
        return self.pop(0)


async def available(store: PostgresStore) -> None:
    """Wait until the store answers. A broken connection may be noticed only when it is used."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await store.now()
            except StoreUnavailable:
                continue
            return


async def test_after_a_restart_the_store_goes_on(store: PostgresStore, own_postgres: PostgresServer) -> None:
    await store.put([desired("before")], replace=False)
    async with store.renewer("alice") as renewer:
        (row,) = (await store.claim("alice", ["noop"], limit=1, ahead=0, lease=LEASE)).rows
        assert (await renewer.renew([(row.key, row.version)], LEASE)).revisions == {row.key: 1}

        own_postgres.stop()
        with pytest.raises(StoreUnavailable, match=f"Postgres at 127.0.0.1:{own_postgres.port}/") as caught:
            await store.put([desired("meanwhile")], replace=False)
        assert password(own_postgres.dsn) not in str(caught.value)
        with pytest.raises(StoreUnavailable, match="renewing leases"):
            await renewer.renew([(row.key, row.version)], LEASE)

        own_postgres.start()
        await available(store)
        assert await store.put([desired("after")], replace=False) == [Put.CREATED]
        assert (await renewer.renew([(row.key, row.version)], LEASE)).revisions == {row.key: 1}
    assert [row.slug for row in await store.rows()] == ["after", "before"]


async def test_a_killed_server_keeps_what_it_confirmed(store: PostgresStore, own_postgres: PostgresServer) -> None:
    await store.put([desired("kept")], replace=False)
    own_postgres.kill()
    with pytest.raises(StoreUnavailable):
        await store.claim("alice", ["noop"], limit=1, ahead=0, lease=LEASE)
    own_postgres.start()
    await available(store)
    assert [row.slug for row in await store.rows()] == ["kept"]


async def test_calls_to_a_server_that_does_not_answer_time_out(
    store: PostgresStore, own_postgres: PostgresServer
) -> None:
    await store.put([desired("job")], replace=False)
    async with store.renewer("alice") as renewer:
        (row,) = (await store.claim("alice", ["noop"], limit=1, ahead=0, lease=LEASE)).rows
        await renewer.renew([(row.key, row.version)], LEASE)
        async with asyncio.timeout(PATIENCE):
            with own_postgres.pause():
                with pytest.raises(StoreUnavailable, match="no answer in time"):
                    await store.claim("alice", ["noop"], limit=1, ahead=0, lease=LEASE)
                with pytest.raises(StoreUnavailable, match="no answer in time"):
                    await renewer.renew([(row.key, row.version)], LEASE)
                with pytest.raises(StoreUnavailable, match="no answer in time"):  # on a new connection
                    await store.now()
            await available(store)
            assert (await renewer.renew([(row.key, row.version)], LEASE)).revisions == {row.key: 1}


async def test_a_claim_delayed_by_a_stalled_server_claims_nothing(
    store: PostgresStore, own_postgres: PostgresServer
) -> None:
    """The server executes it when it continues, long after its sender has given it up."""
    by = await store.now() + SECOND
    # Prepare the statement, so that the next claim is sent in one message.
    await store.claim("alice", ["noop"], limit=1, ahead=0, lease=LEASE, by=by)
    await store.put([desired("job")], replace=False)
    watch = await asyncpg.connect(own_postgres.dsn)
    by = await store.now() + SECOND // 2
    with own_postgres.pause(), pytest.raises(StoreUnavailable, match="no answer in time"):
        await store.claim("alice", ["noop"], limit=1, ahead=0, lease=LEASE, by=by)
    async with asyncio.timeout(PATIENCE):
        # The connections that the store has dropped close when the server has read everything from them.
        while await watch.fetchval(OTHERS):
            pass
    await watch.close()
    (row,) = await store.get(["job"])
    assert row is not None
    assert (row.owner, row.version) == (None, 0)
    by = await store.now() + 10 * SECOND
    assert (await store.claim("alice", ["noop"], limit=1, ahead=0, lease=LEASE, by=by)).rows


@pytest.mark.parametrize("quotas", [None, Quotas({}, 1)])
async def test_a_claim_takes_rows_until_the_very_microsecond(postgres_dsn: str, quotas: Quotas | None) -> None:
    store, connection = PostgresStore(postgres_dsn), await asyncpg.connect(postgres_dsn)
    await store.connect()
    await store.put([desired("job")], replace=False)
    by = 1_800_000_000 * SECOND
    for now, claimed in ((by + 1, 0), (by, 1)):
        await connection.execute(
            "CREATE OR REPLACE FUNCTION scheduledjob.clock() RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE "
            f"AS $$ SELECT {now}::bigint $$"
        )
        batch = await store.claim("alice", ["noop"], limit=1, ahead=0, lease=LEASE, by=by, quotas=quotas)
        assert (batch.now, len(batch.rows), batch.late) == (now, claimed, not claimed)
    await connection.close()
    await store.close()


async def test_a_renewal_that_ends_after_a_later_one_does_not_shorten_the_lease(postgres_dsn: str) -> None:
    """A stalled server may execute it long after it was sent."""
    store = PostgresStore(postgres_dsn)
    await store.connect()
    await store.put([desired("job")], replace=False)
    (row,) = (await store.claim("alice", ["noop"], limit=1, ahead=0, lease=LEASE)).rows
    slow = await asyncpg.connect(postgres_dsn)
    async with slow.transaction():
        began = await slow.fetchval("SELECT scheduledjob.clock()")
        async with store.renewer("alice") as renewer:
            await renewer.renew([(row.key, row.version)], LEASE)
        lines = await slow.fetch(SQL["renew"], store._installation, "alice", [row.key], [row.version], LEASE)
        assert len(lines) == 1
    await slow.close()
    (after,) = await store.get(["job"])
    assert after is not None
    assert after.wake_at is not None
    assert after.wake_at > began + LEASE
    await store.close()


async def test_a_cancelled_call_leaves_a_usable_store(store: PostgresStore, own_postgres: PostgresServer) -> None:
    with own_postgres.pause(), pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await store.now()
    await available(store)


async def test_closing_does_not_wait_for_a_server_that_does_not_answer(
    store: PostgresStore, own_postgres: PostgresServer
) -> None:
    await store.now()
    async with asyncio.timeout(PATIENCE):
        with own_postgres.pause():
            await store.close()
    with pytest.raises(StoreUnavailable, match="the store is closed"):
        await store.now()


async def test_a_listener_is_notified_again_after_a_restart(store: PostgresStore, own_postgres: PostgresServer) -> None:
    wakes = Wakes()
    async with store.listen(wakes):
        assert not polls(store)
        own_postgres.restart()
        assert await wakes.next() == Wake(notifications_lost=True)
        assert polls(store)
        await available(store)
        assert await wakes.next() == Wake(notifications_lost=True), "what came in between may have been missed"
        assert not polls(store)
        while (await store.put([desired("job")], replace=True)) and (await store.delete(["job"])):
            wake = await wakes.next()
            if "job" in wake.changed:
                break
            assert wake == Wake(notifications_lost=True)


async def test_a_listener_notices_silence(store: PostgresStore, own_postgres: PostgresServer) -> None:
    """Only the probe notices that an open connection is dead."""
    wakes = Wakes()
    async with store.listen(wakes):
        with own_postgres.pause():
            assert await wakes.next() == Wake(notifications_lost=True)
        await available(store)


async def test_listening_may_start_while_the_server_is_down(store: PostgresStore, own_postgres: PostgresServer) -> None:
    own_postgres.stop()
    wakes = Wakes()
    async with store.listen(wakes):
        assert await wakes.next() == Wake(notifications_lost=True)
        own_postgres.start()
        await available(store)


async def test_an_error_within_listen_is_raised_unchanged(store: PostgresStore) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with store.listen(Wakes()):
            raise KeyError("mine")


async def test_behind_a_transaction_pooler_the_store_polls_and_logs_that_once(
    postgres_dsn: str, pgbouncer: PgBouncer
) -> None:
    with capture_logs() as logs:
        store = PostgresStore(pgbouncer.through(postgres_dsn))
        await store.connect()
        await store.connect()
        wakes = Wakes()
        async with store.listen(wakes):
            assert await wakes.next() == Wake(notifications_lost=True)
        await store.close()
    assert (store.polls, store.poll_interval) == (True, 1.0)
    (warning,) = [line for line in logs if line["log_level"] == "warning"]
    assert "LISTEN does not work through this connection pooler" in warning["event"]
    assert password(postgres_dsn) not in str(logs)


async def test_a_direct_connection_is_notified(postgres_dsn: str) -> None:
    store = PostgresStore(postgres_dsn)
    await store.connect()
    listening = await _ListeningConnection.open(store, lambda wake: None)
    assert await listening.probe(PATIENCE)
    assert not store.polls
    listening.close()
    await store.close()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("postgres:", "nobody:"), "nobody.*check the user and password"),
        (("/test_", "/nowhere_"), "nowhere.*create the database"),
    ],
)
async def test_a_wrong_address_says_what_to_check(postgres_dsn: str, change: tuple[str, str], complaint: str) -> None:
    store = PostgresStore(postgres_dsn.replace(*change))
    with pytest.raises(StoreError, match=complaint) as caught:
        await store.connect()
    assert not isinstance(caught.value, StoreUnavailable)
    assert password(postgres_dsn) not in str(caught.value)
    await store.close()


async def test_a_store_that_is_not_connected_says_so(postgres_dsn: str) -> None:
    store = PostgresStore(postgres_dsn)
    with pytest.raises(StoreError, match=r"call connect\(\) first"):
        await store.rows()
    await store.close()


async def test_too_many_connections_is_unavailable(own_postgres: PostgresServer, store: PostgresStore) -> None:
    await store.now()
    connections = []
    with suppress(asyncpg.TooManyConnectionsError):
        while True:
            connections.append(await asyncpg.connect(own_postgres.dsn))
    late = PostgresStore(own_postgres.dsn)
    with pytest.raises(StoreUnavailable, match="too many clients"):
        await late.connect()
    for connection in connections:
        await connection.close()
    await available(store)
    await late.close()


async def test_two_writers_of_the_same_rows_do_not_deadlock(postgres_dsn: str) -> None:
    stores = [PostgresStore(postgres_dsn) for _ in range(3)]
    for store in stores:
        await store.connect()
    rows = [desired(f"job-{n:04}") for n in range(500)]
    await stores[0].put(rows, replace=False)
    for number in range(5):
        for row in rows:
            row.payload = str(number).encode()
        await asyncio.gather(
            *(store.put(rows[:: 1 - 2 * (n % 2)], replace=True) for n, store in enumerate(stores)),
            stores[0].claim("alice", ["noop"], limit=200, ahead=0, lease=0),
        )
    for store in stores:
        await store.close()


async def test_an_announcement_waits_for_writers_that_have_read_the_previous_one(postgres_dsn: str) -> None:
    """Otherwise the writer notifies nobody, and the poll that follows the announcement is too early to see its row."""
    store = PostgresStore(postgres_dsn)
    await store.connect()
    now = await store.now()
    await store.announce(ReplicaInfo("alice", "0.1.0", 1), now + HOUR)
    writer = await asyncpg.connect(postgres_dsn)
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks, writer.transaction():
        await writer.execute(SQL["notify_due"], store._installation, now + 2 * HOUR)
        announcing = tasks.create_task(store.announce(ReplicaInfo("alice", "0.1.0", 1), now + 3 * HOUR))
        while not await writer.fetchval(WAITING):
            pass
        assert not announcing.done()
    await writer.close()
    await store.close()


async def test_a_call_rolled_back_by_a_deadlock_is_repeated(postgres_dsn: str) -> None:
    store = PostgresStore(postgres_dsn)
    await store.connect()
    await store.put([desired("a"), desired("b")], replace=False)
    other = await asyncpg.connect(postgres_dsn)
    # The session that detects the deadlock is rolled back, and that must be the store's.
    await other.execute("SET deadlock_timeout = '1h'")
    touch = "UPDATE scheduledjob.schedule SET payload = 'other' WHERE slug = $1"
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks, other.transaction():
        await other.execute(touch, "b")
        call = tasks.create_task(store.put([desired("a"), desired("b")], replace=True))
        while not await other.fetchval(WAITING):
            pass
        await other.execute(touch, "a")
    assert call.result() == [Put.UPDATED, Put.UPDATED]
    assert [row.payload for row in await store.rows()] == [None, None]
    await other.close()
    await store.close()


async def test_listening_goes_on_whatever_fails_in_it(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real, errors = _ListeningConnection.run, [KeyError("a bug"), ValueError("another")]

    async def fail_first(listening: _ListeningConnection, on_probe_arrived: Callable[[], None]) -> bool:
        if errors:
            raise errors.pop()
        return await real(listening, on_probe_arrived)

    monkeypatch.setattr(_ListeningConnection, "run", fail_first)
    wakes = Wakes()
    with capture_logs() as logs:
        async with store.listen(wakes):
            assert (await wakes.next()).notifications_lost
            assert (await wakes.next()).notifications_lost  # it works again
            assert not polls(store)
    assert [entry["log_level"] for entry in logs if "listening for notifications failed" in entry["event"]] == [
        "error",
        "error",
    ]
