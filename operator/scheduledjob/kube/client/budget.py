"""The budget of writes to the API server: how busy the jobs are must not be how busy the API server is.

One bucket of tokens that fills at a steady rate, for two uses. Status is the truth and may take all of it; Events are
talk and get at most a quarter, and while status waits in line, one write in twenty: after a storm of a thousand jobs
the status of all of them is true again within a minute. Within a use, first come, first served.
"""

from __future__ import annotations

import asyncio
from collections import deque
from enum import Enum

EVENT_SHARE = 0.25
OVERTAKEN = 19
"""Writes of status between two Events that overtake waiting ones."""


class BudgetUse(Enum):
    """What a write is for."""

    STATUS = "status"
    EVENT = "event"


class Budget:
    """Tokens, one for each write. Belongs to one event loop, whose clock it goes by."""

    def __init__(self, rate: float = 20.0, burst: float | None = None) -> None:
        """``rate``: writes a second in the long run; ``burst``: how many at once after a rest, default as many as in
        one second. Raises ValueError unless both allow a write at all."""
        burst = max(rate, 1.0) if burst is None else burst
        if not rate > 0 or burst < 1:
            raise ValueError(f"a budget of {rate:g} writes a second and {burst:g} at once allows none: give more")
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
        """From now on everything may be sent: at the end, when what is not written now never will be."""
        self._lifted = True
        if self._timer is not None:
            self._timer.cancel()
        for line in self._waiting.values():
            while line:
                _let_go(line.popleft())

    def _serve(self) -> None:
        """Let go whoever can be, and set the timer for the next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while True:
            waits = {use: self._wait(use) for use in (BudgetUse.EVENT, BudgetUse.STATUS) if self._has(use)}
            if not waits:
                return
            if BudgetUse.STATUS in waits and self._since_event < OVERTAKEN:
                waits.pop(BudgetUse.EVENT, None)
            use = min(waits, key=waits.__getitem__)  # where both may, the Event: that is one time in twenty
            if waits[use] > 0:
                self._timer = asyncio.get_running_loop().call_later(waits[use], self._serve)
                return
            if _let_go(self._waiting[use].popleft()):
                self._spend(use)

    def _has(self, use: BudgetUse) -> bool:
        line = self._waiting[use]
        while line and line[0].done():  # cancelled in line
            line.popleft()
        return bool(line)

    def _wait(self, use: BudgetUse) -> float:
        now = asyncio.get_running_loop().time()
        own = self._events.wait(now) if use is BudgetUse.EVENT else 0.0
        return max(own, self._all.wait(now))

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
    """Tokens that come at ``rate`` a second up to ``size``; full at first."""

    def __init__(self, rate: float, size: float) -> None:
        self._rate = rate
        self._size = size
        self.tokens = size
        self._at: float | None = None

    def wait(self, now: float) -> float:
        """Seconds until there is a token."""
        if self._at is not None:
            self.tokens = min(self._size, self.tokens + (now - self._at) * self._rate)
        self._at = now
        # A timer that fires a rounding error too early must not be set again for that.
        return 0.0 if self.tokens > 1 - 1e-6 else (1 - self.tokens) / self._rate


def _let_go(turn: asyncio.Future[None]) -> bool:
    if turn.done():
        return False
    turn.set_result(None)
    return True
