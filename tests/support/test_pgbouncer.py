"""The PgBouncer harness: it answers, and it really uses transaction mode."""

from __future__ import annotations

import asyncpg
import pytest

pytestmark = pytest.mark.pgbouncer


async def test_it_reaches_the_same_database(postgres_dsn: str, pgbouncer_dsn: str) -> None:
    direct = await asyncpg.connect(postgres_dsn)
    pooled = await asyncpg.connect(pgbouncer_dsn, statement_cache_size=0)
    assert postgres_dsn != pgbouncer_dsn
    assert await pooled.fetchval("SELECT current_database()") == await direct.fetchval("SELECT current_database()")
    await pooled.close()
    await direct.close()


async def test_transactions_of_one_client_move_between_server_connections(pgbouncer_dsn: str) -> None:
    first = await asyncpg.connect(pgbouncer_dsn, statement_cache_size=0)
    second = await asyncpg.connect(pgbouncer_dsn, statement_cache_size=0)
    async with first.transaction(), second.transaction():  # at once, so that there are two server connections
        await first.execute("SELECT 1")
        await second.execute("SELECT 1")
    backends = {await first.fetchval("SELECT pg_backend_pid()") for _ in range(10)}
    assert len(backends) == 2
    await first.close()
    await second.close()
