"""Presence: locks of an installation, and which replicas are alive and work for which cluster.

Each is a document, which is written on condition that it is as it was read. Its end is computed from the latest time
of the clock, and compared with the earliest (``clock`` says why). So it ends for others rather too late than too early.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scheduledjob.engine.store import Presence, StoreUnavailable

from .layout import LOCKS, PRESENCES, lock_path, presence_path
from .operations import Query, StoredDocument, Write, write_over
from .retrying import pause
from .wire import Conflict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.domain.time.instants import Micros

    from .clock import FirestoreClock
    from .operations import Fields
    from .wire import Wire

ATTEMPTS = 5
MAX_DOCUMENTS = 1_000
"""The most locks of one installation, and replicas of one cluster, that are read."""


class FirestorePresence:
    """Locks below the installation's document, and presences below one that is ``common`` to all installations."""

    def __init__(self, wire: Wire, common: Wire, clock: FirestoreClock) -> None:
        self._wire = wire
        self._common = common
        self._clock = clock

    async def lock(self, name: str, replica: str, length: Micros) -> bool:
        path = lock_path(name)
        began = self._clock.reading()
        for attempt in range(ATTEMPTS):
            existing = (await self._wire.get([path])).get(path)
            taken = existing is not None and existing.fields["until_at"] > self._clock.earliest()
            if existing is not None and taken and existing.fields["owner"] != replica:
                return False
            fields: Fields = {"name": name, "owner": replica, "until_at": self._clock.latest(began) + length}
            try:
                await self._wire.commit([write_over(existing, path, fields)])
            except Conflict:
                await pause(attempt)
                continue
            return True
        raise StoreUnavailable(f"the lock {name!r} could not be taken, because others keep writing it: try again")

    async def unlock(self, name: str, replica: str) -> None:
        path = lock_path(name)
        existing = (await self._wire.get([path])).get(path)
        if existing is not None:
            await self._release([existing], replica)

    async def _release(self, locks: Sequence[StoredDocument], replica: str) -> None:
        """Delete the replica's locks, except one that another replica takes meanwhile."""
        mine = [Write(lock.path, stamp=lock.stamp) for lock in locks if lock.fields["owner"] == replica]
        if mine:
            await self._wire.batch_write(mine)

    async def present(
        self, installation: str, replica: str, cluster: str, namespaces: Sequence[str], lifetime: Micros
    ) -> list[Presence]:
        """Read the others after writing, so that of two replicas that start at once at least one sees the other."""
        path = presence_path(installation, replica)
        before = (await self._common.get([path])).get(path)
        now = self._clock.earliest()
        fields: Fields = {
            "installation": installation,
            "replica": replica,
            "cluster": cluster,
            "namespaces": list(namespaces),
            "since": before.fields["since"] if before is not None and before.fields["until_at"] > now else now,
            "until_at": self._clock.latest() + lifetime,
        }
        await self._write(Write(path, fields))
        found = await self._common.query(Query(PRESENCES, "since", equals={"cluster": cluster}, limit=MAX_DOCUMENTS))
        now = self._clock.earliest()
        expired = [document for document in found if document.fields["until_at"] <= now]
        if expired:
            await self._common.batch_write([Write(document.path, stamp=document.stamp) for document in expired])
        others = [_presence_of(other) for other in found if other.fields["until_at"] > now and other.path != path]
        return sorted(others, key=lambda other: (other.since, other.installation, other.replica))

    async def forget(self, installation: str, replica: str) -> None:
        """Delete the replica's presence and its locks."""
        await self._write(Write(presence_path(installation, replica)))
        await self._release(await self._wire.query(Query(LOCKS, "name", limit=MAX_DOCUMENTS)), replica)

    async def _write(self, write: Write) -> None:
        try:
            await self._common.commit([write])
        except Conflict as conflict:
            raise StoreUnavailable(f"Firestore gave up the write: {conflict}") from conflict


def _presence_of(document: StoredDocument) -> Presence:
    fields = document.fields
    return Presence(fields["installation"], fields["replica"], tuple(fields["namespaces"]), fields["since"])
