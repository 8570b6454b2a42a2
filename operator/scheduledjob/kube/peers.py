"""Other operators that share the store: two installations must not run the jobs of one namespace, and one installation
must not go on running those of a namespace that it watches no more.

Each replica tells the store which namespaces of which cluster it works for, as long as it lives. Who finds somebody of
another installation there before, takes its own word back and waits, so that who works goes on and who comes later
says why it does not. Two that come at once both step back, and come again at different times.
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
ANNOUNCE_INTERVAL = 10.0
RETRY_RANGE = (1.0, 4.0)
"""Seconds, drawn anew each time."""


class Peers:
    """``alone`` first, then ``stay`` for as long as this replica works."""

    def __init__(self, store: Store, installation: str, replica: str, namespaces: Sequence[str]) -> None:
        """``namespaces``: empty for all."""
        self._store = store
        self._installation = installation
        self._replica = replica
        self._namespaces = tuple(namespaces)
        self._cluster = ""
        self._rng = random.Random()  # noqa: S311  # spreads load, guards nothing
        self.conflict: str | None = None

    async def alone(self, api: Api) -> None:
        """Wait until no other installation works for any of these namespaces."""
        self._cluster = await _cluster_uid(api)
        said = ""
        while True:
            try:
                there = await self._announce()
                if not there:
                    self.conflict = None
                    return
                self.conflict = _in_words(there)
                await self._store.withdraw(self._replica)
            except StoreError as error:
                self.conflict = str(error)
            if self.conflict != said:
                said = self.conflict or ""
                log.warning("waiting", reason=said)
            await asyncio.sleep(self._rng.uniform(*RETRY_RANGE))

    async def stay(self) -> None:
        """Go on telling; until it is cancelled."""
        while True:
            await asyncio.sleep(ANNOUNCE_INTERVAL)
            try:
                there = await self._announce()
            except StoreError as error:
                log.info("the store could not be told that this replica lives", error=str(error))
                continue
            if there:
                log.warning("another operator works for the same namespaces", reason=_in_words(there))

    async def unwatched(self, namespaces: Collection[str]) -> set[str]:
        """Those for which no living replica of this installation works. Raises StoreError."""
        watching = [self._namespaces]
        watching += [
            presence.namespaces for presence in await self._others() if presence.installation == self._installation
        ]
        return {namespace for namespace in namespaces if not any(not names or namespace in names for names in watching)}

    async def _announce(self) -> list[Presence]:
        """Tell that this replica lives; those of other installations that work for a namespace of ours."""
        mine = set(self._namespaces)
        others = [presence for presence in await self._others() if presence.installation != self._installation]
        return [
            presence for presence in others if not mine or not presence.namespaces or mine & set(presence.namespaces)
        ]

    async def _others(self) -> list[Presence]:
        return await self._store.present(self._replica, self._cluster, self._namespaces, from_seconds(LIFETIME))


def _in_words(there: Sequence[Presence]) -> str:
    first = there[0]
    where = f"namespaces {', '.join(first.namespaces)}" if first.namespaces else "all namespaces"
    return (
        f"installation {first.installation!r} in the same store works for {where} of this cluster (replica "
        f"{first.replica}): end it, give both the same --instance, or other --namespaces"
    )


async def _cluster_uid(api: Api) -> str:
    """What tells this cluster from others: the uid of its kube-system namespace."""
    said = False
    while True:
        try:
            namespace = await api.get(SYSTEM_NAMESPACE_PATH)
        except ApiError as error:
            if not said:
                log.warning("the cluster's identity (namespace kube-system) can't be read", error=str(error))
                said = True
            await asyncio.sleep(ANNOUNCE_INTERVAL)
        else:
            uid: str = namespace["metadata"]["uid"]
            return uid
