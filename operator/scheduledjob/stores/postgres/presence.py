"""Presence: which replicas are alive, which clusters they work for, and which locks they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from scheduledjob.engine.store import Presence, ReplicaInfo, StoreUnavailable

from .connections import waited_in_vain
from .migrations import SCHEMA_VERSION
from .part import PostgresPart
from .queries import SQL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.domain.time.instants import Instant, Micros


class PostgresPresence(PostgresPart):
    """The part of the store that knows which replicas are alive."""

    async def lock(self, name: str, replica: str, length: Micros) -> bool:
        async with self._pool.connection("taking a lock") as connection:
            return await connection.fetchval(SQL["take_lock"], self._installation, name, replica, length) is True

    async def unlock(self, name: str, replica: str) -> None:
        async with self._pool.connection("releasing a lock") as connection:
            await connection.execute(SQL["release_lock"], self._installation, name, replica)

    async def present(self, replica: str, cluster: str, namespaces: Sequence[str], lifetime: Micros) -> list[Presence]:
        """Use two transactions, so that of two replicas that start at once at least one sees the other."""
        async with self._pool.connection("announcing presence") as connection:
            await connection.execute(
                SQL["upsert_presence"], self._installation, replica, cluster, list(namespaces), lifetime
            )
            others = await connection.fetch(SQL["select_others"], self._installation, cluster, replica)
        return [Presence(installation, other, tuple(watched), since) for installation, other, watched, since in others]

    async def announce(self, replica: ReplicaInfo, poll_at: Instant) -> bool:
        lend = self._pool.transaction if self._server.pooled else self._pool.connection
        try:
            async with lend("announcing the replica") as connection:
                await connection.execute(
                    SQL["upsert_replica"], self._installation, replica.id, replica.program_version,
                    replica.schema_version or SCHEMA_VERSION, poll_at, msgspec.json.encode(replica.details).decode(),
                )  # fmt: skip
        except StoreUnavailable as error:
            if waited_in_vain(error):
                return False
            raise
        return True

    async def withdraw(self, replica: str) -> None:
        async with self._pool.connection("withdrawing the replica") as connection:
            await connection.execute(SQL["delete_replica"], self._installation, replica)
