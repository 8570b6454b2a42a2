"""The poll timer: when the claimer next polls the store for work.

The replica makes it first and gives it to both sides. ``Ownership`` reports released rows to it, the store's
notifications and this process report rows that became due, and the claimer sleeps on it.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from .timing import MIN_POLL_INTERVAL

if TYPE_CHECKING:
    from scheduledjob.domain.time.instants import Instant

    from .clock import Clock, StoreClock
    from .replica_settings import ReplicaSettings


class PollTimer:
    """The next poll of one replica. All moments are monotonic seconds."""

    def __init__(self, clock: StoreClock, monotonic: Clock, settings: ReplicaSettings) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._settings = settings
        self._wake = asyncio.Event()
        self.poll_at = float("-inf")
        """The planned poll; -inf while none is planned."""
        self.at_capacity = False
        """Rows that are due wait because the replica has no room for them, or for their tenant."""
        self.stopped = False

    def poll_by(self, moment: float) -> None:
        """Poll at ``moment`` at the latest."""
        if moment < self.poll_at:
            self.poll_at = moment
            self._wake.set()

    def poll_now(self) -> None:
        """Poll at once, although the planned moment may have passed while nothing ran."""
        self.poll_at = float("-inf")
        self._wake.set()

    def due(self, instant: Instant) -> None:
        """A row becomes due at ``instant``: poll shortly before."""
        self.poll_by(self._monotonic() + self._clock.until(instant) - self._settings.ahead)

    def freed(self, instant: Instant | None, used: int) -> None:
        """A place of this replica's capacity is free again, and ``used`` others are not.

        ``instant``: when the row that had it is due again; None: never, or it is still owned.
        """
        if instant is not None:
            self.due(instant)
        if self.at_capacity:
            wanted = min(self._settings.batch, self._settings.capacity // 2)
            enough = self._settings.capacity - used >= wanted
            self.poll_by(self._monotonic() + (0.0 if enough else MIN_POLL_INTERVAL))

    def stop(self) -> None:
        """End every sleep."""
        self.stopped = True
        self._wake.set()

    async def sleep_until(self, moment: float) -> None:
        """Sleep until ``moment``, an earlier one that ``poll_by`` sets meanwhile, or ``stop``."""
        self.poll_at = min(self.poll_at, moment)
        while not self.stopped and (left := self.poll_at - self._monotonic()) > 0:
            await self._wait(left)
        self.poll_at = float("-inf")

    async def pause_until(self, moment: float) -> None:
        """Sleep until ``moment`` or ``stop``, whatever becomes due."""
        while not self.stopped and (left := moment - self._monotonic()) > 0:
            await self._wait(left)
        self.poll_at = float("-inf")

    async def _wait(self, seconds: float) -> None:
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
