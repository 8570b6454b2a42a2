"""Writes the status of objects whose schedule has changed, as often as the budget allows.

When an object is due, the writer reads its row and its newest runs from the store, so what it writes is always current.
Any replica may write. A write names the version of the object that was known *before* the store was read: if another
replica has written since, the API server refuses the write, and the writer reads the store again.
"""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import structlog

from scheduledjob.domain.schedule.state import State
from scheduledjob.domain.time.instants import SECOND, to_instant
from scheduledjob.engine.capacity import describe_wait
from scheduledjob.engine.kinds import UnreadableRowError
from scheduledjob.engine.store import Store, StoreError
from scheduledjob.kube.client.api_errors import ApiConflict, ApiError, NotFound, is_too_large
from scheduledjob.kube.client.paths import scheduled_jobs
from scheduledjob.kube.reconcile.desired_state import KIND_INVALID
from scheduledjob.manifests.status_model import RECENT_RUNS

from .status import StoredSchedule, build_status, waits_for_capacity
from .status_queue import DEBOUNCE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from scheduledjob.domain.time.instants import Instant
    from scheduledjob.engine.kinds import JobKind
    from scheduledjob.kube.client.api import Api
    from scheduledjob.kube.client.budget import Budget
    from scheduledjob.kube.reconcile.known_objects import KnownObjects, ObservedObject

    from .status import Begun, Waiting
    from .status_queue import StatusQueue

log = structlog.get_logger("scheduledjob.status")

RETRY_DELAY = 2.0
"""Seconds until a failed write is tried again."""
FORBIDDEN_TIMEOUT = 5.0
"""Seconds, in ``flush``, for which 401 and 403 are tried again. The API server may not have read its roles yet; after
that, the permissions were deleted when the chart was uninstalled."""
HOPELESS_RETRY_DELAY = 60.0
"""Seconds until a status that is invalid, too large or unreadable is tried again: waiting alone does not help."""
REFRESH_INTERVAL = 15.0
"""Seconds, at least, after which a status is written again only because its next run has passed."""
WRITERS = 4
"""Writes in flight. An API server that takes 200 ms for each can still use up the budget."""


class StatusReader:
    """Builds the status of an object from the store."""

    def __init__(
        self,
        store: Store,
        kinds: Mapping[str, JobKind],
        now: Callable[[], Instant],
        begun: Callable[[str], Begun],
        waiting: Callable[[str], Waiting] = lambda slug: {},
    ) -> None:
        """``now`` returns the store's clock. ``begun`` returns, for a slug, when the runs that this replica has started
        began, and ``waiting`` what they wait for."""
        self._store = store
        self._kinds = kinds
        self._now = now
        self._begun = begun
        self._waiting = waiting

    async def read(self, observed: ObservedObject) -> tuple[dict[str, Any], State] | None:
        """Return the status and the state that it shows, or None if the store has no schedule of this object."""
        (row,) = await self._store.get([observed.slug])
        if row is None or row.uid != observed.uid:
            return None
        records = await self._store.history(observed.slug, limit=RECENT_RUNS)
        try:
            definition, slots = self._kinds.get(row.kind, self._kinds[KIND_INVALID]).read(row)
        except UnreadableRowError as error:
            log.warning("a newer version has to write this status", slug=observed.slug, error=str(error))
            return None
        own_records = [record for record in records if record.uid == observed.uid]
        stored = StoredSchedule(row, State.decode(row.state), definition, slots, own_records)
        begun = observed.begun | self._begun(observed.slug)
        waiting = self._waiting(observed.slug)
        status = build_status(stored, self._kinds.keys(), observed.since, self._now(), begun, waiting)
        if waits_for_capacity(stored, self._kinds.keys(), self._now()):
            status["nextRun"] = describe_wait(*await self._store.queue_position(row))
        return status, stored.state

    def stale_after(self, status: Mapping[str, Any]) -> float | None:
        """Return the seconds until the next run in a status lies in the past, if a run is active."""
        next_run = status.get("nextRunTime")
        if not status.get("activeCount") or next_run is None:
            return None
        return max(0.0, (to_instant(datetime.fromisoformat(next_run)) - self._now()) / SECOND)


class StatusWriter:
    """``run`` until it is cancelled."""

    def __init__(
        self,
        api: Api,
        objects: KnownObjects,
        budget: Budget,
        queue: StatusQueue,
        reader: StatusReader,
        *,
        on_written: Callable[[ObservedObject, State], object],
    ) -> None:
        """``on_written`` receives the object as it was before the write, and the state that its status shows now."""
        self._api = api
        self._objects = objects
        self._budget = budget
        self._queue = queue
        self._reader = reader
        self._on_written = on_written
        self._flushing = False
        self._refreshes: dict[str, asyncio.TimerHandle] = {}
        """By uid."""
        self._forbidden_until = float("inf")
        self._all_written = True

    @property
    def waiting(self) -> int:
        """Objects whose status is out of date."""
        return len(self._queue)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as writers:
            for _ in range(WRITERS):
                writers.create_task(self._write_all())

    async def flush(self) -> bool:
        """Write every status without regard to the budget, at shutdown. Return False if one can't be written."""
        self._flushing = True
        for timer in self._refreshes.values():
            timer.cancel()
        self._forbidden_until = time.monotonic() + FORBIDDEN_TIMEOUT
        self._queue.hurry()
        self._budget.lift()
        await self._queue.drained()
        return self._all_written

    async def _write_all(self) -> None:
        while True:
            uid = await self._queue.take()
            try:
                await self._write(uid)
            finally:
                self._queue.done(uid)

    async def _write(self, uid: str) -> None:
        observed = self._objects.get(uid)
        if observed is None:
            return
        version = observed.version
        try:
            found = await self._reader.read(observed)
            if found is None:
                return
            status, state = found
            await self._budget.take()
            namespace, _, name = observed.slug.partition("/")
            body = await self._api.patch(
                f"{scheduled_jobs(namespace, name)}/status",
                {"metadata": {"resourceVersion": version}, "status": status},
                {"fieldManager": "scheduledjob"},
                attempts=1,
            )
        except ApiConflict:
            # The object has changed. The write can succeed once the watch has delivered the new version.
            self._queue.changed(uid, DEBOUNCE if self._objects.get(uid) is not observed else RETRY_DELAY)
        except NotFound:
            pass  # the watch or the sweep reports the deletion
        except StoreError as error:
            log.info("a status waits for the store", slug=observed.slug, error=str(error))
            self._queue.changed(uid, RETRY_DELAY)
        except ApiError as error:
            self._refused(uid, observed.slug, error)
        except Exception:  # one object must not stop the status of the others, nor the operator
            log.exception("a status can't be built", slug=observed.slug)
            self._retry_much_later(uid)
        else:
            if self._objects.get(uid) is not None:  # it may have been deleted during the write
                self._objects.update(body)
            self._on_written(observed, state)
            self._refresh_later(uid, self._reader.stale_after(status))

    def _refresh_later(self, uid: str, seconds: float | None) -> None:
        """Write the status again after that time, because its next run lies in the past then."""
        if (timer := self._refreshes.pop(uid, None)) is not None:
            timer.cancel()
        if seconds is not None and not self._flushing:
            loop = asyncio.get_running_loop()
            self._refreshes[uid] = loop.call_later(max(seconds, REFRESH_INTERVAL), self._refresh, uid)

    def _refresh(self, uid: str) -> None:
        self._refreshes.pop(uid, None)
        self._queue.changed(uid)

    def _refused(self, uid: str, slug: str, error: ApiError) -> None:
        too_large = is_too_large(error)
        advice = {"advice": "the object has no room for its status: shorten its spec"} if too_large else {}
        log.warning("a status could not be written", slug=slug, error=str(error), **advice)
        forbidden = error.status in (401, 403) and time.monotonic() >= self._forbidden_until
        if error.status == 422 or too_large or forbidden:
            self._retry_much_later(uid)
        else:
            self._queue.changed(uid, RETRY_DELAY)

    def _retry_much_later(self, uid: str) -> None:
        if self._flushing:
            self._all_written = False
        else:
            self._queue.changed(uid, HOPELESS_RETRY_DELAY)
