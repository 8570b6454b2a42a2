"""The budget of writes to the API server, so that busy jobs do not make a busy API server.

Status and Events share a token bucket that fills at a steady rate. Status may use all of it. Events get at most a
quarter, and only one write in twenty while status waits, so the status of a thousand jobs that end at the same time is
up to date within a minute. Within a use, writes are served in order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from enum import Enum

EVENT_SHARE = 0.25
"""The share of the budget that Events may use."""
STATUS_WRITES_PER_EVENT = 19
"""While status waits, an Event may be written after this many statuses."""


class BudgetUse(Enum):
    """What a write is for."""

    STATUS = "status"
    EVENT = "event"


class Budget:
    """Hands out tokens, one for each write. Use it in one event loop, whose clock it uses."""

    def __init__(self, rate: float = 20.0, burst: float | None = None) -> None:
        """``rate``: writes a second in the long run. ``burst``: writes at once after a pause, by default those of a
        second. Raises ValueError if they do not allow any write."""
        burst = max(rate, 1.0) if burst is None else burst
        if not rate > 0 or burst < 1:
            raise ValueError(f"a budget of {rate:g} writes a second and {burst:g} at once allows none: increase it")
        self._all = _Bucket(rate, burst)
        self._events = _Bucket(rate * EVENT_SHARE, max(1.0, burst * EVENT_SHARE))
        self._waiting: dict[BudgetUse, deque[asyncio.Future[None]]] = {use: deque() for use in BudgetUse}
        self._timer: asyncio.TimerHandle | None = None
        self._lifted = False
        self._since_event = 0
        """Writes of status since the last Event."""

    async def take(self, use: BudgetUse = BudgetUse.STATUS) -> None:
        """Wait until a write of this use may be sent."""
        if self._lifted:
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting[use].append(turn)
        self._serve()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_back(use)
            raise

    def lift(self) -> None:
        """Allow everything from now on: at shutdown, what is not written now is never written."""
        self._lifted = True
        if self._timer is not None:
            self._timer.cancel()
        for line in self._waiting.values():
            while line:
                _grant(line.popleft())

    def _serve(self) -> None:
        """Grant every write that may be sent now, and set the timer for the next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while True:
            waits = {use: self._seconds_until(use) for use in (BudgetUse.EVENT, BudgetUse.STATUS) if self._has(use)}
            if not waits:
                return
            if BudgetUse.STATUS in waits and self._since_event < STATUS_WRITES_PER_EVENT:
                waits.pop(BudgetUse.EVENT, None)
            use = min(waits, key=waits.__getitem__)  # if both may be sent, the Event comes first
            if waits[use] > 0:
                self._timer = asyncio.get_running_loop().call_later(waits[use], self._serve)
                return
            if _grant(self._waiting[use].popleft()):
                self._spend(use)

    def _has(self, use: BudgetUse) -> bool:
        line = self._waiting[use]
        while line and line[0].done():  # cancelled
            line.popleft()
        return bool(line)

    def _seconds_until(self, use: BudgetUse) -> float:
        now = asyncio.get_running_loop().time()
        event_wait = self._events.seconds_until_token(now) if use is BudgetUse.EVENT else 0.0
        return max(event_wait, self._all.seconds_until_token(now))

    def _spend(self, use: BudgetUse) -> None:
        self._all.tokens -= 1
        if use is BudgetUse.EVENT:
            self._events.tokens -= 1
            self._since_event = 0
        else:
            self._since_event += 1

    def _give_back(self, use: BudgetUse) -> None:
        self._all.tokens += 1
        if use is BudgetUse.EVENT:
            self._events.tokens += 1
        self._serve()


class _Bucket:
    """Fills with ``rate`` tokens a second, up to ``size``. It is full at first."""

    def __init__(self, rate: float, size: float) -> None:
        self._rate = rate
        self._size = size
        self.tokens = size
        self._filled_at: float | None = None

    def seconds_until_token(self, now: float) -> float:
        if self._filled_at is not None:
            self.tokens = min(self._size, self.tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        # A timer may fire a rounding error too early. It need not be set again for that.
        return 0.0 if self.tokens > 1 - 1e-6 else (1 - self.tokens) / self._rate


def _grant(turn: asyncio.Future[None]) -> bool:
    if turn.done():
        return False
    turn.set_result(None)
    return True
