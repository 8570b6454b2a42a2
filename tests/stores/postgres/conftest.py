"""What the tests of the Postgres store share: a store on a new database, and a connection beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
import pytest

from scheduledjob.stores.postgres import PostgresStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def store(postgres_dsn: str) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(postgres_dsn)
    await store.connect()
    yield store
    await store.close()


@pytest.fixture
async def connection(postgres_dsn: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection to the same database, without the store."""
    connection = await asyncpg.connect(postgres_dsn)
    yield connection
    connection.terminate()
