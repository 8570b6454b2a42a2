"""A replica of version 1 works on while one of this version migrates the schema.

Its queries are in the folder ``version1``, word for word.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from scheduledjob.domain.time.instants import HOUR
from scheduledjob.engine.store import Put, ReplicaInfo, SlugTaken
from scheduledjob.engine.stored_row import Disposition, NewRow, Origin
from scheduledjob.stores.postgres import PostgresStore, claims, schedules, settling
from scheduledjob.stores.postgres.columns import new_row_columns
from scheduledjob.stores.postgres.migrations import OWN, migrate
from scheduledjob.stores.postgres.queries import SQL, load
from tests.stores.support import LEASE, PLAIN, claim, desired, read_row, record, settle, settlement, take, take_one

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.postgres

OLD = load(
    *((Path(__file__).parent / "version1" / f"{name}.sql").read_text("utf-8") for name in ("schedules", "replicas"))
)
# This version's code passes one more argument to a claim, and reads the numbers from a line of their own.
OLD["claim"] = (
    OLD["claim"][: OLD["claim"].rindex("SELECT meta.now")]
    + """SELECT * FROM (SELECT claimed.*, meta.now, meta.last_due, meta.next_wake FROM meta LEFT JOIN claimed ON false
    UNION ALL SELECT claimed.*, NULL, NULL, NULL FROM claimed) AS lines
    ORDER BY was_due NULLS FIRST, $9::bigint"""
)
REQUESTS = '{"run":"1"}'


@contextmanager
def version_1() -> Iterator[None]:
    """Let the store use the queries of version 1."""
    with pytest.MonkeyPatch.context() as patch:
        for name, query in OLD.items():
            patch.setitem(SQL, name, query)
        patch.setattr(claims, "_claim_queries", {})
        patch.setattr(settling, "_queries", {(name, of_free): OLD[name] for name, of_free in settling._queries})
        patch.setattr(schedules, "new_row_columns", lambda rows: new_row_columns(rows)[:10])
        patch.setattr(settling, "collapse_constants", lambda columns: [*columns[:18], *columns[19:24]])
        yield


async def old_store(dsn: str) -> PostgresStore:
    """Create a schema of version 1, and connect to it."""
    connection = await asyncpg.connect(dsn)
    try:
        await migrate(connection, wanted=[half for half in OWN if half.version == 1])
        store = PostgresStore(dsn)
        store._installation_id = await connection.fetchval(OLD["register_installation"], "local")
    finally:
        await connection.close()
    return store


def observed(slug: str, generation: int, wake_at: int) -> NewRow:
    return NewRow(
        slug=slug,
        uid=f"uid-of-{slug}",
        kind="print",
        origin=Origin.CLUSTER,
        definition="",
        state=PLAIN,
        wake_at=wake_at,
        created_at=5,
        generation=generation,
        requests=REQUESTS,
    )


async def test_an_old_replica_works_on_during_a_migration(postgres_dsn: str) -> None:
    old, new = await old_store(postgres_dsn), PostgresStore(postgres_dsn)
    try:
        with version_1():
            now = await old.now()
            await old.put([desired(f"job-{n}", now - HOUR + n) for n in range(4)], replace=False)
            await old.announce(ReplicaInfo("alice", "0.1", 1), now)
            rows = await take(old, 2)
            async with old.renewer("alice") as renewer:
                await renewer.renew([(rows[0].key, rows[0].version)], LEASE)
                await old.rows()
                await old.get(["job-0"])
                assert await old.put([desired("job-3", payload=b"1")], replace=True) == [Put.UPDATED]

                await new.connect()  # which migrates

                # Over the same connections, with the same statements.
                assert len((await renewer.renew([(rows[0].key, rows[0].version)], LEASE)).revisions) == 1
            assert await settle(old, settlement(rows[0], wake_at=now, records=[record("run-0", now)]))
            assert await settle(old, settlement(rows[1], Disposition.REMOVE, records=[record("run-1", now)]))
            assert await old.put([desired("job-3", payload=b"2")], replace=True) == [Put.UPDATED]
            assert await old.put([desired("job-4", now - 1), desired("job-5")], replace=False) == [Put.CREATED] * 2
            with pytest.raises(SlugTaken):
                await old.put([desired("job-4")], replace=False)
            assert [row.slug for row in await old.rows()] == ["job-0", "job-2", "job-3", "job-4", "job-5"]
            assert len(await take(old, 4)) == 4
            assert await old.delete(["job-5"]) == [True]
            await old.withdraw("alice")
        assert {(row.generation, row.requests) for row in await new.rows()} == {(0, "")}
        assert await new.recorded(["run-0", "run-1"]) == {"run-0", "run-1"}
        assert len(await new.delete([f"job-{n}" for n in range(6)])) == 6
    finally:
        await old.close()
        await new.close()


async def test_an_old_replica_may_run_what_a_new_one_reconciles(postgres_dsn: str) -> None:
    old, new = await old_store(postgres_dsn), PostgresStore(postgres_dsn)
    try:
        await new.connect()
        now = await new.now()
        await new.reconcile([observed("ns/job", 3, now - 1)])
        with version_1():
            row = await take_one(old)
            assert row.slug == "ns/job"
            await new.reconcile([observed("ns/job", 4, now)])
            assert await settle(old, settlement(row, wake_at=now + HOUR))
            again = await take_one(old)
            assert again.revision == 2
            assert await settle(old, settlement(again, wake_at=now - 1))
        known = await take_one(new, replica="bob")
        assert (known.generation, known.requests) == (4, REQUESTS)
        assert await new.tombstone([("ns/job", known.uid)]) == [True]
        with version_1():
            assert (await claim(old)).rows == []
            assert not await settle(old, settlement(again))
        await new.lock("sweep", "bob", HOUR)
        assert await new.reconcile([observed("ns/job", 5, now)]) == [Put.STALE]
    finally:
        await old.close()
        await new.close()


async def test_a_clusters_row_that_an_old_client_replaces_is_no_longer_the_clusters(postgres_dsn: str) -> None:
    old, new = await old_store(postgres_dsn), PostgresStore(postgres_dsn)
    try:
        await new.connect()
        await new.reconcile([observed("job", 3, 0)])
        with version_1():
            assert await old.put([desired("job", payload=b"mine")], replace=True) == [Put.UPDATED]
        assert await new.reconcile([observed("job", 4, 0)]) == [Put.STALE]
        assert (await read_row(new, "job")).payload == b"mine"
    finally:
        await old.close()
        await new.close()
