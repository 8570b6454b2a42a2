"""What replicas hold for a while: locks, and the word that they live and work for a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scheduledjob.engine.store import Presence

from .part import Part
from .queries import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.domain.time.instants import Micros

_SQL = load("living")


class Living(Part):
    """The part of the store that keeps replicas out of each other's way."""

    async def lock(self, name: str, replica: str, length: Micros) -> bool:
        async with self._pool.connection("taking a lock") as connection:
            return await connection.fetchval(_SQL["lock"], self._installation, name, replica, length) is True

    async def unlock(self, name: str, replica: str) -> None:
        async with self._pool.connection("giving up a lock") as connection:
            await connection.execute(_SQL["unlock"], self._installation, name, replica)

    async def present(self, replica: str, cluster: str, namespaces: Sequence[str], lifetime: Micros) -> list[Presence]:
        """Two transactions, so that of two who come at once one at least sees the other."""
        async with self._pool.connection("announcing presence") as connection:
            await connection.execute(_SQL["present"], self._installation, replica, cluster, list(namespaces), lifetime)
            others = await connection.fetch(_SQL["others"], self._installation, cluster, replica)
        return [Presence(name, who, tuple(where), since) for name, who, where, since in others]
