"""From the thread that watches to the event loop that decides: the newest of each object, and not too many at once.

The watch must not decide how much memory the operator needs. So there is room for a bounded number of objects; an
object that changes while it waits takes no more room, because only its newest state counts; and a deletion stays a
deletion, whatever a late listing says after it. When the room is full the watching side waits, and with it, through
kopf's own bounds, the reading of the list.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any, NamedTuple

ROOM = 1000
"""Objects that may wait."""


class WatchEvent(NamedTuple):
    """An object as the watch told of it."""

    body: dict[str, Any]
    deleted: bool


class Handover:
    """Made in the event loop that takes."""

    def __init__(self, room: int = ROOM) -> None:
        self._room = room
        self._waiting: dict[str, WatchEvent] = {}
        """By uid, in the order in which they came first."""
        self._lock = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._came = asyncio.Event()
        self._givers: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    async def give(self, body: dict[str, Any], *, deleted: bool) -> None:
        """Called in the watching thread's event loop: waits while there is no room."""
        uid = body["metadata"]["uid"]
        while not self._placed(uid, WatchEvent(body, deleted)):
            room = asyncio.Event()
            with self._lock:
                self._givers.append((asyncio.get_running_loop(), room))
                full = len(self._waiting) >= self._room
            if full:
                await room.wait()

    async def take(self, limit: int = 500) -> list[WatchEvent]:
        """Wait until there is something, and take up to ``limit`` of it."""
        while not self._waiting:
            self._came.clear()
            if not self._waiting:
                await self._came.wait()
        with self._lock:
            taken = [self._waiting.pop(uid) for uid in list(self._waiting)[:limit]]
            givers, self._givers = self._givers, []
        for loop, room in givers:
            _call(loop, room.set)
        return taken

    def _placed(self, uid: str, seen: WatchEvent) -> bool:
        with self._lock:
            before = self._waiting.get(uid)
            if before is None and len(self._waiting) >= self._room:
                return False
            if before is None or not before.deleted:
                self._waiting[uid] = seen
            first = len(self._waiting) == 1
        if first:
            _call(self._loop, self._came.set)
        return True


def _call(loop: asyncio.AbstractEventLoop, function: Any) -> None:
    try:
        loop.call_soon_threadsafe(function)
    except RuntimeError:  # that loop has ended, and with it whoever waited in it
        assert loop.is_closed()
