"""The claimer: looks at the store for work, when it must and no more often.

It claims a little ahead of time (``ahead``), so that a slot's start waits for a local timer and not for the store.
After each look it knows when the next row will be due, and sleeps until shortly before, at most a heartbeat; a
notification, room in the capacity or a row given back end the sleep early. After a full batch it claims again at once
and hands that batch over while the claim is on its way, so that the store and this process work side by side. Before a
long sleep it promises in the store when it will look again, and looks once more: a client that makes something due
before that promise notifies.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import structlog

from scheduledjob.domain.time.instants import SECOND, Instant, from_seconds

from .store import ReplicaInfo, Row, Store, StoreUnavailable, Wake

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from .clock import Clock, StoreClock
    from .ownership import Owner
    from .replica_settings import ReplicaSettings

log = structlog.get_logger("scheduledjob.claimer")

LOOK_GAP = 0.02
"""Seconds between two looks of which neither found its batch full: what comes meanwhile is claimed together."""

PROMISE_FROM = 0.05
"""A sleep longer than this many seconds is promised in the store first."""

RETRY = (0.1, 5.0)
"""Seconds to wait after the store could not be reached: at first, at most."""

WRITES_FIRST = 1.0
"""Seconds from the end of an outage in which leases may have passed to the first claim: a run that ended meanwhile is
begun again if it is claimed before its end is written, by this replica or another."""

CLAIM_WITHIN = 1.0
"""Seconds from the sending of a claim within which the store is to begin with it, or not at all: one that was held back
by an outage would come before those writes."""


class Claimer:
    """Feeds an ``Owner`` with rows until ``stop``."""

    def __init__(
        self,
        store: Store,
        owner: Owner,
        info: ReplicaInfo,
        kinds: Callable[[], frozenset[str]],
        settings: ReplicaSettings,
        *,
        clock: StoreClock,
        monotonic: Clock,
        rng: random.Random,
    ) -> None:
        self._store = store
        self.owner = owner
        self._info = info
        self._kinds = kinds
        self._settings = settings
        self._clock = clock
        self._monotonic = monotonic
        self._rng = rng
        self._wake = asyncio.Event()
        self._look_at = 0.0
        """Monotonic seconds of the look that is planned; -inf while none is."""
        self._promised = 0.0
        self._promised_now = False
        """The last look ended in a promise: this one comes after it, and may end in a sleep."""
        self._starved = False
        """There was no room at the last look."""
        self._coming = 0
        """Rows that were claimed and are about to be the owner's."""
        self._stopping = False

    # ---- reasons to look earlier

    def hear(self, wake: Wake) -> None:
        """The store tells something."""
        if wake.notifications_lost:
            self._look_by(self._monotonic())
        elif wake.due is not None:
            self.due(wake.due)
        if wake.changed:
            self.owner.slugs_changed(wake.changed)

    def due(self, instant: Instant) -> None:
        """A row is due at ``instant``."""
        self._look_by(self._monotonic() + self._clock.until(instant) - self._settings.ahead)

    def freed(self, instant: Instant | None) -> None:
        """A row is held no longer; it is due again at ``instant``."""
        if instant is not None:
            self.due(instant)
        if self._starved:
            wanted = min(self._settings.batch, self._settings.capacity // 2)
            enough = self._settings.capacity - self.owner.held >= wanted
            self._look_by(self._monotonic() + (0.0 if enough else LOOK_GAP))

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()

    def _look_by(self, moment: float) -> None:
        if moment < self._look_at:
            self._look_at = moment
            self._wake.set()

    # ---- the loop

    async def run(self) -> None:
        pause, away_since = RETRY[0], float("inf")
        while not self._stopping:
            heard_at = self._clock.heard_at
            try:
                if self._monotonic() - away_since > self._settings.lease / 2:
                    await self._store.now()
                    await self._sleep_until(self._monotonic() + WRITES_FIRST, bell=False)
                again = await self._look()
            except StoreUnavailable as error:
                log.warning("the store can't be reached", error=str(error), again_in=round(pause, 1))
                await self._sleep_until(self._monotonic() + pause * self._rng.uniform(0.5, 1.0), bell=False)
                pause, away_since = min(pause * 2, RETRY[1]), min(away_since, heard_at)
                continue
            pause, away_since = RETRY[0], float("inf")
            if again is not None:
                await self._sleep_until(again)

    async def _look(self) -> float | None:
        """One look at the store; when to look again, or None: at once."""
        settings, sent = self._settings, self._monotonic()
        self._look_at = sent + settings.heartbeat
        room = settings.capacity - self.owner.held - self._coming
        self._starved = room <= 0
        if self._starved:
            return sent + settings.heartbeat
        limit, by = min(room, settings.batch), self._clock.now() + from_seconds(CLAIM_WITHIN)
        batch = await self._store.claim(
            self._info.id,
            self._kinds(),
            limit=limit,
            ahead=from_seconds(settings.ahead),
            lease=from_seconds(settings.lease),
            by=by,
        )
        received = self._monotonic()
        self._clock.observe(batch.now, sent, received)
        if batch.late:
            raise StoreUnavailable("it was too slow to begin with a claim")
        if len(batch.rows) >= limit:
            # There may be more: the store looks for it while the owner begins with these.
            self._coming += len(batch.rows)
            asyncio.get_running_loop().call_soon(self._hand_over, batch.rows, sent + settings.lease)
            return None
        for row in batch.rows:
            self.owner.accept(row, sent + settings.lease)
        heartbeat = settings.heartbeat - self._rng.uniform(0, min(settings.jitter, settings.heartbeat / 2))
        promised, self._promised_now = self._promised_now, False
        if promised:
            again = self._promised
        else:
            again = received + min(heartbeat, self._store.poll_interval if self._store.polls else heartbeat)
        if batch.next_wake is not None:
            again = min(again, received + (batch.next_wake - batch.now) / SECOND - settings.ahead)
        again = max(again, received + LOOK_GAP)
        if self._store.polls or again - received <= PROMISE_FROM:
            return again
        if self._promised - received > PROMISE_FROM:
            return min(again, self._promised)
        await self._store.announce(self._info, batch.now + from_seconds(again - received))
        self._promised, self._promised_now = again, True
        return None

    def _hand_over(self, rows: Sequence[Row], deadline: float) -> None:
        for row in rows:
            self._coming -= 1
            self.owner.accept(row, deadline)

    async def _sleep_until(self, moment: float, *, bell: bool = True) -> None:
        """Until ``moment``, an earlier one that comes up meanwhile, or the stop."""
        self._look_at = min(self._look_at, moment) if bell else moment
        while not self._stopping:
            left = self._look_at - self._monotonic() if bell else moment - self._monotonic()
            if left <= 0:
                break
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._wake.wait()
        self._look_at = float("-inf")
