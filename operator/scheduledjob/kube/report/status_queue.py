"""The objects whose status is out of date, and when each of them is to be written.

The queue remembers only that an object has changed, so a thousand changes cost one write, and the latest state wins.
Namespaces take turns, so the many objects of one namespace do not delay the status of another's.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import time
from typing import TYPE_CHECKING

from scheduledjob.engine.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable

DEBOUNCE = 0.05
"""Seconds from a change to its write. Changes that follow within this time are part of the same write."""
START_DELAY = 1.0
"""Seconds from the start of a run to the write that reports it. Many runs end before that, which saves a write."""


class StatusQueue:
    """Uids of objects. Use it in one event loop."""

    def __init__(self, namespace_of: Callable[[str], str] = lambda uid: "") -> None:
        """``namespace_of`` returns the namespace of the object with a uid."""
        self._namespace_of = namespace_of
        self._ready: Turns[str] = Turns()
        """What is due. An entry whose uid is not due (any more) is out of date."""
        self._heap: list[tuple[float, str]] = []
        """(monotonic seconds, uid). An entry is out of date if ``_due_at`` differs from it."""
        self._due_at: dict[str, float] = {}
        """Monotonic seconds, by uid."""
        self._in_progress: set[str] = set()
        self._added = asyncio.Event()
        self._finished = asyncio.Event()

    def __len__(self) -> int:
        """The number of objects whose status is out of date, with those that are being written."""
        return len(self._due_at) + len(self._in_progress)

    def changed(self, uid: str, after: float = DEBOUNCE) -> None:
        """The status of this object has to be written, ``after`` seconds from now at the earliest."""
        due_at = time.monotonic() + after
        if due_at < self._due_at.get(uid, float("inf")):
            self._put(uid, due_at)

    def forget(self, uid: str) -> None:
        """The object is gone."""
        self._due_at.pop(uid, None)
        self._finished.set()

    def hurry(self) -> None:
        """Make every object due now."""
        for uid in list(self._due_at):
            self._put(uid, 0.0)

    async def take(self) -> str:
        """Wait until an object is due, and return its uid. Call ``done`` when it is written."""
        while True:
            left = self._collect()
            while self._ready:
                uid = self._ready.take()
                if self._due_at.get(uid, float("inf")) > time.monotonic():
                    continue
                if uid not in self._in_progress:
                    del self._due_at[uid]
                    self._in_progress.add(uid)
                    return uid
                self._put(uid, time.monotonic() + DEBOUNCE)  # after the write in progress
                left = DEBOUNCE if left is None else min(left, DEBOUNCE)
            self._added.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._added.wait()

    def _collect(self) -> float | None:
        """Let the objects that are due take turns. Return the seconds until the next one is due, if there is one."""
        while self._heap:
            due_at, uid = self._heap[0]
            left = due_at - time.monotonic()
            if self._due_at.get(uid) == due_at:
                if left > 0:
                    return left
                self._ready.put(self._namespace_of(uid), uid)
            heapq.heappop(self._heap)
        return None

    def done(self, uid: str) -> None:
        """The write that ``take`` started has ended, well or not."""
        self._in_progress.discard(uid)
        self._finished.set()

    async def drained(self) -> None:
        """Wait until the queue is empty and nothing is being written."""
        while len(self):
            self._finished.clear()
            await self._finished.wait()

    def _put(self, uid: str, due_at: float) -> None:
        self._due_at[uid] = due_at
        heapq.heappush(self._heap, (due_at, uid))
        self._added.set()
