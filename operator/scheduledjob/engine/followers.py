"""Following: how a schedule learns that a run which it follows has ended, and how its followers learn it of its own.

The truth is in history, and a follower reads it there: when its row is claimed, when its wish changes, and once a
minute. So that it need not wait for that minute, whoever has recorded a run *nudges* the schedules that follow it,
which makes their rows due at once. A nudge that fails is not repeated: the minute is there for that.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from scheduledjob.domain.schedule.followed_runs import upstreams

from .store import Store, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scheduledjob.domain.schedule.state import RunRecord
    from scheduledjob.domain.time.instants import Instant

    from .owned_schedule import OwnedSchedule

log = structlog.get_logger("scheduledjob.following")

LOOKERS = 4
"""Histories read at once."""
PAGE = 100
PAGES = 10
"""Of one upstream in one look: as much as history keeps of what ends every few seconds."""


class Following:
    """Reads what the holds of one replica follow, and nudges what follows them, while ``run`` runs."""

    def __init__(
        self,
        store: Store,
        followers: Callable[[str], Sequence[str]] | None,
        on_seen: Callable[[OwnedSchedule, Sequence[RunRecord] | None], None],
    ) -> None:
        self._store = store
        self._followers = followers
        self._on_seen = on_seen
        """Called with what was found; None: the store could not be asked."""
        self._looks: asyncio.Queue[OwnedSchedule | None] = asyncio.Queue()
        self._touched: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._closing = False

    def look(self, hold: OwnedSchedule) -> None:
        """Read what this one follows."""
        self._looks.put_nowait(hold)

    def ended(self, slug: str) -> None:
        """Runs of this slug are in history now."""
        if self._followers is not None and (slugs := self._followers(slug)):
            self._touched.update(dict.fromkeys(slugs))
            self._wake.set()

    def close(self) -> None:
        """Nudge whom there is to nudge, then end ``run``."""
        self._closing = True
        self._wake.set()
        for _ in range(LOOKERS):
            self._looks.put_nowait(None)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(LOOKERS):
                tasks.create_task(self._look())
            tasks.create_task(self._touch())

    async def _look(self) -> None:
        while (hold := await self._looks.get()) is not None:
            if hold.gone or hold.released:
                continue
            found: list[RunRecord] = []
            try:
                for slug in upstreams(hold.schedule):
                    found += await self._ends(slug, hold.schedule.state.followed)
            except StoreUnavailable as error:
                log.warning("what a schedule follows can't be read", slug=hold.row.slug, error=str(error))
                self._on_seen(hold, None)
            else:
                self._on_seen(hold, found)

    async def _ends(self, slug: str, since: Instant) -> list[RunRecord]:
        """Runs of a slug that finished after ``since``, and perhaps some more."""
        found: list[RunRecord] = []
        before: Instant | None = None
        for _ in range(PAGES):
            page = await self._store.history(slug, before=before, limit=PAGE)
            found += page
            if len(page) < PAGE or page[-1].finished <= since:
                break
            # Those that finished at the same instant may be cut by the page: they are read again.
            again = page[-1].finished + 1
            before = again if before is None or again < before else again - 1
        return found

    async def _touch(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            slugs = list(self._touched)
            self._touched.clear()
            if slugs:
                try:
                    await self._store.touch(slugs)
                except StoreUnavailable as error:
                    log.warning("what follows a run learns of its end later", slugs=len(slugs), error=str(error))
            elif self._closing:
                return
            if self._closing:
                self._wake.set()
