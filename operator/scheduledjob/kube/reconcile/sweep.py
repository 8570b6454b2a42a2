"""The sweep: lists every ScheduledJob from time to time, so that what the watch has missed is found all the same.

Two things come of one list. Each page is handed on as it comes, and whoever takes it reconciles objects whose
creation or edit was missed and repairs status that is out of date. And the uids say which schedules have lost their
object: a deletion that fell into a broken watch, or happened while no operator ran.

To end somebody's schedule by mistake is worse than to end it late. So the rows are read before the list, a list
counts for a namespace only when it was complete, and a uid goes only when two complete lists in a row lack it. An
error, a 404 of the CRD, a list that expired half-way and a namespace that was not listed say nothing about anybody.

One replica at a time sweeps (``lock``); each counts for itself, and a new one begins at nothing. But each sweeps once
when it begins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from scheduledjob.engine.store import Origin, Store, StoreError
from scheduledjob.kube.client.api import rng
from scheduledjob.kube.client.api_errors import ApiError, ListExpired
from scheduledjob.kube.client.paths import scheduled_jobs

if TYPE_CHECKING:
    from scheduledjob.kube.client.api import Api

log = structlog.get_logger("scheduledjob.sweep")

SWEEP_INTERVAL = 60.0
"""Seconds between two sweeps."""
CONFIRM_DELAY = 5.0
"""Seconds until the second list, when the first lacks somebody."""
LISTS_TO_CONFIRM = 2
"""Complete lists in a row that must lack a uid."""

TakePage = Callable[[list[dict[str, Any]]], Awaitable[None]]
Tombstone = Callable[[Sequence[tuple[str, str]]], Awaitable[object]]


class ScheduleRef(NamedTuple):
    """A schedule that should have an object."""

    slug: str
    """``namespace/name``."""
    uid: str

    @property
    def namespace(self) -> str:
        return self.slug.partition("/")[0]


@dataclass(slots=True)
class ListResult:
    """What one sweep saw."""

    uids: set[str] = field(default_factory=set)
    """Of every object in a list, complete or not."""
    complete: set[str] = field(default_factory=set)
    """Namespaces whose list came to its end; ``""``: all of them."""
    errors: dict[str, str] = field(default_factory=dict)
    """What the API server said, by namespace."""

    def covers(self, namespace: str) -> bool:
        return "" in self.complete or namespace in self.complete


class AbsenceCounter:
    """Counts the complete lists in a row that lack a uid. Pure."""

    def __init__(self) -> None:
        self._lacking: dict[str, int] = {}
        self.unsure = False
        """Whether the last list was the first to lack somebody, so that another should follow soon."""

    def judge(self, known: Iterable[ScheduleRef], listing: ListResult) -> list[ScheduleRef]:
        """Those that are gone for good. ``known``: read before the listing began."""
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
            if count:  # what is gone is kept too, until it is no longer known: burying it may fail
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
    ) -> None:
        """``namespaces``: none means all. ``rows``: the schedules of this installation that came from objects.

        ``on_page`` takes the objects of each page, of complete lists and of others. ``lock`` says whether it is for
        this replica to sweep now. ``every`` is in seconds.
        """
        self._api = api
        self._namespaces = tuple(namespaces) or ("",)
        self._rows = rows
        self._tombstone = tombstone
        self._on_page = on_page
        self._lock = lock
        self._every = every
        self._absences = AbsenceCounter()
        self.last: ListResult | None = None
        """What the last sweep of this replica saw."""

    async def run(self) -> None:
        """Sweep soon, and then every so often; errors of the API server and of the store are waited out.

        The lock does not count until the first sweep is sure of everybody: who has it may have died with all the
        others, and what was deleted since would run on until it passes.
        """
        soon = wait = min(CONFIRM_DELAY, self._every)
        begins = True
        while True:
            await asyncio.sleep(wait * rng.uniform(0.8, 1.0))
            wait = self._every
            try:
                if await self._lock() or begins:
                    await self.sweep()
                    begins = begins and (self._absences.unsure or self._blind)
                    wait = soon if self._absences.unsure else self._every
            except StoreError as error:
                log.warning("the sweep waits for the store", error=str(error))

    async def sweep(self) -> list[ScheduleRef]:
        """List once, hand on what there is, and end the schedules that have lost their object; which they were.

        Raises what ``rows``, ``tombstone`` and ``on_page`` raise.
        """
        known = list(await self._rows())
        listing = await self._list()
        for namespace, error in listing.errors.items():
            if self.last is None or self.last.errors.get(namespace) != error:
                log.warning("ScheduledJobs can't be listed", namespace=namespace or "all", error=error)
        self.last = listing
        gone = self._absences.judge(known, listing)
        if gone:
            log.info("schedules without an object end", count=len(gone), first=gone[0].slug)
            await self._tombstone([(schedule.slug, schedule.uid) for schedule in gone])
        return gone

    @property
    def _blind(self) -> bool:
        """Whether the last list said nothing of somebody."""
        return self.last is None or bool(self.last.errors)

    async def _list(self) -> ListResult:
        listing = ListResult()
        for namespace in self._namespaces:
            try:
                await self._list_one(namespace, listing)
            except ApiError as error:
                listing.errors[namespace] = error.message
            else:
                listing.complete.add(namespace)
        return listing

    async def _list_one(self, namespace: str, listing: ListResult) -> None:
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
    """The schedules of this installation that came from objects of a cluster."""
    known: list[ScheduleRef] = []
    after = ""
    while page := await store.rows(origin=Origin.CLUSTER, after=after):
        known += [ScheduleRef(row.slug, row.uid) for row in page]
        after = page[-1].slug
    return known
