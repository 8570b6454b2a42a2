"""Divides something that many jobs share, such as threads, bytes or Pods, between namespaces.

A namespace may hold as much as is still free, or ``times`` as much. So the first one can take half of everything (with
``times=3`` three quarters), the next one as large a part of the rest, and what a namespace holds for long never keeps
all others out. No shares have to be configured, and a namespace that is alone is hardly limited. This is the rule by
which switches share their buffers ("dynamic thresholds").
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from concurrent.futures import Future

_R = TypeVar("_R")


class FairShare:
    """A capacity that namespaces share. ``words`` returns what a namespace that holds this much waits for.

    A namespace that holds something never takes the last of it. Use it in one event loop.
    """

    def __init__(self, capacity: int, words: Callable[[int], str] = str, *, times: int = 1) -> None:
        self._capacity = self._free = capacity
        self._times = times
        self._words = words
        self._held: Counter[str] = Counter()
        self._waiting: dict[str, deque[tuple[int, asyncio.Future[None]]]] = {}

    @property
    def used(self) -> int:
        """How much all namespaces hold."""
        return self._capacity - self._free

    def held(self, namespace: str) -> int:
        """Return how much a namespace holds."""
        return self._held[namespace]

    def has_room(self, namespace: str, amount: int) -> bool:
        """Whether ``acquire`` would return at once."""
        return namespace not in self._waiting and self._fits(namespace, amount)

    def words(self, namespace: str) -> str:
        """Return what a namespace that needs one more waits for; empty if there is room."""
        return "" if self.has_room(namespace, 1) else self._words(self._held[namespace])

    @asynccontextmanager
    async def one(self, namespace: str, on_wait: Callable[[str], object] = lambda words: None) -> AsyncIterator[None]:
        """Hold one inside the context. If the namespace has to wait, ``on_wait`` is called with what it waits for."""
        if not self.has_room(namespace, 1):
            on_wait(self.words(namespace))
        await self.acquire(namespace)
        try:
            yield
        finally:
            self.release(namespace)

    async def acquire(self, namespace: str, amount: int = 1) -> None:
        """Wait until the namespace may hold ``amount`` more. A cancellation meanwhile says what it waited for."""
        if self.has_room(namespace, amount):
            self._take(namespace, amount)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(namespace, deque()).append((amount, turn))
        try:
            await turn
        except asyncio.CancelledError as error:
            error.args = (self._words(self._held[namespace]),)
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
        wanted = self._held[namespace] + amount
        takes_last = wanted > amount and wanted >= self._capacity
        return amount <= self._free and wanted <= self._times * self._free and not takes_last

    def _take(self, namespace: str, amount: int) -> None:
        self._free -= amount
        self._held[namespace] += amount

    def _leave(self, namespace: str, amount: int, turn: asyncio.Future[None]) -> None:
        queue = self._waiting.get(namespace)
        if queue is not None and (amount, turn) in queue:
            queue.remove((amount, turn))
            if not queue:
                del self._waiting[namespace]
        self._grant()  # the next one may want less

    def _grant(self) -> None:
        """Wake the waiters for whom there is room, those of the namespace that holds least first."""
        while True:
            for namespace in sorted(self._waiting, key=self._held.__getitem__):
                amount, turn = self._waiting[namespace][0]
                if turn.done() or self._fits(namespace, amount):
                    break
            else:
                return
            queue = self._waiting.pop(namespace)
            queue.popleft()
            if queue:
                self._waiting[namespace] = queue  # behind the others that hold as little
            if not turn.done():  # otherwise it was cancelled a moment ago
                self._take(namespace, amount)
                turn.set_result(None)


class Reservation:
    """What one attempt holds of a share."""

    def __init__(self, share: FairShare, namespace: str) -> None:
        self._share = share
        self._namespace = namespace
        self._amount = 0

    async def change(self, amount: int) -> None:
        """Hold ``amount`` from now on. Gives back what it holds first, so that nobody waits while holding something."""
        self.release()
        await self._share.acquire(self._namespace, amount)
        self._amount = amount

    def release(self) -> None:
        """Hold nothing."""
        if self._amount:
            amount, self._amount = self._amount, 0
            self._share.release(self._namespace, amount)


class FairThreads:
    """Threads for computations that take long and can't be cancelled. Use it in one event loop."""

    def __init__(self, threads: int, name: str) -> None:
        self._share = FairShare(threads)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, namespace: str, compute: Callable[[], _R]) -> _R:
        """Return what a computation returns. Its thread counts until it ends, even if nobody waits for it any more."""
        loop = asyncio.get_running_loop()

        def ended(computation: Future[_R]) -> None:
            with suppress(RuntimeError):  # the loop was closed meanwhile, so nothing waits
                loop.call_soon_threadsafe(self._share.release, namespace)

        await self._share.acquire(namespace)
        try:
            computation = self._executor.submit(compute)
        except BaseException:
            self._share.release(namespace)
            raise
        computation.add_done_callback(ended)
        return await asyncio.wrap_future(computation)

    def stop(self) -> None:
        """Release the threads, without waiting for their computations."""
        self._executor.shutdown(wait=False, cancel_futures=True)
