"""Timers: all the instants that this replica waits for, in one heap with one timer of the event loop.

Claimed slots wait here until they are due. The timer of the event loop has a resolution of a millisecond and may fire
that much early, so the heap checks its clock again and never returns an entry before its time. It also never asks for a
delay below that resolution: uvloop would treat it as zero, and the loop would spin until the entry is due.
"""

from __future__ import annotations

import asyncio
import heapq
from itertools import count
from typing import TYPE_CHECKING, Generic, TypeVar

from .timing import TIMER_RESOLUTION

if TYPE_CHECKING:
    from collections.abc import Callable

    from scheduledjob.domain.time.instants import Instant

    from .clock import StoreClock

_T = TypeVar("_T")

MAX_AT_ONCE = 250
"""Entries that are handled in one turn of the event loop. Each may take some ten microseconds."""


class Timers(Generic[_T]):
    """Calls ``on_due(item, token)`` when the store's clock reaches an entry's instant, earliest first.

    An entry can't be cancelled. Instead, the caller ignores it if ``set`` has returned a newer token.
    """

    def __init__(self, clock: StoreClock, on_due: Callable[[_T, int], None]) -> None:
        self._clock = clock
        self._on_due = on_due
        self._heap: list[tuple[Instant, int, _T]] = []
        self._tokens = count(1)
        self._handle: asyncio.TimerHandle | None = None
        self._armed: Instant = 0

    def set(self, due: Instant, item: _T) -> int:
        token = next(self._tokens)
        heapq.heappush(self._heap, (due, token, item))
        if self._handle is None or due < self._armed:
            self._arm()
        return token

    def clock_jumped(self) -> None:
        """Wait anew: the store's clock was set, or the event loop's timer stood still while the machine slept."""
        if self._heap:
            self._arm()

    def close(self) -> None:
        self._heap.clear()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._armed = self._heap[0][0]
        left = self._clock.until(self._armed)
        delay = max(TIMER_RESOLUTION, left) if left > 0 else 0.0
        self._handle = asyncio.get_running_loop().call_later(delay, self._fire)

    def _fire(self) -> None:
        self._handle = None
        heap, now = self._heap, self._clock.now()
        due: list[tuple[Instant, int, _T]] = []
        while heap and heap[0][0] <= now and len(due) < MAX_AT_ONCE:
            due.append(heapq.heappop(heap))
        # What these set for now is due in the next turn of the event loop, after other work.
        for _, token, item in due:
            self._on_due(item, token)
        if heap and self._handle is None:
            self._arm()
