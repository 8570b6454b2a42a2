"""Other operators that share the store.

Two installations must not run the jobs of the same namespace, and an installation must not continue to run the jobs of
a namespace that it no longer watches.

Each replica announces in the store which namespaces of which cluster it serves. A replica that finds another
installation for one of its namespaces withdraws its announcement and waits, so the operator that came first continues.
If two start at the same time, both withdraw and try again after different delays.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import structlog

from scheduledjob.domain.time.instants import from_seconds
from scheduledjob.engine.store import StoreError
from scheduledjob.kube.client.api_errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from scheduledjob.engine.store import Presence, Store
    from scheduledjob.kube.client.api import Api

log = structlog.get_logger("scheduledjob.peers")

SYSTEM_NAMESPACE_PATH = "/api/v1/namespaces/kube-system"
LIFETIME = 45.0
"""Seconds until an announcement expires."""
ANNOUNCE_INTERVAL = 10.0
"""Seconds between two announcements."""
RETRY_RANGE = (1.0, 4.0)
"""Seconds from a conflict to the next attempt, chosen at random."""


class Peers:
    """``wait_until_alone`` first, then ``keep_announcing`` while this replica works."""

    def __init__(self, store: Store, installation: str, replica: str, namespaces: Sequence[str]) -> None:
        """``replica`` is the unique name of this replica. ``namespaces``: empty means all."""
        self._store = store
        self._installation = installation
        self.replica = replica
        self._namespaces = tuple(namespaces)
        self._cluster = ""
        self._rng = random.Random()  # noqa: S311  # spreads load, guards nothing
        self.conflict: str | None = None
        """Why ``wait_until_alone`` waits."""

    async def wait_until_alone(self, api: Api) -> None:
        """Wait until no other installation serves any of these namespaces."""
        self._cluster = await _cluster_uid(api)
        logged: str | None = None
        while True:
            try:
                conflicting = await self._announce()
                if not conflicting:
                    self.conflict = None
                    return
                self.conflict = _describe(conflicting)
                await self._store.withdraw(self.replica)
            except StoreError as error:
                self.conflict = str(error)
            if self.conflict != logged:
                logged = self.conflict
                log.warning("waiting for another installation", reason=logged)
            await asyncio.sleep(self._rng.uniform(*RETRY_RANGE))

    async def keep_announcing(self) -> None:
        """Announce this replica until cancelled."""
        while True:
            await asyncio.sleep(ANNOUNCE_INTERVAL)
            try:
                conflicting = await self._announce()
            except StoreError as error:
                log.info("this replica could not be announced in the store", error=str(error))
                continue
            if conflicting:
                log.warning("another operator serves the same namespaces", reason=_describe(conflicting))

    async def unwatched(self, namespaces: Collection[str]) -> set[str]:
        """Return those that no live replica of this installation serves. Raises StoreError."""
        watching = [self._namespaces]
        watching += [
            presence.namespaces for presence in await self._others() if presence.installation == self._installation
        ]
        return {namespace for namespace in namespaces if not any(not names or namespace in names for names in watching)}

    async def _announce(self) -> list[Presence]:
        """Announce this replica. Return the replicas of other installations that serve a namespace of ours."""
        mine = set(self._namespaces)
        others = [presence for presence in await self._others() if presence.installation != self._installation]
        return [
            presence for presence in others if not mine or not presence.namespaces or mine & set(presence.namespaces)
        ]

    async def _others(self) -> list[Presence]:
        """Announce this replica. Return all others of this cluster."""
        return await self._store.present(self.replica, self._cluster, self._namespaces, from_seconds(LIFETIME))


def _describe(conflicting: Sequence[Presence]) -> str:
    first = conflicting[0]
    where = f"namespaces {', '.join(first.namespaces)}" if first.namespaces else "all namespaces"
    return (
        f"installation {first.installation!r} in the same store serves {where} of this cluster (replica "
        f"{first.replica}): stop it, give both the same --instance, or give them different --namespaces"
    )


async def _cluster_uid(api: Api) -> str:
    """Return what identifies this cluster: the uid of its kube-system namespace."""
    logged = False
    while True:
        try:
            namespace = await api.get(SYSTEM_NAMESPACE_PATH)
        except ApiError as error:
            if not logged:
                log.warning("the namespace kube-system, which identifies the cluster, can't be read", error=str(error))
                logged = True
            await asyncio.sleep(ANNOUNCE_INTERVAL)
        else:
            uid: str = namespace["metadata"]["uid"]
            return uid
