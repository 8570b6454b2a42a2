"""What is done with a complete list of the objects: missed edits are reconciled, status that is out of date is mended.

Each replica lists once when it begins, because it is ready when it has read everything; from then on one replica at a
time sweeps for all of them.

Who sweeps also ends the schedules of namespaces that were taken off the list: nobody would see what becomes of their
objects, and another installation may run them by now. But a rolling update has replicas with the old list beside those
with the new one, so this waits until no replica that lives watches such a namespace, at two sweeps in a row. The uids
are not buried: should the namespace come back, its schedules go on from what their status remembers.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from scheduledjob.domain.schedule.state import State
from scheduledjob.domain.time.instants import from_seconds
from scheduledjob.kube.client.api_errors import ApiError
from scheduledjob.kube.client.paths import scheduled_jobs
from scheduledjob.kube.report.status import engine_text
from scheduledjob.manifests.status_model import ENGINE_LIMIT

from .desired_state import requests_of
from .sweep import ScheduleRef, Sweeper, schedule_refs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from scheduledjob.engine.store import Row, Store
    from scheduledjob.kube.client.api import Api
    from scheduledjob.kube.report.status_writer import StatusWriter
    from scheduledjob.kube.settings.operator_settings import OperatorSettings
    from scheduledjob.web.metrics import Metrics

    from .known_objects import KnownObjects
    from .reconciler import Reconciler

log = structlog.get_logger("scheduledjob.sweep")

RETRY_DELAY = 2.0
"""Seconds until a first list that failed is begun again."""
LOCK = "sweep"
BATCH = 500
"""Schedules that are ended at once."""


class Resync:
    """The first list, then the sweep."""

    def __init__(
        self,
        settings: OperatorSettings,
        api: Api,
        store: Store,
        replica: str,
        objects: KnownObjects,
        reconciler: Reconciler,
        status: StatusWriter,
        metrics: Metrics,
        unwatched: Callable[[Collection[str]], Awaitable[set[str]]],
    ) -> None:
        """``unwatched``: the namespaces, of those given, for which no replica of this installation works any more."""
        self._settings = settings
        self._api = api
        self._store = store
        self._replica = replica
        self._objects = objects
        self._reconciler = reconciler
        self._status = status
        self._metrics = metrics
        self._unwatched = unwatched
        self._left: set[str] = set()
        """Namespaces with schedules that nobody watched at the last sweep."""
        self.all_listed = asyncio.Event()
        """The store has everything that there was when this replica began."""

    async def run(self) -> None:
        """List, then sweep until it is cancelled."""
        await self._list()
        await self._reconciler.settled()
        self.all_listed.set()
        log.info("every ScheduledJob has been read", objects=len(self._objects))
        sweeper = Sweeper(
            self._api,
            self._settings.namespaces,
            self._rows,
            self._tombstone,
            on_page=self._look_at,
            lock=self._is_ours,
            every=self._settings.sweep_interval,
        )
        await sweeper.run()

    async def _list(self) -> None:
        """Read every object, however long the API server takes to let us."""
        while True:
            try:
                for namespace in self._settings.namespaces or [""]:
                    async for page in self._api.pages(scheduled_jobs(namespace)):
                        for body in page["items"]:
                            self._reconciler.seen(body)
                        await asyncio.sleep(0)  # a page is some milliseconds of work: others have their turn between
            except ApiError as error:
                log.warning("ScheduledJobs can't be listed yet", error=str(error))
                await asyncio.sleep(RETRY_DELAY)
            else:
                return

    async def _is_ours(self) -> bool:
        return await self._store.lock(LOCK, self._replica, from_seconds(3 * self._settings.sweep_interval))

    async def _rows(self) -> list[ScheduleRef]:
        """The schedules of the namespaces that are watched, and an end to those that nobody watches any more."""
        known = await schedule_refs(self._store)
        if not (watched := set(self._settings.namespaces)):
            return known
        if others := {schedule.namespace for schedule in known} - watched:
            others = await self._unwatched(others)
        before, self._left = self._left, others
        if gone := [schedule for schedule in known if schedule.namespace in before & others]:
            await self._give_up(gone)
        return [schedule for schedule in known if schedule.namespace in watched]

    async def _give_up(self, gone: Sequence[ScheduleRef]) -> None:
        namespaces = sorted({schedule.namespace for schedule in gone})
        log.warning("schedules of namespaces that are not watched any more end", count=len(gone), namespaces=namespaces)
        for batch in (gone[start : start + BATCH] for start in range(0, len(gone), BATCH)):
            await self._store.delete([schedule.slug for schedule in batch])
            self._metrics.swept.add(by=len(batch))
            self._reconciler.tombstoned(batch)

    async def _tombstone(self, gone: Sequence[tuple[str, str]]) -> None:
        await self._store.tombstone(gone)
        self._metrics.swept.add(by=len(gone))
        self._reconciler.tombstoned(gone)

    async def _look_at(self, page: list[dict[str, Any]]) -> None:
        """A page of the list, beside what the store has of its objects."""
        slugs = [_slug(body) for body in page]
        for body, row in zip(page, await self._store.get(slugs), strict=True):
            if row is None or _is_behind(row, body):
                self._reconciler.seen(body, again=True)
            else:
                observed = self._objects.saw(body)
                if observed.observed_generation != row.generation or observed.engine != _engine_of(row):
                    self._status.changed(observed.uid)


def _slug(body: Mapping[str, Any]) -> str:
    return f"{body['metadata']['namespace']}/{body['metadata']['name']}"


def _is_behind(row: Row, body: Mapping[str, Any]) -> bool:
    metadata = body["metadata"]
    return (
        "deletionTimestamp" in metadata
        or row.uid != metadata["uid"]
        or row.generation < metadata["generation"]
        or row.requests != requests_of(body).encode()
    )


def _engine_of(row: Row) -> str:
    """``status.engine`` as it should be."""
    try:
        text = engine_text(State.decode(row.state))
    except msgspec.MsgspecError:
        return ""
    return text if len(text) <= ENGINE_LIMIT else ""
