"""Followers: how a schedule learns that a run which it follows has ended.

History has all ends, and a follower reads them there: when its row is claimed, when it is edited, and once a minute. So
that it need not wait for that minute, the replica that recorded a run *touches* the schedules that follow it, which
makes their rows due at once. A touch that fails is not repeated, because the next read comes within the minute.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from scheduledjob.domain.schedule.followed_runs import upstreams

from .owned_schedule import Phase
from .store import Store, StoreUnavailable
from .turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scheduledjob.domain.schedule.state import RunRecord
    from scheduledjob.domain.time.instants import Instant

    from .owned_schedule import OwnedSchedule

log = structlog.get_logger("scheduledjob.followers")

READERS = 4
"""Histories read at once."""
HISTORY_PAGE = 100
"""Records in one page."""
MAX_PAGES = 10
"""Pages of one upstream in one poll: as much as history keeps of a schedule that ends every few seconds."""


class UpstreamPoller:
    """Reads the upstreams of owned schedules, and touches their followers, while ``run`` runs."""

    def __init__(
        self,
        store: Store,
        followers: Callable[[str], Sequence[str]] | None,
        on_read: Callable[[OwnedSchedule, Sequence[RunRecord] | None], None],
    ) -> None:
        self._store = store
        self._followers = followers
        self._on_read = on_read
        """Called with the records found; None: the store did not answer."""
        self._polls: Turns[OwnedSchedule] = Turns()
        """Tenants take turns, so the many followers of one delay those of another little."""
        self._queued = asyncio.Semaphore(0)
        self._to_touch: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._closing = False

    def poll(self, owned: OwnedSchedule) -> None:
        """Read what this schedule follows."""
        self._polls.put(owned.tenant, owned)
        self._queued.release()

    def notify_followers(self, slug: str) -> None:
        """Runs of this slug are in history now: touch the schedules that follow it."""
        if self._followers is not None and (slugs := self._followers(slug)):
            self._to_touch.update(dict.fromkeys(slugs))
            self._wake.set()

    def close(self) -> None:
        """Send the touches that are pending; then ``run`` returns."""
        self._closing = True
        self._wake.set()
        for _ in range(READERS):
            self._queued.release()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(READERS):
                tasks.create_task(self._read())
            tasks.create_task(self._touch())

    async def _read(self) -> None:
        while await self._queued.acquire() and self._polls:
            owned = self._polls.take()
            if owned.phase >= Phase.RELEASED:  # or LOST
                continue
            records: list[RunRecord] = []
            try:
                for slug in upstreams(owned.schedule):
                    records += await self._ends(slug, owned.schedule.state.followed)
            except StoreUnavailable as error:
                log.warning("the runs that a schedule follows can't be read", slug=owned.row.slug, error=str(error))
                self._on_read(owned, None)
            else:
                self._on_read(owned, records)

    async def _ends(self, slug: str, since: Instant) -> list[RunRecord]:
        """Runs of a slug that finished after ``since``, and possibly some earlier ones."""
        records: list[RunRecord] = []
        before: Instant | None = None
        for _ in range(MAX_PAGES):
            page = await self._store.history(slug, before=before, limit=HISTORY_PAGE)
            records += page
            if len(page) < HISTORY_PAGE or page[-1].finished <= since:
                break
            # The page may cut runs that finished at the same instant, so they are read again.
            again = page[-1].finished + 1
            before = again if before is None or again < before else again - 1
        return records

    async def _touch(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            slugs = list(self._to_touch)
            self._to_touch.clear()
            if slugs:
                try:
                    await self._store.touch(slugs)
                except StoreUnavailable as error:
                    log.warning(
                        "followers could not be notified, and learn of the end of a run later",
                        slugs=len(slugs),
                        error=str(error),
                    )
            elif self._closing:
                return
            if self._closing:
                self._wake.set()
