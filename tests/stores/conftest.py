"""The behavioural suite's stores: each test runs against each of them, in its own installation.

If a server cannot be started, its fixture (in tests/conftest.py) skips the tests.
"""

from __future__ import annotations

import importlib
import secrets
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from scheduledjob.stores import open_store
from scheduledjob.stores.memory import MemoryDatabase, MemoryStore
from tests.support.firestore import new_target

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from scheduledjob.engine.store import Store
    from tests.support.pgbouncer import PgBouncer
    from tests.support.postgres import PostgresDatabases

PATIENCE = 60.0
"""Seconds that a call may take. The limit in production is too short for a busy machine."""

BACKENDS = [
    pytest.param("memory"),
    pytest.param("postgres", marks=pytest.mark.postgres),
    pytest.param("pgbouncer", marks=[pytest.mark.postgres, pytest.mark.pgbouncer]),
    pytest.param("firestore", marks=pytest.mark.firestore),
]


@dataclass
class StoreFactory:
    """Opens connections (replicas, clients) to one fresh installation, and to others in the same place."""

    backend: str
    url: str
    installation: str
    _database: MemoryDatabase = field(default_factory=MemoryDatabase)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def bulk(self) -> int:
        """How many rows to use where many are needed. The emulator of Firestore is slow."""
        return 2_000 if self.backend == "firestore" else 20_000

    async def __call__(self, installation: str | None = None) -> Store:
        name = installation or self.installation
        store: Store
        if self.backend == "memory":
            store = MemoryStore(self._database, installation=name)
        elif self.backend == "firestore":
            store = open_store(self.url, name)
        else:
            from scheduledjob.stores.postgres import PostgresStore

            store = PostgresStore(self.url, installation=name, timeout=PATIENCE)
            if self.backend == "pgbouncer":
                # It waits this long for a notification, which never arrives here, before it polls.
                store.probe_timeout = 0.1
        await store.connect()
        self._stack.push_async_callback(store.close)
        return store

    async def several(self, count: int) -> list[Store]:
        return [await self() for _ in range(count)]


@pytest.fixture(params=BACKENDS)
async def store_factory(request: pytest.FixtureRequest) -> AsyncIterator[StoreFactory]:
    backend: str = request.param
    url = "memory:" if backend == "memory" else _server_url(backend, request)
    factory = StoreFactory(backend, url, f"test-{secrets.token_hex(6)}")
    async with factory._stack:
        yield factory


@pytest.fixture
async def store(store_factory: StoreFactory) -> Store:
    """One connection to a fresh installation."""
    return await store_factory()


@pytest.fixture
async def other(store_factory: StoreFactory, store: Store) -> Store:
    """Another connection to the same installation."""
    return await store_factory()


CLASSES = {
    "postgres": ("scheduledjob.stores.postgres", "PostgresStore"),
    "pgbouncer": ("scheduledjob.stores.postgres", "PostgresStore"),
    "firestore": ("scheduledjob.stores.firestore", "FirestoreStore"),
}


def _server_url(backend: str, request: pytest.FixtureRequest) -> str:
    module, name = CLASSES[backend]
    if not hasattr(importlib.import_module(module), name):
        pytest.skip(f"{name} is not there yet")
    url: str = request.getfixturevalue(f"behaviour_{backend}_url")
    return url


@pytest.fixture(scope="session")
def behaviour_postgres_url(postgres_server: PostgresDatabases) -> Iterator[str]:
    """One database for all tests: installations separate them, as they do in production."""
    dsn = postgres_server.new_database()
    yield dsn
    postgres_server.drop_database(dsn)


@pytest.fixture(scope="session")
def behaviour_pgbouncer_url(behaviour_postgres_url: str, pgbouncer: PgBouncer) -> str:
    return pgbouncer.through(behaviour_postgres_url)


@pytest.fixture(scope="session")
def behaviour_firestore_url(firestore_host: str) -> str:
    return new_target(firestore_host).url
