"""The store in Postgres: everything in one schema of one database, which any number of replicas and clients share.

Its parts stand beside this file: what clients write (``desired_rows``), what is seen in a cluster (``cluster``), what
replicas do (``replicas``), hear (``listener``) and hold (``living``), and what has been (``past``). Here is how it
begins and ends. The SQL is in ``queries``, the schema in ``migrations``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import migrations
from .history import Past
from .listener import Listening
from .presence import Living
from .queries import load
from .reconciling import Cluster
from .replicas import Replicas

if TYPE_CHECKING:
    from .connections import Connection

_SQL = load("wishes")
_REPLICAS = load("replicas")
_LIVING = load("living")

MIGRATION_TIMEOUT = 600.0
"""Seconds that bringing the schema up to date may take, waiting for others who do so included."""


class PostgresStore(Cluster, Replicas, Living, Listening, Past):
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
            number: int | None = await connection.fetchval(_SQL["installation"], self._installation_name)
            if number is not None:  # None: somebody registers it just now
                await connection.execute(_REPLICAS["forget_replicas"], number)
                await connection.execute(_LIVING["forget_presences"])
                return number

    async def close(self) -> None:
        await self._pool.close()

    async def migrate(self, *, finish: bool = False) -> list[str]:
        async with self._pool.connection("migrating", MIGRATION_TIMEOUT) as connection:
            return await migrations.migrate(connection, finish=finish)
