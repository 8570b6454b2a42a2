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

log = structlog.get_logger("scheduledjob.neighbours")

NAMESPACE_OF_THE_SYSTEM = "/api/v1/namespaces/kube-system"
LIFETIME = 45.0
TELL_EVERY = 10.0
COME_AGAIN = (1.0, 4.0)
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
        self.in_the_way: str | None = None

    async def alone(self, api: Api) -> None:
        """Wait until no other installation works for any of these namespaces."""
        self._cluster = await _cluster_uid(api)
        said = ""
        while True:
            try:
                there = await self._tell()
                if not there:
                    self.in_the_way = None
                    return
                self.in_the_way = _in_words(there)
                await self._store.withdraw(self._replica)
            except StoreError as error:
                self.in_the_way = str(error)
            if self.in_the_way != said:
                said = self.in_the_way or ""
                log.warning("waiting", reason=said)
            await asyncio.sleep(self._rng.uniform(*COME_AGAIN))

    async def stay(self) -> None:
        """Go on telling; until it is cancelled."""
        while True:
            await asyncio.sleep(TELL_EVERY)
            try:
                there = await self._tell()
            except StoreError as error:
                log.info("the store could not be told that this replica lives", error=str(error))
                continue
            if there:
                log.warning("another operator works for the same namespaces", reason=_in_words(there))

    async def unwatched(self, namespaces: Collection[str]) -> set[str]:
        """Those for which no living replica of this installation works. Raises StoreError."""
        watching = [self._namespaces]
        watching += [one.namespaces for one in await self._others() if one.installation == self._installation]
        return {one for one in namespaces if not any(not names or one in names for names in watching)}

    async def _tell(self) -> list[Presence]:
        """Tell that this replica lives; those of other installations that work for a namespace of ours."""
        mine = set(self._namespaces)
        others = [one for one in await self._others() if one.installation != self._installation]
        return [one for one in others if not mine or not one.namespaces or mine & set(one.namespaces)]

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
            namespace = await api.get(NAMESPACE_OF_THE_SYSTEM)
        except ApiError as error:
            if not said:
                log.warning("the cluster's identity (namespace kube-system) can't be read", error=str(error))
                said = True
            await asyncio.sleep(TELL_EVERY)
        else:
            uid: str = namespace["metadata"]["uid"]
            return uid
