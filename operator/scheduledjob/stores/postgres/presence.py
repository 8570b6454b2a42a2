"""Presence: the replicas that live, the clusters that they work for, and the locks that they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from scheduledjob.engine.store import Presence, ReplicaInfo

from .migrations import SCHEMA_VERSION
from .part import PostgresPart
from .queries import SQL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.domain.time.instants import Instant, Micros


class PostgresPresence(PostgresPart):
    """The part of the store that knows which replicas live."""

    async def lock(self, name: str, replica: str, length: Micros) -> bool:
        async with self._pool.connection("taking a lock") as connection:
            return await connection.fetchval(SQL["lock"], self._installation, name, replica, length) is True

    async def unlock(self, name: str, replica: str) -> None:
        async with self._pool.connection("giving up a lock") as connection:
            await connection.execute(SQL["unlock"], self._installation, name, replica)

    async def present(self, replica: str, cluster: str, namespaces: Sequence[str], lifetime: Micros) -> list[Presence]:
        """Use two transactions, so that of two replicas that start at once at least one sees the other."""
        async with self._pool.connection("announcing presence") as connection:
            await connection.execute(SQL["present"], self._installation, replica, cluster, list(namespaces), lifetime)
            others = await connection.fetch(SQL["others"], self._installation, cluster, replica)
        return [Presence(name, who, tuple(where), since) for name, who, where, since in others]

    async def announce(self, replica: ReplicaInfo, poll_at: Instant) -> None:
        self._replicas.add(replica.id)
        async with self._pool.connection("announcing the replica") as connection:
            await connection.execute(
                SQL["announce"], self._installation, replica.id, replica.program_version,
                replica.schema_version or SCHEMA_VERSION, poll_at, msgspec.json.encode(replica.details).decode(),
            )  # fmt: skip

    async def withdraw(self, replica: str) -> None:
        async with self._pool.connection("withdrawing the replica") as connection:
            await connection.execute(SQL["withdraw"], self._installation, replica)
