"""What replicas hold for a while: locks of an installation, and the word that they live and work for a cluster.

Each is a document, written on condition that it is as it was read. Its end is the latest that the clock can show
plus the time asked for, and it has passed by the earliest (the opening of ``clock`` says why): who comes after comes
late rather than early.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scheduledjob.engine.store import Presence, StoreUnavailable

from .layout import LOCKS, PRESENCES, lock_path, presence_path
from .operations import Query, StoredDocument, Write
from .retrying import pause
from .wire import Conflict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.domain.time.instants import Micros

    from .clock import FirestoreClock
    from .operations import Fields
    from .wire import Wire

TRIES = 5
MOST = 1_000
"""Locks of one installation, and replicas for one cluster, that are looked at."""


class FirestorePresence:
    """Locks below the installation's document, presences ``common`` to all installations."""

    def __init__(self, wire: Wire, common: Wire, clock: FirestoreClock) -> None:
        self._wire = wire
        self._common = common
        self._clock = clock

    async def lock(self, name: str, replica: str, length: Micros) -> bool:
        path = lock_path(name)
        began = self._clock.reading()
        for attempt in range(TRIES):
            there = (await self._wire.get([path])).get(path)
            taken = there is not None and there.fields["until_at"] > self._clock.earliest()
            if there is not None and taken and there.fields["owner"] != replica:
                return False
            fields: Fields = {"name": name, "owner": replica, "until_at": self._clock.latest(began) + length}
            try:
                await self._wire.commit([_over(there, path, fields)])
            except Conflict:
                await pause(attempt)
                continue
            return True
        raise StoreUnavailable(f"the lock {name!r} could not be taken, because others keep writing it: try again")

    async def unlock(self, name: str, replica: str) -> None:
        path = lock_path(name)
        there = (await self._wire.get([path])).get(path)
        if there is not None:
            await self._give_up([there], replica)

    async def _give_up(self, locks: Sequence[StoredDocument], replica: str) -> None:
        """Those that are the replica's; one that another takes meanwhile stays."""
        mine = [Write(lock.path, stamp=lock.stamp) for lock in locks if lock.fields["owner"] == replica]
        if mine:
            await self._wire.batch_write(mine)

    async def present(
        self, installation: str, replica: str, cluster: str, namespaces: Sequence[str], lifetime: Micros
    ) -> list[Presence]:
        """Looks at the others once it is written down: of two who come at once, one at least sees the other."""
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
        found = await self._common.query(Query(PRESENCES, "since", equals={"cluster": cluster}, limit=MOST))
        now = self._clock.earliest()
        if over := [Write(each.path, stamp=each.stamp) for each in found if each.fields["until_at"] <= now]:
            await self._common.batch_write(over)
        others = [_presence_of(each) for each in found if each.fields["until_at"] > now and each.path != path]
        return sorted(others, key=lambda each: (each.since, each.installation, each.replica))

    async def forget(self, installation: str, replica: str) -> None:
        """The replica's presence, and its locks."""
        await self._write(Write(presence_path(installation, replica)))
        await self._give_up(await self._wire.query(Query(LOCKS, "name", limit=MOST)), replica)

    async def _write(self, write: Write) -> None:
        try:
            await self._common.commit([write])
        except Conflict as conflict:
            raise StoreUnavailable(f"Firestore gave up the write: {conflict}") from conflict


def _presence_of(document: StoredDocument) -> Presence:
    fields = document.fields
    return Presence(fields["installation"], fields["replica"], tuple(fields["namespaces"]), fields["since"])


def _over(there: StoredDocument | None, path: str, fields: Fields) -> Write:
    return Write(path, fields, exists=False) if there is None else Write(path, fields, stamp=there.stamp)
