"""Timers: all the instants that this replica waits for, in one heap with one timer of the event loop.

Claimed slots wait here until they are due. The timer of the event loop has a resolution of a millisecond and may fire
that much early, so the heap checks its clock again and never returns an entry before its time. It also never asks for a
delay below that resolution: uvloop would treat it as zero, and the loop would spin until the entry is due.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from itertools import count
from typing import TYPE_CHECKING, Generic, TypeVar

from .fair_shares import FairShares
from .timing import TIMER_RESOLUTION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from scheduledjob.domain.time.instants import Instant

    from .clock import StoreClock

_T = TypeVar("_T")

MIN_CANCELLED = 64
"""Cancelled entries that are not worth the removal."""

MAX_AT_ONCE = 64
"""Entries that are handled in one turn of the event loop. Each may take some ten microseconds."""


class Timers(Generic[_T]):
    """Calls ``on_due(item, token)`` when the store's clock reaches an entry's instant, earliest first.

    A cancelled entry releases its item at once. The rest of it, two numbers, stays in the heap until it is due or until
    more than half of the heap is cancelled: so memory follows what is awaited, and cancelling takes constant time.
    """

    def __init__(
        self,
        clock: StoreClock,
        on_due: Callable[[_T, int], None],
        *,
        tenant_of: Callable[[_T], str] | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        """With ``tenant_of``, tenants take turns by their ``weights`` when more is due than one turn of the loop
        handles."""
        self._clock = clock
        self._on_due = on_due
        self._tenant_of = tenant_of
        self._shares = FairShares(weights or {})
        self._late: dict[str, deque[int]] = {}
        """By tenant: tokens of entries that are due and had no turn yet."""
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
        if self._heap or self._late:
            self._arm()

    def close(self) -> None:
        self._heap.clear()
        self._items.clear()
        self._late.clear()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._armed = 0 if self._late else self._heap[0][0]
        left = self._clock.until(self._armed)
        delay = max(TIMER_RESOLUTION, left) if left > 0 else 0.0
        self._handle = asyncio.get_running_loop().call_later(delay, self._fire)

    def _fire(self) -> None:
        self._handle = None
        heap, now = self._heap, self._clock.now()
        due: list[int] = []
        while heap and heap[0][0] <= now and (len(due) < MAX_AT_ONCE or self._tenant_of is not None):
            due.append(heapq.heappop(heap)[1])
        if self._tenant_of is not None and (self._late or len(due) > MAX_AT_ONCE):
            due = self._in_turn(due, self._tenant_of)
        # What these set for now is due in the next turn of the event loop, after other work.
        for token in due:
            item = self._items.pop(token, None)
            if item is not None:
                self._on_due(item, token)
        if self._late or (self._heap and self._handle is None):
            self._arm()

    def _in_turn(self, due: Iterable[int], tenant_of: Callable[[_T], str]) -> list[int]:
        """Add what is due to what had no turn yet, and return a fair share of each tenant for one turn of the loop."""
        late = self._late
        for token in due:
            if (item := self._items.get(token)) is not None:
                late.setdefault(tenant_of(item), deque()).append(token)
        demand = {tenant: len(tokens) for tenant, tokens in late.items()}
        chosen: list[int] = []
        for tenant, quota in self._shares.allot(demand, MAX_AT_ONCE, _unlimited).items():
            tokens = late[tenant]
            chosen += [tokens.popleft() for _ in range(quota)]
            if not tokens:
                del late[tenant]
        return chosen


def _unlimited(tenant: str, *, taken: int, quota: int) -> int:
    return MAX_AT_ONCE
