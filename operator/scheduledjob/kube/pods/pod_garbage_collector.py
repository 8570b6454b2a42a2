"""Deletes the finished Pods that ``history`` does not keep, and Pods whose attempt no schedule has any more."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING

import msgspec
import structlog

from scheduledjob.domain.schedule.state import State, run_id
from scheduledjob.domain.time.instants import from_seconds
from scheduledjob.engine.store import StoreError
from scheduledjob.jobs.container.pods_protocol import PodsUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from scheduledjob.domain.time.instants import Instant
    from scheduledjob.engine.store import Store
    from scheduledjob.engine.stored_row import Row
    from scheduledjob.jobs.container.pod_names import AttemptOf
    from scheduledjob.kube.reconcile.known_objects import KnownObjects

    from .pods_api import ClusterPods

log = structlog.get_logger("scheduledjob.pods")

PRUNE_INTERVAL = 20.0
"""Seconds between two collections."""
LOCK = "pods"


class PodGarbageCollector:
    """``run`` until it is cancelled. One replica at a time collects, the one that has the lock."""

    def __init__(
        self,
        pods: ClusterPods,
        store: Store,
        replica: str,
        objects: KnownObjects,
        now: Callable[[], Instant],
        min_age: float,
    ) -> None:
        """``now`` returns the store's clock. ``min_age`` is how many seconds a finished Pod is kept at least."""
        self._pods = pods
        self._store = store
        self._replica = replica
        self._objects = objects
        self._now = now
        self._min_age = min_age

    async def run(self) -> None:
        while True:
            await asyncio.sleep(PRUNE_INTERVAL)
            try:
                if await self._store.lock(LOCK, self._replica, from_seconds(3 * PRUNE_INTERVAL)):
                    await self._pods.prune(self._now(), self._min_age, self._objects.keep_of, self._active)
            except (StoreError, PodsUnavailable) as error:
                log.info("old Pods could not be deleted yet", error=str(error))

    async def _active(self, attempts: Collection[AttemptOf]) -> Collection[AttemptOf]:
        """Return the attempts that a schedule has or may have. The attempts of unknown objects count as active.

        So do those of Pods that name an object of another namespace: such a Pod is not the operator's.
        """
        by_slug: defaultdict[str, list[AttemptOf]] = defaultdict(list)
        active: list[AttemptOf] = []
        for attempt in attempts:
            observed = self._objects.get(attempt.uid)
            if observed is None or observed.slug != attempt.slug:
                active.append(attempt)
            else:
                by_slug[observed.slug].append(attempt)
        slugs = list(by_slug)
        for slug, row in zip(slugs, await self._store.get(slugs), strict=True):
            active += [
                attempt for attempt in by_slug[slug] if row is None or row.uid != attempt.uid or _has(row, attempt)
            ]
        return active


def _has(row: Row, attempt: AttemptOf) -> bool:
    try:
        state = State.decode(row.state)
    except msgspec.MsgspecError:  # a newer version has written it: that version collects
        return True
    runs = [*state.runs, *state.waiting]
    if state.next is not None:  # it may have started without a write
        runs.append(state.next)
    return any(run_id(row.uid, run) == attempt.run_id and run.attempt == attempt.attempt for run in runs)
