"""Slots that namespaces share: none of them can take all, and all are used as long as somebody needs them.

A namespace gets a slot while it has fewer than three times the number of free slots (a *dynamic threshold*). So a
namespace alone gets three quarters, the next one three quarters of the rest, and there is room for another one even if
those before it never give a slot back. Free slots go to the waiting namespace that has the fewest.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

SHARE = 3
"""How many times the number of free slots a namespace may have."""


class FairSlots:
    """``slots`` slots. Use it in one event loop."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._taken: Counter[str] = Counter()
        self._total = 0
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def slot(self, namespace: str, on_wait: Callable[[str], object] = lambda words: None) -> AsyncIterator[None]:
        """Hold a slot. ``on_wait`` is called if there is none, with words that say what is taken."""
        await self._acquire(namespace, on_wait)
        try:
            yield
        finally:
            self._release(namespace)

    async def _acquire(self, namespace: str, on_wait: Callable[[str], object]) -> None:
        if namespace not in self._waiting and self._may_take(namespace):
            self._take(namespace)
            return
        on_wait(f"{self._total} of {self._slots} places are taken, {self._taken[namespace]} by this namespace")
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(namespace, deque()).append(granted)
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self._release(namespace)  # it was granted at the same moment
            else:
                self._forget(namespace, granted)
            raise

    def _may_take(self, namespace: str) -> bool:
        free, own = self._slots - self._total, self._taken[namespace]
        return free > 0 and own < SHARE * free and (own + 1 < self._slots or self._slots == 1)

    def _take(self, namespace: str) -> None:
        self._taken[namespace] += 1
        self._total += 1

    def _release(self, namespace: str) -> None:
        self._total -= 1
        self._taken[namespace] -= 1
        if not self._taken[namespace]:
            del self._taken[namespace]
        self._grant()

    def _grant(self) -> None:
        """Give free slots to those who wait, first to the namespace that has the fewest."""
        while self._total < self._slots:
            eligible = [namespace for namespace in self._waiting if self._may_take(namespace)]
            if not eligible:
                return
            namespace = min(eligible, key=lambda name: self._taken[name])
            granted = self._waiting[namespace].popleft()
            self._waiting.move_to_end(namespace)
            if not self._waiting[namespace]:
                del self._waiting[namespace]
            if not granted.cancelled():
                self._take(namespace)
                granted.set_result(None)

    def _forget(self, namespace: str, granted: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(namespace)
        if waiting is not None and granted in waiting:
            waiting.remove(granted)
            if not waiting:
                del self._waiting[namespace]
