"""The real servers that tests ask for by fixture; how each is found is told in tests/support.

Each worker of pytest-xdist starts its own on first use: that is quicker than agreeing on a shared one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.postgres import PostgresDatabases, PostgresServer, any_postgres

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresDatabases]:
    """The Postgres that tests share; make databases on it, or take `postgres_dsn`."""
    with any_postgres() as databases:
        yield databases


@pytest.fixture
def postgres_dsn(postgres_server: PostgresDatabases) -> Iterator[str]:
    """The DSN of an empty database that is this test's own."""
    dsn = postgres_server.new_database()
    yield dsn
    postgres_server.drop_database(dsn)


@pytest.fixture(scope="module")
def module_postgres_dsn(postgres_server: PostgresDatabases) -> Iterator[str]:
    """The DSN of an empty database that the tests of one module share."""
    dsn = postgres_server.new_database()
    yield dsn
    postgres_server.drop_database(dsn)


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A Postgres server that is this test's own, to stop, pause and kill; it takes most of a second to start."""
    with PostgresServer(durable=False) as server:
        yield server
