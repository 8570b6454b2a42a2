"""Writes status: of the objects whose schedule has changed, as often as the budget allows, and always what is true now.

What is remembered of a change is only that there was one. When its turn comes the row and its newest runs are read
from the store, so a thousand changes cost one write, and the latest wins. Any replica may write: the write names the
version of the object that was known *before* the store was read, so whoever read the store earlier and writes later
is refused, and looks again.

A run that begins is often over before anybody could read of it, so its beginning waits a little for its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import time
from typing import TYPE_CHECKING, Any

import structlog

from scheduledjob.domain.schedule.state import State
from scheduledjob.engine.kinds import UnreadableRowError
from scheduledjob.engine.store import Store, StoreError
from scheduledjob.kube.client.api_errors import ApiConflict, ApiError, NotFound
from scheduledjob.kube.reconcile.desired_state import KIND_INVALID
from scheduledjob.manifests.status_model import RECENT_RUNS
from scheduledjob.resource_names import GROUP, VERSION

from .status import build_status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from scheduledjob.domain.time.instants import Instant
    from scheduledjob.engine.kinds import JobKind
    from scheduledjob.kube.client.api import Api
    from scheduledjob.kube.client.budget import Budget
    from scheduledjob.kube.reconcile.known_objects import KnownObjects, ObservedObject

    from .status import Begun

log = structlog.get_logger("scheduledjob.status")

DEBOUNCE = 0.05
"""Seconds from a change to its write: what follows at once is in the same write."""
START_DELAY = 1.0
"""Seconds from the beginning of a run to the write that tells of it."""
RETRY_DELAY = 2.0
"""Seconds until a write that failed is tried again."""
RIGHTS_TIMEOUT = 5.0
"""Seconds, at the end, after which a refusal for want of rights counts: an uninstall took them, not an API server that
has yet to read its roles."""
HOPELESS_RETRY_DELAY = 60.0
"""Seconds until one is tried again that the API server would not have, or that could not even be made: it is wrong for
a reason that time alone does not mend."""
TOO_LARGE = "request is too large"
"""What etcd says of an object of more than 1.5 MiB, which the API server repeats as an error of its own (500)."""
WRITERS = 4
"""Writes on their way at once: an API server that takes 200 ms for each does not hold up the budget."""


class StatusWriter:
    """``changed`` at any time; ``run`` until it is cancelled."""

    def __init__(
        self,
        api: Api,
        store: Store,
        objects: KnownObjects,
        budget: Budget,
        kinds: Mapping[str, JobKind],
        now: Callable[[], Instant],
        *,
        on_written: Callable[[ObservedObject, State], object],
        begun: Callable[[str], Begun],
    ) -> None:
        """``now``: the store's clock. ``on_written``: the object as it was before, and the state that is told now.
        ``begun``: of a slug, when the runs started that this replica started."""
        self._api = api
        self._store = store
        self._objects = objects
        self._budget = budget
        self._kinds = kinds
        self._now = now
        self._on_written = on_written
        self._begun = begun
        self._agenda: list[tuple[float, str]] = []
        """(monotonic seconds, uid) of each that is to be written; a heap."""
        self._at: dict[str, float] = {}
        """When each is to be written; a place in the agenda that says otherwise is out of date."""
        self._writing: set[str] = set()
        self._came = asyncio.Event()
        self._done = asyncio.Event()
        self._ending = False
        self._rights_until = float("inf")
        self._all_told = True

    @property
    def waiting(self) -> int:
        """Objects whose status is out of date."""
        return len(self._at) + len(self._writing)

    def changed(self, uid: str, after: float = DEBOUNCE) -> None:
        """The status of this object is to be written, ``after`` seconds from now at the earliest."""
        at = time.monotonic() + after
        if at < self._at.get(uid, float("inf")):
            self._put(uid, at)

    def gone(self, uid: str) -> None:
        self._at.pop(uid, None)
        self._done.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as writers:
            for _ in range(WRITERS):
                writers.create_task(self._write_all())

    async def flush(self) -> bool:
        """Bring every status up to date without regard to the budget: for the end of an operator whose store is its
        memory. False: there are some that can't be."""
        self._ending = True
        self._rights_until = time.monotonic() + RIGHTS_TIMEOUT
        for uid in list(self._at):
            self._put(uid, 0.0)
        self._budget.lift()
        while self.waiting:
            self._done.clear()
            await self._done.wait()
        return self._all_told

    async def _write_all(self) -> None:
        while True:
            uid = await self._next()
            self._writing.add(uid)
            try:
                await self._write(uid)
            finally:
                self._writing.discard(uid)
                self._done.set()

    async def _next(self) -> str:
        """Wait for the next object whose time has come."""
        while True:
            left = None
            if self._agenda:
                at, uid = self._agenda[0]
                left = at - time.monotonic()
                if self._at.get(uid) != at:
                    heapq.heappop(self._agenda)
                    continue
                if left <= 0:
                    heapq.heappop(self._agenda)
                    if uid not in self._writing:
                        del self._at[uid]
                        return uid
                    self._put(uid, time.monotonic() + DEBOUNCE)  # after the write that is under way
                    continue
            self._came.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._came.wait()

    def _put(self, uid: str, at: float) -> None:
        self._at[uid] = at
        heapq.heappush(self._agenda, (at, uid))
        self._came.set()

    async def _write(self, uid: str) -> None:
        observed = self._objects.get(uid)
        if observed is None:
            return
        version = observed.version
        try:
            found = await self._status(observed)
            if found is None:
                return
            status, state = found
            await self._budget.take()
            body = await self._api.patch(
                f"{path_of(observed.slug)}/status",
                {"metadata": {"resourceVersion": version}, "status": status},
                {"fieldManager": "scheduledjob"},
                attempts=1,
            )
        except ApiConflict:
            # Somebody wrote the object since; the watch tells what, and only then can it succeed.
            self.changed(uid, DEBOUNCE if self._objects.get(uid) is not observed else RETRY_DELAY)
        except NotFound:
            pass  # the watch or the sweep will tell
        except StoreError as error:
            log.info("a status waits for the store", slug=observed.slug, error=str(error))
            self.changed(uid, RETRY_DELAY)
        except ApiError as error:
            too_large = error.status == 413 or TOO_LARGE in error.message
            advice = {"advice": "the object leaves its status no room: shorten its spec"} if too_large else {}
            log.warning("a status could not be written", slug=observed.slug, error=str(error), **advice)
            without_rights = error.status in (401, 403) and time.monotonic() >= self._rights_until
            if error.status == 422 or too_large or without_rights:
                self._retry_much_later(uid)
            else:
                self.changed(uid, RETRY_DELAY)
        except Exception:  # one object must never keep the others from being told of, nor end the operator
            log.exception("a status can't be told", slug=observed.slug)
            self._retry_much_later(uid)
        else:
            if self._objects.get(uid) is not None:  # its end may have been seen while this was on its way
                self._objects.saw(body)
            self._on_written(observed, state)

    def _retry_much_later(self, uid: str) -> None:
        if self._ending:
            self._all_told = False
        else:
            self.changed(uid, HOPELESS_RETRY_DELAY)

    async def _status(self, observed: ObservedObject) -> tuple[dict[str, Any], State] | None:
        """What is to stand there; None where the store has nothing to say of this object."""
        (row,) = await self._store.get([observed.slug])
        if row is None or row.uid != observed.uid:
            return None
        records = await self._store.history(observed.slug, limit=RECENT_RUNS)
        try:
            definition, slots = self._kinds.get(row.kind, self._kinds[KIND_INVALID]).read(row)
        except UnreadableRowError as error:
            log.warning("a status is left to a newer replica", slug=observed.slug, error=str(error))
            return None
        own = [record for record in records if record.uid == observed.uid]
        state = State.decode(row.state)
        begun = observed.begun | self._begun(observed.slug)
        status = build_status(
            row, state, definition, slots, own, self._kinds.keys(), observed.since, self._now(), begun
        )
        return status, state


def path_of(slug: str) -> str:
    """The path of an object."""
    namespace, _, name = slug.partition("/")
    return f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/scheduledjobs/{name}"
