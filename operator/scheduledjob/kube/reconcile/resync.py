"""Lists every ScheduledJob: once at the start, and from then on in the sweep.

Each replica lists at its start, because it is ready only when it has read every object. After that, one replica at a
time sweeps for all of them: it reconciles edits that the watch has missed, and writes status that is out of date.

The sweep also ends the schedules of namespaces that were removed from the operator's list: it no longer watches their
objects, and another installation may run them already. During a rolling update some replicas have the old list,
so the sweep waits until no live replica watches such a namespace, in two sweeps in a row. It deletes these schedules
without a tombstone: if the namespace is added again, they continue from their status.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec
import structlog

from scheduledjob.domain.schedule.requests import without_earlier
from scheduledjob.domain.schedule.restore import is_older, told_state
from scheduledjob.domain.schedule.state import State
from scheduledjob.domain.time.instants import from_seconds
from scheduledjob.engine.store import StoreError
from scheduledjob.kube.client.api_errors import ApiError
from scheduledjob.kube.client.paths import scheduled_jobs
from scheduledjob.kube.report.status import engine_text
from scheduledjob.manifests.status_model import ENGINE_LIMIT

from .desired_state import requests_of, slug_of
from .known_objects import is_newer
from .sweep import ScheduleRef, Sweeper, schedule_refs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from scheduledjob.engine.store import Store
    from scheduledjob.engine.stored_row import Row
    from scheduledjob.kube.client.api import Api
    from scheduledjob.kube.report.status_queue import StatusQueue
    from scheduledjob.kube.settings.operator_settings import OperatorSettings

    from .known_objects import KnownObjects
    from .reconciler import Reconciler

log = structlog.get_logger("scheduledjob.sweep")

RETRY_DELAY = 2.0
"""Seconds until the first list is tried again."""
LOCK = "sweep"
BATCH = 500
"""Schedules in one deletion."""


class RestoreObserver(Protocol):
    """Learns what was restored from a backup."""

    def object_restored(self, body: Mapping[str, Any]) -> None:
        """The cluster has an older version of this object than the store."""

    def store_restored(self, body: Mapping[str, Any]) -> None:
        """The store has an older state of this object than its status."""


class _Suspect(NamedTuple):
    """What was known of an object when a list had an older version of it. A later list can't, unless etcd went back."""

    generation: int
    """The generation in the store; 0 if the object is deleted there."""
    version: str
    """The resourceVersion that this replica has seen."""


class PageCheck:
    """Compares listed objects with the store, and finds out whether either was restored from a backup.

    A store that was restored has less history than the status of the objects, which was read from it. Then the state of
    the schedule is taken from status, as if the store did not know the object.

    An etcd that was restored has objects that the store knows to be deleted, or knows in a later generation. A late
    write looks the same. But a list is consistent: it can't lack what was known before it began. So the second list
    tells, and then the object wins over the store.
    """

    def __init__(
        self, store: Store, objects: KnownObjects, reconciler: Reconciler, queue: StatusQueue, observer: RestoreObserver
    ) -> None:
        self._store = store
        self._objects = objects
        self._reconciler = reconciler
        self._queue = queue
        self._observer = observer
        self._suspects: dict[str, _Suspect] = {}
        """By uid: known before this list began."""
        self._found: dict[str, _Suspect] = {}
        """By uid: found in this list."""

    @property
    def unsure(self) -> bool:
        """Whether the next list should follow soon, because it shows whether etcd was restored."""
        return bool(self._found)

    def begin(self) -> None:
        """A list begins."""
        self._suspects, self._found = self._found, {}
        for uid, generation in self._reconciler.take_refused().items():
            self._suspects.setdefault(uid, _Suspect(generation, "0"))

    async def check(self, page: list[dict[str, Any]]) -> None:
        """Reconcile the objects that the store has missed, and queue the status that is out of date."""
        slugs = [slug_of(body) for body in page]
        for body, row in zip(page, await self._store.get(slugs), strict=True):
            await asyncio.sleep(0)  # the state of one object may take a millisecond to read
            if self._is_restored(body, row):
                self._observer.object_restored(body)
                self._reconciler.observe(body, force=True, restored=True)
            elif row is None or _is_behind(row, body):
                self._reconciler.observe(body, force=True)
            elif not await self._restore_row(body, row):
                observed = self._objects.update(body)
                if observed.observed_generation != row.generation or observed.engine != _engine_of(row):
                    self._queue.changed(observed.uid)

    async def compare(self, page: list[dict[str, Any]]) -> None:
        """Only find the objects whose status has more history than the store."""
        slugs = [slug_of(body) for body in page]
        for body, row in zip(page, await self._store.get(slugs), strict=True):
            await asyncio.sleep(0)
            if row is not None:
                await self._restore_row(body, row)

    def _is_restored(self, body: Mapping[str, Any], row: Row | None) -> bool:
        """Return whether etcd was restored to this older version of an object."""
        metadata = body["metadata"]
        uid, generation, version = metadata["uid"], metadata["generation"], metadata["resourceVersion"]
        stored = row.generation if row is not None and row.uid == uid else 0
        known = self._objects.get(uid)
        seen = known.version if known is not None else "0"
        if "deletionTimestamp" in metadata:
            return False
        suspect = self._suspects.get(uid)
        if suspect is not None:
            is_deleted = suspect.generation == 0 and suspect.version == "0" and not stored
            if is_deleted or generation < suspect.generation or is_newer(suspect.version, version):
                return True
        if stored > generation or is_newer(seen, version):
            self._found[uid] = _Suspect(stored, seen)
        return False

    async def _restore_row(self, body: Mapping[str, Any], row: Row) -> bool:
        """If the status has more history than the store, have the row created from it. Return whether it has."""
        text = (body.get("status") or {}).get("engine", "")
        if not text or row.uid != body["metadata"]["uid"] or text == _engine_of(row):
            return False
        told = told_state(text)
        try:
            if told is None or not is_older(State.decode(row.state), told):
                return False
        except msgspec.MsgspecError:  # a newer version wrote the row
            return False
        self._observer.store_restored(body)
        await self._store.delete([row.slug], ends_runs=False)
        self._reconciler.observe(body, force=True)
        return True


class Resync:
    """The first list, then the sweep."""

    def __init__(
        self,
        settings: OperatorSettings,
        api: Api,
        store: Store,
        replica: str,
        reconciler: Reconciler,
        page_check: PageCheck,
        *,
        unwatched: Callable[[Collection[str]], Awaitable[set[str]]],
    ) -> None:
        """``unwatched`` returns those of the given namespaces that no replica of this installation watches."""
        self._settings = settings
        self._api = api
        self._store = store
        self._replica = replica
        self._reconciler = reconciler
        self._page_check = page_check
        self._unwatched = unwatched
        self._abandoned: set[str] = set()
        """Namespaces with schedules that no replica watched at the last sweep."""
        self.all_listed = asyncio.Event()
        """Set when the store has every object that existed when this replica started, as it was then, and no state that
        is older than its status."""

    async def run(self) -> None:
        """List, then sweep until cancelled."""
        count = await self._list()
        await self._reconciler.settled()
        self.all_listed.set()
        log.info("every ScheduledJob has been read", objects=count)
        sweeper = Sweeper(
            self._api,
            self._settings.namespaces,
            self._rows,
            self._tombstone,
            on_page=self._page_check.check,
            lock=self._lock,
            every=self._settings.sweep_interval,
            unsure=lambda: self._page_check.unsure,
        )
        await sweeper.run()

    async def _list(self) -> int:
        """Read every object. Try again until the API server allows it. Return how many there are."""
        while True:
            count = 0
            try:
                for namespace in self._settings.namespaces or [""]:
                    async for page in self._api.pages(scheduled_jobs(namespace)):
                        await self._page_check.compare(page["items"])
                        for body in page["items"]:
                            self._reconciler.observe(body)
                        count += len(page["items"])
                        await asyncio.sleep(0)  # a page takes some milliseconds: let other tasks run in between
            except (ApiError, StoreError) as error:
                log.warning("ScheduledJobs can't be listed yet", error=str(error))
                await asyncio.sleep(RETRY_DELAY)
            else:
                return count

    async def _lock(self) -> bool:
        return await self._store.lock(LOCK, self._replica, from_seconds(3 * self._settings.sweep_interval))

    async def _rows(self) -> list[ScheduleRef]:
        """Return the schedules of the watched namespaces. Delete those of abandoned namespaces. A list follows."""
        self._page_check.begin()
        known = await schedule_refs(self._store)
        if not (watched := set(self._settings.namespaces)):
            return known
        if others := {schedule.namespace for schedule in known} - watched:
            others = await self._unwatched(others)
        before, self._abandoned = self._abandoned, others
        if gone := [schedule for schedule in known if schedule.namespace in before & others]:
            await self._delete(gone)
        return [schedule for schedule in known if schedule.namespace in watched]

    async def _delete(self, gone: Sequence[ScheduleRef]) -> None:
        namespaces = sorted({schedule.namespace for schedule in gone})
        log.warning(
            "deleting schedules of namespaces that are no longer watched", count=len(gone), namespaces=namespaces
        )
        for batch in (gone[start : start + BATCH] for start in range(0, len(gone), BATCH)):
            await self._store.delete([schedule.slug for schedule in batch])
            self._reconciler.swept(batch)

    async def _tombstone(self, gone: Sequence[tuple[str, str]]) -> None:
        await self._store.tombstone(gone)
        self._reconciler.swept(gone)


def _is_behind(row: Row, body: Mapping[str, Any]) -> bool:
    metadata = body["metadata"]
    return (
        "deletionTimestamp" in metadata
        or row.uid != metadata["uid"]
        or row.generation < metadata["generation"]
        or without_earlier(row.requests) != requests_of(body).encode()
    )


def _engine_of(row: Row) -> str:
    """Return what ``status.engine`` should be."""
    try:
        text = engine_text(State.decode(row.state))
    except msgspec.MsgspecError:
        return ""
    return text if len(text) <= ENGINE_LIMIT else ""
