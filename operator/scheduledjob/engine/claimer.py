"""The claimer polls the store for due rows and claims them for ``Ownership``.

It claims a row a little before it is due (``ahead``), so that its start waits for a local timer and not for the store.
Each claim returns when the next row will be due, and the claimer sleeps until shortly before that, but no longer than a
heartbeat. A notification, free capacity or a released row end the sleep early (``poll_timer.py``).

If more is due than fits into a batch or into the capacity, the next claims take their fair share of each tenant
(``fair_shares.py``), until all that is due fits again. What has no room stays in the store, where any replica may claim
it.

After a full batch it claims again at once, and hands the batch over while the next claim is in flight. So the store and
this process work in parallel. Before a long sleep it announces in the store when it will poll next, and polls again.
A client that makes a row due before the announced poll sends a notification.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from typing import TYPE_CHECKING

import structlog

from scheduledjob.domain.time.instants import SECOND, from_seconds

from .capacity import tenant_of
from .fair_shares import FairShares
from .store import Batch, Quotas, ReplicaInfo, StoreUnavailable, Wake
from .stored_row import DEFAULT_TENANT
from .timing import (
    ANNOUNCE_RETRY_DELAY,
    CLAIM_START_LIMIT,
    FAIR_BATCH,
    FIRST_CLAIM_RETRY_DELAY,
    LAST_CLAIM_RETRY_DELAY,
    MIN_ANNOUNCED_SLEEP,
    MIN_POLL_INTERVAL,
    QUOTA_OF_OTHERS,
    RENEWED_WITHIN,
    WRITES_FIRST_DELAY,
)
from .watchdog import TURN_LIMIT

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

    from .ownership import Ownership
    from .poll_timer import PollTimer
    from .replica_settings import ReplicaContext
    from .stored_row import Row

log = structlog.get_logger("scheduledjob.claimer")

HAND_OVER_LIMIT = 2 * TURN_LIMIT
"""Seconds for a turn of the event loop that takes rows over. A batch of plain rows should fit, because what starts
together ends together, and is written together."""


class Claimer:
    """Claims rows for ``ownership`` until ``stop``."""

    def __init__(
        self,
        context: ReplicaContext,
        ownership: Ownership,
        info: ReplicaInfo,
        poll_timer: PollTimer,
        rng: random.Random,
    ) -> None:
        self._context = context
        self._ownership = ownership
        self._info = info
        self._poll_timer = poll_timer
        self._rng = rng
        self._announced = float("-inf")
        """Monotonic seconds of the poll that was announced last."""
        self._just_announced = False
        """This poll follows an announcement, and may end in a sleep."""
        self._arriving: list[deque[Row]] = []
        """Rows that were claimed and not yet handed to ``ownership``, by batch."""
        self._shares = FairShares(context.settings.weights)
        self._contended = False
        """More was due than the last claim took."""
        self._handed_over = asyncio.Event()
        """The last row of a batch was handed over."""
        self._due: frozenset[str] = frozenset()
        """Tenants that had more due rows after the last claim."""

    def notified(self, wake: Wake) -> None:
        """Handle a notification of the store."""
        if wake.notifications_lost:
            self._poll_timer.poll_by(self._context.monotonic())
        elif wake.due is not None:
            self._poll_timer.due(wake.due)
        if wake.changed:
            self._ownership.slugs_changed(wake.changed)

    def stop(self) -> None:
        self._poll_timer.stop()

    async def run(self) -> None:
        context, timer = self._context, self._poll_timer
        delay, unavailable_since = FIRST_CLAIM_RETRY_DELAY, float("inf")
        jumps = context.clock.jumps
        while not timer.stopped:
            last_answer_at = context.clock.last_answer_at
            if context.clock.jumps != jumps:
                jumps = context.clock.jumps
                await self._await_renewals()
            try:
                if context.monotonic() - unavailable_since > context.settings.lease / 2:
                    # Leases may have ended in the outage, so the writes of what ended meanwhile go first.
                    await context.store.now()
                    await timer.pause_until(context.monotonic() + WRITES_FIRST_DELAY)
                poll_at = await self._poll()
            except StoreUnavailable as error:
                log.warning("the store can't be reached", error=str(error), retry_in=round(delay, 1))
                await timer.pause_until(context.monotonic() + delay * self._rng.uniform(0.5, 1.0))
                delay, unavailable_since = (
                    min(delay * 2, LAST_CLAIM_RETRY_DELAY),
                    min(unavailable_since, last_answer_at),
                )
                continue
            delay, unavailable_since = FIRST_CLAIM_RETRY_DELAY, float("inf")
            if poll_at is not None:
                await timer.sleep_until(poll_at)

    async def _await_renewals(self) -> None:
        """Claim nothing until the owners of rows had time to renew their leases by the store's new clock.

        If the store's clock is set forward, all leases are over there, although their owners are alive. A claim that
        is sent before this replica knows claims nothing (``CLAIM_START_LIMIT``).
        """
        context = self._context
        if context.clock.last_jump > 0 and not context.store.exclusive:
            log.warning("claims wait until the other replicas have renewed their leases by the store's new clock")
            await self._poll_timer.pause_until(context.monotonic() + context.settings.lease * RENEWED_WITHIN)

    async def _poll(self) -> float | None:
        """Claim what is due. Return when to poll again (monotonic seconds); None: at once."""
        context, settings, timer = self._context, self._context.settings, self._poll_timer
        shared = self._contended and not self._due <= {DEFAULT_TENANT}
        while shared and any(self._arriving):
            # Otherwise the rows of several batches would lie between a run that comes due now and its start.
            self._handed_over.clear()
            await self._handed_over.wait()
        sent = context.monotonic()
        timer.poll_at = sent + settings.heartbeat
        arriving = sum(map(len, self._arriving))
        room = self._ownership.capacity.free - arriving
        timer.at_capacity = room <= 0
        if timer.at_capacity:
            return sent + settings.heartbeat
        limit = min(room, settings.batch)
        if not self._contended:
            limit = min(limit, self._ownership.capacity.room_of_any(arriving))
            self._contended = limit == 0
        quotas = None
        if self._contended:
            limit = min(room, settings.batch, FAIR_BATCH if shared else room)
            quotas = self._quotas(limit)
        batch = await context.store.claim(
            context.replica,
            frozenset(context.kinds),
            limit=limit,
            ahead=from_seconds(settings.ahead),
            lease=from_seconds(settings.lease),
            by=context.clock.now() + from_seconds(CLAIM_START_LIMIT),
            quotas=quotas,
        )
        received = context.monotonic()
        context.clock.observe(batch.now, sent, received)
        if batch.late:
            raise StoreUnavailable("the claim reached the store too late, so it claimed nothing")
        if quotas is None:
            more = self._contended = len(batch.rows) >= limit
            if more:
                self._due = frozenset(map(tenant_of, batch.rows))
        else:
            self._due = batch.left
            self._contended = bool(batch.left)
            more = bool(batch.rows)
        if more:
            # There may be more: the store looks for them while ownership takes these.
            asyncio.get_running_loop().call_soon(self._hand_over, self._arrived(batch), sent + settings.lease)
            return None
        self._hand_over(self._arrived(batch), sent + settings.lease)
        if quotas is not None and any(quotas.of(tenant) for tenant in batch.left):
            return received + MIN_POLL_INTERVAL  # other replicas are claiming what is due
        timer.at_capacity = bool(batch.left)
        return await self._plan_next(batch, received)

    def _quotas(self, limit: int) -> Quotas:
        """Return how many rows of each tenant to claim, ``limit`` in all."""
        capacity, total = self._ownership.capacity, sum(map(len, self._arriving))
        several = len(self._due) > 1
        arriving: Mapping[str, int]
        if several:
            arriving = Counter(tenant_of(row) for rows in self._arriving for row in rows)
        else:
            arriving = dict.fromkeys(self._due, total)

        def room(tenant: str, *, taken: int = 0, quota: int = 0) -> int:
            return capacity.room(tenant, taken=total + taken, quota=arriving.get(tenant, 0) + quota, others=several)

        quotas = self._shares.allot(dict.fromkeys(self._due, float("inf")), limit, room)
        tenants = {tenant: quotas.get(tenant, 0) for tenant in self._due}
        others = min(QUOTA_OF_OTHERS, limit, capacity.room_of_newcomer(total))
        for tenant in {*capacity.tenants(), *arriving} - self._due:
            if (left := room(tenant)) < others:
                tenants[tenant] = left
        return Quotas(tenants, others)

    async def _plan_next(self, batch: Batch, received: float) -> float | None:
        """Return when to poll after a batch that was not full; None: at once, after a long sleep was announced."""
        store, settings = self._context.store, self._context.settings
        heartbeat = settings.heartbeat - self._rng.uniform(0, min(settings.jitter, settings.heartbeat / 2))
        just_announced, self._just_announced = self._just_announced, False
        if just_announced:
            poll_at = self._announced
        else:
            poll_at = received + min(heartbeat, store.poll_interval if store.polls else heartbeat)
        if batch.next_wake is not None:
            poll_at = min(poll_at, received + (batch.next_wake - batch.now) / SECOND - settings.ahead)
        poll_at = max(poll_at, received + MIN_POLL_INTERVAL)
        if store.polls or poll_at - received <= MIN_ANNOUNCED_SLEEP:
            return poll_at
        if self._announced - received > MIN_ANNOUNCED_SLEEP:
            return min(poll_at, self._announced)
        if not await store.announce(self._info, batch.now + from_seconds(poll_at - received)):
            return min(poll_at, received + ANNOUNCE_RETRY_DELAY)
        self._announced, self._just_announced = poll_at, True
        return None

    def _arrived(self, batch: Batch) -> deque[Row]:
        rows = deque(batch.rows)
        self._arriving.append(rows)
        return rows

    def _hand_over(self, rows: deque[Row], deadline: float) -> None:
        """Hand rows over, as many as fit into a turn of the event loop, and the others in later turns."""
        monotonic = self._context.monotonic
        until = monotonic() + HAND_OVER_LIMIT
        while rows:
            self._ownership.accept(rows.popleft(), deadline)
            if monotonic() >= until:
                break
        if rows:
            asyncio.get_running_loop().call_soon(self._hand_over, rows, deadline)
        else:
            self._arriving = [others for others in self._arriving if others]
            self._handed_over.set()
