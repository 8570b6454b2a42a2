"""Zone refresh: after new zone data, the next slots of all schedules in a time zone are planned anew.

A row waits in the store for a slot that was computed when the last one was decided, perhaps a year ago. So the first
replica with newer zone data than any before it goes through the rows, and touches those that depend on a time zone.
Their next owner then plans by the new data. What was decided stays decided.

A lock of the store remembers that this was done for a version: while a replica does it, the lock is its own, and
afterwards it belongs to ``DONE`` for a day. While replicas with different zone data work side by side, the older ones
plan by their data. A replica that claims such a row says so, and goes through the rows again later. But perhaps nobody
claims the row for a year. So the rows are read again soon after some were touched, because a replica with older data
may have claimed these, and once a day. Replicas that know other kinds of jobs have a lock of their own, because only
who knows a kind can tell whether its slots depend on a time zone.
"""

from __future__ import annotations

import asyncio
import zlib
from typing import TYPE_CHECKING

import structlog

from scheduledjob.domain.schedule.state import State
from scheduledjob.domain.time.instants import MINUTE, from_seconds
from scheduledjob.domain.time.zone_data import ZONE_DATA

from .kinds import UnreadableRowError
from .store import StoreError, StoreUnavailable
from .timing import ZONE_RECHECK_INTERVAL, ZONE_REFRESH_INTERVAL

if TYPE_CHECKING:
    from .replica_settings import ReplicaContext
    from .stored_row import Row

log = structlog.get_logger("scheduledjob.zones")

DONE = "done"
"""The owner of the lock of a version whose rows were read lately."""
_WHILE_WORKING = 10 * MINUTE
"""A replica that dies meanwhile leaves the lock to another one after this time."""
_PAGE = 100
"""Rows that are read between two turns of the event loop: parsing a definition may take half a millisecond."""
_PACE = 24
"""After each full page, the replica rests so many times as long as the page took. Runs must not wait for this."""


class ZoneRefresh:
    """Has rows planned anew for one replica."""

    def __init__(self, context: ReplicaContext) -> None:
        self._context = context
        self._others: set[str] = set()
        """The versions of other replicas' data that were reported."""
        self._again = False

    def planned_by(self, version: str) -> None:
        """A claimed row was planned by another replica with that version of the zone data."""
        self._again |= version < ZONE_DATA.version
        if version not in self._others:
            self._others.add(version)
            log.warning(
                "replicas with different time zone data share a store, and disagree about slots: run the same image",
                here=str(ZONE_DATA),
                elsewhere=version,
            )

    async def run(self) -> None:
        """Refresh at the start, and again after replicas with older data have planned rows."""
        while True:
            try:
                await self.refresh()
            except StoreError as error:
                log.warning("could not plan slots by the new time zone data yet", error=str(error))
            await asyncio.sleep(ZONE_REFRESH_INTERVAL)

    async def refresh(self) -> None:
        """Touch the rows that depend on a time zone, unless a replica with the same kinds did so for this version."""
        store, replica, name = self._context.store, self._context.replica, self._lock_name()
        if self._again:
            await store.unlock(name, DONE)
        if not await store.lock(name, replica, _WHILE_WORKING):
            return
        self._again = False
        after, touched = "", 0
        failure: StoreUnavailable | None = None
        begun = self._context.monotonic()
        while rows := await store.rows(after=after, limit=_PAGE):
            slugs = [row.slug for row in rows if self._is_outdated(row)]
            if slugs:
                try:
                    await store.touch(slugs)
                except StoreUnavailable as error:  # somebody has locked a row, which must not hold up those behind it
                    failure = error
            touched += len(slugs)
            after = rows[-1].slug
            await store.lock(name, replica, _WHILE_WORKING)
            if len(rows) == _PAGE:
                await asyncio.sleep(_PACE * (self._context.monotonic() - begun))
            begun = self._context.monotonic()
        if touched:
            log.info("new time zone data: planning the next slots again", zone_data=str(ZONE_DATA), schedules=touched)
        await store.unlock(name, replica)
        if failure is not None:
            raise failure
        pause = ZONE_REFRESH_INTERVAL / 2 if touched else ZONE_RECHECK_INTERVAL
        await store.lock(name, DONE, from_seconds(pause))

    def _lock_name(self) -> str:
        """Return the name of the lock for this version, and for replicas that know the same kinds of jobs."""
        kinds = "\0".join(sorted(self._context.kinds))
        return f"zone-data-{ZONE_DATA.version}-{zlib.crc32(kinds.encode()):08x}"

    def _is_outdated(self, row: Row) -> bool:
        """Whether older data may have computed the next slot of a row.

        Rows of unknown kinds, and those that this version can't read, are left alone.
        """
        kind = self._context.kinds.get(row.kind)
        if row.wake_at is None or kind is None:
            return False
        try:
            slots = kind.read(row)[1]
            return slots is not None and slots.zoned and State.decode(row.state).zones < ZONE_DATA.version
        except (UnreadableRowError, ValueError):
            return False
