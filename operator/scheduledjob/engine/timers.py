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

MIN_CANCELLED = 64
"""Cancelled entries that are not worth the removal."""

MAX_AT_ONCE = 250
"""Entries that are handled in one turn of the event loop. Each may take some ten microseconds."""


class Timers(Generic[_T]):
    """Calls ``on_due(item, token)`` when the store's clock reaches an entry's instant, earliest first.

    A cancelled entry releases its item at once. The rest of it, two numbers, stays in the heap until it is due or until
    more than half of the heap is cancelled: so memory follows what is awaited, and cancelling takes constant time.
    """

    def __init__(self, clock: StoreClock, on_due: Callable[[_T, int], None]) -> None:
        self._clock = clock
        self._on_due = on_due
        self._heap: list[tuple[Instant, int]] = []
        """(instant, token) of each entry, cancelled ones included."""
        self._items: dict[int, _T] = {}
        """By token: the item of each entry that is not cancelled."""
        self._tokens = count(1)
        self._handle: asyncio.TimerHandle | None = None
        self._armed: Instant = 0

    def set(self, due: Instant, item: _T) -> int:
        token = next(self._tokens)
        self._items[token] = item
        heapq.heappush(self._heap, (due, token))
        if self._handle is None or due < self._armed:
            self._arm()
        return token

    def cancel(self, token: int) -> None:
        """Forget an entry. It may have fired, or be cancelled already."""
        if self._items.pop(token, None) is not None and len(self._heap) > 2 * len(self._items) + MIN_CANCELLED:
            self._heap = [entry for entry in self._heap if entry[1] in self._items]
            heapq.heapify(self._heap)

    def clock_jumped(self) -> None:
        """Wait anew: the store's clock was set, or the event loop's timer stood still while the machine slept."""
        if self._heap:
            self._arm()

    def close(self) -> None:
        self._heap.clear()
        self._items.clear()
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
        due: list[int] = []
        while heap and heap[0][0] <= now and len(due) < MAX_AT_ONCE:
            due.append(heapq.heappop(heap)[1])
        # What these set for now is due in the next turn of the event loop, after other work.
        for token in due:
            item = self._items.pop(token, None)
            if item is not None:
                self._on_due(item, token)
        if self._heap and self._handle is None:
            self._arm()
