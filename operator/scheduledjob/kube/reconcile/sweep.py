"""The sweep: lists every ScheduledJob from time to time, to find what the watch has missed.

Each page of the list goes to ``on_page``, which reconciles missed creations and edits and writes status that is out of
date. The uids of the whole list show which schedules have lost their object, because it was deleted while the watch was
broken or no operator ran.

It is worse to end a schedule by mistake than to end it late. So the rows are read before the list, a list counts for a
namespace only if it is complete, and a schedule ends only if two complete lists in a row lack its uid. An error, a 404
of the CRD, a list that expired between two pages, and a namespace that was not listed prove nothing.

Only the replica that has ``lock`` sweeps. Each replica counts its own lists, and sweeps once at its start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from scheduledjob.engine.store import Store, StoreError
from scheduledjob.engine.stored_row import Origin
from scheduledjob.kube.client.api import rng
from scheduledjob.kube.client.api_errors import ApiError, ListExpired
from scheduledjob.kube.client.paths import scheduled_jobs

if TYPE_CHECKING:
    from scheduledjob.kube.client.api import Api

log = structlog.get_logger("scheduledjob.sweep")

SWEEP_INTERVAL = 60.0
"""Seconds between two sweeps."""
CONFIRM_DELAY = 5.0
"""Seconds until the second list if the first lacks a uid."""
LISTS_TO_CONFIRM = 2
"""How many complete lists in a row must lack a uid."""

TakePage = Callable[[list[dict[str, Any]]], Awaitable[None]]
Tombstone = Callable[[Sequence[tuple[str, str]]], Awaitable[object]]


class ScheduleRef(NamedTuple):
    """A schedule that should have an object in the cluster."""

    slug: str
    """``namespace/name``."""
    uid: str

    @property
    def namespace(self) -> str:
        return self.slug.partition("/")[0]


@dataclass(slots=True)
class ListResult:
    """What a sweep has listed."""

    uids: set[str] = field(default_factory=set)
    """The uids in all lists, complete or not."""
    complete: set[str] = field(default_factory=set)
    """Namespaces whose list is complete; ``""`` means all namespaces."""
    errors: dict[str, str] = field(default_factory=dict)
    """The error of the API server, by namespace."""

    def covers(self, namespace: str) -> bool:
        return "" in self.complete or namespace in self.complete


class AbsenceCounter:
    """Counts the complete lists in a row that lack a uid. Pure."""

    def __init__(self) -> None:
        self._lacking: dict[str, int] = {}
        self.unsure = False
        """Whether the last list was the first to lack a uid, so that the next list should follow soon."""

    def count(self, known: Iterable[ScheduleRef], listing: ListResult) -> list[ScheduleRef]:
        """Count a list. Return the schedules whose object is gone. ``known`` was read before the list began."""
        before, self._lacking = self._lacking, {}
        gone: list[ScheduleRef] = []
        self.unsure = False
        for schedule in known:
            if schedule.uid in listing.uids:
                continue
            covered = listing.covers(schedule.namespace)
            count = before.get(schedule.uid, 0) + covered
            if count >= LISTS_TO_CONFIRM:
                gone.append(schedule)
            elif covered:
                self.unsure = True
            if count:  # keep the count of what is gone until it is no longer known: the tombstone may fail
                self._lacking[schedule.uid] = count
        return gone


class Sweeper:
    """Sweeps until ``run`` is cancelled."""

    def __init__(
        self,
        api: Api,
        namespaces: Sequence[str],
        rows: Callable[[], Awaitable[Iterable[ScheduleRef]]],
        tombstone: Tombstone,
        *,
        on_page: TakePage,
        lock: Callable[[], Awaitable[bool]],
        every: float = SWEEP_INTERVAL,
        unsure: Callable[[], bool] = lambda: False,
    ) -> None:
        """``namespaces``: empty means all. ``rows`` returns the schedules of this installation that have an object.

        ``on_page`` receives the objects of each page, also of incomplete lists. ``lock`` returns whether this replica
        has to sweep now. ``every`` is in seconds. ``unsure`` returns whether the next list should follow soon.
        """
        self._api = api
        self._namespaces = tuple(namespaces) or ("",)
        self._rows = rows
        self._tombstone = tombstone
        self._on_page = on_page
        self._lock = lock
        self._every = every
        self._unsure = unsure
        self._absences = AbsenceCounter()
        self.last: ListResult | None = None
        """The last list of this replica."""

    async def run(self) -> None:
        """Sweep soon, and then regularly. Errors of the API server and of the store delay it.

        The first sweep does not need the lock, until it has accounted for every schedule: the replica that has the lock
        may be dead, and the schedules of deleted objects would run until the lock expires.
        """
        soon = wait = min(CONFIRM_DELAY, self._every)
        is_first = True
        while True:
            await asyncio.sleep(wait * rng.uniform(0.8, 1.0))
            wait = self._every
            try:
                if await self._lock() or is_first:
                    await self.sweep()
                    is_first = is_first and (self._absences.unsure or self._is_incomplete)
                    wait = soon if self._absences.unsure or self._unsure() else self._every
            except StoreError as error:
                log.warning("the sweep waits for the store", error=str(error))

    async def sweep(self) -> list[ScheduleRef]:
        """List once, pass the pages on, and end the schedules that have lost their object. Return these schedules.

        Raises what ``rows``, ``tombstone`` and ``on_page`` raise.
        """
        known = list(await self._rows())
        listing = await self._list()
        for namespace, error in listing.errors.items():
            if self.last is None or self.last.errors.get(namespace) != error:
                log.warning("ScheduledJobs can't be listed", namespace=namespace or "all", error=error)
        self.last = listing
        gone = self._absences.count(known, listing)
        if gone:
            log.info("ending schedules without an object", count=len(gone), first=gone[0].slug)
            await self._tombstone([(schedule.slug, schedule.uid) for schedule in gone])
        return gone

    @property
    def _is_incomplete(self) -> bool:
        """Whether the last list failed for a namespace."""
        return self.last is None or bool(self.last.errors)

    async def _list(self) -> ListResult:
        listing = ListResult()
        for namespace in self._namespaces:
            try:
                await self._list_namespace(namespace, listing)
            except ApiError as error:
                listing.errors[namespace] = error.message
            else:
                listing.complete.add(namespace)
        return listing

    async def _list_namespace(self, namespace: str, listing: ListResult) -> None:
        for last_try in (False, True):
            try:
                async for page in self._api.pages(scheduled_jobs(namespace)):
                    listing.uids.update(body["metadata"]["uid"] for body in page["items"])
                    await self._on_page(page["items"])
                return
            except ListExpired:
                if last_try:
                    raise


async def schedule_refs(store: Store) -> list[ScheduleRef]:
    """Return the schedules of this installation that have an object in the cluster."""
    known: list[ScheduleRef] = []
    after = ""
    while page := await store.rows(origin=Origin.CLUSTER, after=after):
        known += [ScheduleRef(row.slug, row.uid) for row in page]
        after = page[-1].slug
    return known
