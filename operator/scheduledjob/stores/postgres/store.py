"""The store in Postgres: one schema of one database, which any number of replicas and clients share.

The parts are beside this file: ``schedules`` (what clients write), ``reconciling`` (what is observed in a cluster),
``claims``, ``settling``, ``hook_calls``, ``presence`` (what replicas do), ``listener`` (what they are notified of),
``history`` and ``clock``. This module connects, registers the installation, migrates and closes. The SQL is in
``queries``, the schema in ``migrations``.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from scheduledjob.engine.store import StoreUnavailable

from . import migrations
from .claims import PostgresClaims
from .clock import PostgresClock
from .connections import waited_in_vain
from .history import PostgresHistory
from .hook_calls import PostgresHookCalls
from .listener import PostgresListener
from .presence import PostgresPresence
from .queries import SQL
from .reconciling import PostgresReconciling
from .settling import PostgresSettling

if TYPE_CHECKING:
    from .connections import Connection

MIGRATION_TIMEOUT = 600.0
"""Time limit in seconds of a migration, including the wait for other processes that migrate."""
MIGRATION_RETRY_DELAY = 0.5
"""Seconds between two attempts, in which statements that queue behind a migration's locks are carried out."""


class PostgresStore(
    PostgresReconciling,
    PostgresClaims,
    PostgresSettling,
    PostgresPresence,
    PostgresListener,
    PostgresHistory,
    PostgresHookCalls,
    PostgresClock,
):
    """One installation in one database. Implements ``Store`` and ``Migrating``."""

    async def connect(self) -> None:
        async with self._pool.connection("connecting") as connection:
            needed = await migrations.needed(connection)
        if needed:
            await self.migrate()
        async with self._pool.connection("connecting") as connection:
            self._installation_id = await self._register(connection)
        await self._choose_polling()

    async def _register(self, connection: Connection) -> int:
        while True:
            number: int | None = await connection.fetchval(SQL["register_installation"], self._installation_name)
            if number is not None:  # None: another process is registering it now
                await connection.execute(SQL["delete_dead_replicas"], number)
                await connection.execute(SQL["delete_expired_presences"])
                return number

    async def close(self) -> None:
        await self._pool.close()

    async def migrate(self, *, finish: bool = False) -> list[str]:
        deadline = time.monotonic() + MIGRATION_TIMEOUT
        while True:
            try:
                async with self._pool.connection("migrating", MIGRATION_TIMEOUT) as connection:
                    return await migrations.migrate(connection, finish=finish)
            except StoreUnavailable as error:
                if not waited_in_vain(error) or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(MIGRATION_RETRY_DELAY)
