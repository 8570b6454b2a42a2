"""Observations during an open transaction of a client or owner, who take no locks on slugs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import pytest

from scheduledjob.engine.store import Put
from scheduledjob.engine.stored_row import NewRow, Origin
from tests.stores.support import KIND, PLAIN, read_row, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from scheduledjob.stores.postgres import PostgresStore
    from scheduledjob.stores.postgres.connections import Connection

pytestmark = pytest.mark.postgres

CLAIMED_BY_A_CLIENT = "UPDATE scheduledjob.schedule SET origin = 'library', revision = revision + 1"
GONE = "DELETE FROM scheduledjob.schedule"
TAKEN = (
    "INSERT INTO scheduledjob.schedule "
    "(installation, slug, uid, kind, origin, definition, state, created_at, edited_at) "
    "SELECT id, 'ns/new', 'uid', 'print', 'library', '', '', 1, 1 FROM scheduledjob.installation"
)


@pytest.fixture
async def client(postgres_dsn: str, store: PostgresStore) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(postgres_dsn)
    yield connection
    await connection.close()


def observed(slug: str, generation: int) -> NewRow:
    return NewRow(
        slug=slug,
        uid="uid",
        kind=KIND,
        origin=Origin.CLUSTER,
        definition="",
        state=PLAIN,
        wake_at=None,
        created_at=5,
        generation=generation,
    )


@pytest.mark.parametrize(
    ("slug", "crossing", "put", "origin"),
    [
        ("ns/job", CLAIMED_BY_A_CLIENT, Put.STALE, "library"),
        ("ns/job", GONE, Put.CREATED, "cluster"),
        ("ns/new", TAKEN, Put.STALE, "library"),
    ],
    ids=["edited", "gone", "taken"],
)
async def test_an_observation_waits_for_a_writer_of_the_row_and_is_decided_afterwards(
    store: PostgresStore, client: Connection, slug: str, crossing: str, put: Put, origin: str
) -> None:
    await store.reconcile([observed("ns/job", 1)])
    async with asyncio.TaskGroup() as group, client.transaction():
        await client.execute(crossing)
        asked = group.create_task(store.reconcile([observed(slug, 2)]))

        async def waiting() -> bool:
            # Not over the client's connection: a transaction sees one state of all others.
            async with store._pool.connection("reading") as connection:
                found: int = await connection.fetchval(
                    "SELECT count(*) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND wait_event_type = 'Lock'"
                )
            return found == 1

        await until(waiting)
    assert asked.result() == [put]
    assert (await read_row(store, slug)).origin == origin
