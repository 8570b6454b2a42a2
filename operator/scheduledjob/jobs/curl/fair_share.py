"""Divides something that all HTTP jobs share, such as threads or bytes, between namespaces.

A namespace may hold as much as is still free. So the first one can take half of everything, the next one a quarter,
and what a namespace holds for long never keeps all others out. No shares have to be configured, and a namespace that
is alone is hardly limited. This is the rule by which switches share their buffers ("dynamic thresholds").
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque


class FairShare:
    """A capacity that namespaces share."""

    def __init__(self, capacity: int) -> None:
        self._free = capacity
        self._held: Counter[str] = Counter()
        self._waiting: dict[str, deque[tuple[int, asyncio.Future[None]]]] = {}

    def held(self, namespace: str) -> int:
        """Return how much a namespace holds."""
        return self._held[namespace]

    def has_room(self, namespace: str, amount: int) -> bool:
        """Whether ``acquire`` would return at once."""
        return namespace not in self._waiting and self._fits(namespace, amount)

    async def acquire(self, namespace: str, amount: int = 1) -> None:
        """Wait until the namespace may hold ``amount`` more."""
        if self.has_room(namespace, amount):
            self._take(namespace, amount)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(namespace, deque()).append((amount, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(namespace, amount)
            else:
                self._leave(namespace, amount, turn)
            raise

    def release(self, namespace: str, amount: int = 1) -> None:
        """Give back what was acquired."""
        self._free += amount
        self._held[namespace] -= amount
        if not self._held[namespace]:
            del self._held[namespace]
        self._grant()

    def _fits(self, namespace: str, amount: int) -> bool:
        return self._held[namespace] + amount <= self._free

    def _take(self, namespace: str, amount: int) -> None:
        self._free -= amount
        self._held[namespace] += amount

    def _leave(self, namespace: str, amount: int, turn: asyncio.Future[None]) -> None:
        queue = self._waiting[namespace]
        queue.remove((amount, turn))
        if not queue:
            del self._waiting[namespace]
        self._grant()  # the next one may want less

    def _grant(self) -> None:
        """Let those wait no longer for whom there is room, the namespace that holds least first."""
        while True:
            for namespace in sorted(self._waiting, key=self._held.__getitem__):
                amount, turn = self._waiting[namespace][0]
                if self._fits(namespace, amount):
                    break
            else:
                return
            queue = self._waiting.pop(namespace)
            queue.popleft()
            if queue:
                self._waiting[namespace] = queue  # behind the others that hold as little
            self._take(namespace, amount)
            turn.set_result(None)
