"""A bounded queue from the thread that watches to the event loop of the operator.

It limits the memory that a long list needs. An object that changes while it is queued takes no more room, because only
its newest state counts. A deletion is final, whatever a late list says after it. If the queue is full, the watching
thread waits, and kopf stops reading the list.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

CAPACITY = 1000
"""Objects in the queue."""


class WatchEvent(NamedTuple):
    """An object as the watch has reported it."""

    body: dict[str, Any]
    deleted: bool


class Handover:
    """Create it in the event loop that calls ``take``."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._queue: dict[str, WatchEvent] = {}
        """By uid, in the order of arrival."""
        self._lock = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._added = asyncio.Event()
        self._blocked: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        """Callers of ``put`` that wait for room."""

    def __len__(self) -> int:
        return len(self._queue)

    async def put(self, body: dict[str, Any], *, deleted: bool) -> None:
        """Queue an object, and wait for room if necessary. Call it in the event loop of the watching thread."""
        uid = body["metadata"]["uid"]
        while not self._put_nowait(uid, WatchEvent(body, deleted)):
            has_room = asyncio.Event()
            with self._lock:
                self._blocked.append((asyncio.get_running_loop(), has_room))
                full = len(self._queue) >= self._capacity
            if full:
                await has_room.wait()

    async def take(self, limit: int = 500) -> list[WatchEvent]:
        """Wait until the queue is not empty, then return up to ``limit`` objects."""
        while not self._queue:
            self._added.clear()
            if not self._queue:
                await self._added.wait()
        with self._lock:
            taken = [self._queue.pop(uid) for uid in list(self._queue)[:limit]]
            blocked, self._blocked = self._blocked, []
        for loop, has_room in blocked:
            _call_in(loop, has_room.set)
        return taken

    def _put_nowait(self, uid: str, event: WatchEvent) -> bool:
        with self._lock:
            before = self._queue.get(uid)
            if before is None and len(self._queue) >= self._capacity:
                return False
            if before is None or not before.deleted:
                self._queue[uid] = event
            first = len(self._queue) == 1
        if first:
            _call_in(self._loop, self._added.set)
        return True


def _call_in(loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
    try:
        loop.call_soon_threadsafe(function)
    except RuntimeError:  # the loop has ended, and its waiting tasks with it
        assert loop.is_closed()
