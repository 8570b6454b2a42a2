"""Notifications of the memory store: who listens to an installation, and what they need to hear.

A replica that has announced when it polls next is notified only of what it would otherwise see too late. Each
listener is called in its own event loop, perhaps in another thread. Notifications that arrive before the call are
merged into one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from scheduledjob.engine.store import Wake

from .agendas import earlier

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from scheduledjob.domain.time.instants import Instant


class Listener:
    """Calls ``on_wake`` in the event loop that made it. ``owner`` is the store that listens."""

    def __init__(self, owner: object, lock: threading.Lock, on_wake: Callable[[Wake], None]) -> None:
        self.owner = owner
        self._lock = lock
        self._on_wake = on_wake
        self._loop = asyncio.get_running_loop()
        self._pending: Wake | None = None

    def notify(self, due: Instant | None, changed: Sequence[str], lost: bool = False) -> None:
        """Notify the listener. Call it under the lock, from any thread."""
        if self._pending is not None:
            self._pending.due = earlier(self._pending.due, due)
            self._pending.changed = [*self._pending.changed, *changed]
            self._pending.notifications_lost |= lost
        else:
            self._pending = Wake(due, list(changed), lost)
            try:
                self._loop.call_soon_threadsafe(self._call)
            except RuntimeError:  # the loop is closed: nothing listens any more
                self._pending = None

    def forget(self) -> None:
        """Drop a pending notification. Call it under the lock."""
        self._pending = None

    def _call(self) -> None:
        with self._lock:
            wake, self._pending = self._pending, None
        if wake is not None:
            self._on_wake(wake)


class Wakes:
    """The listeners of one installation. Call each method under the database's lock."""

    def __init__(self) -> None:
        self.poll_times: dict[str, Instant] = {}
        """When each replica polls next at the latest."""
        self.listeners: list[Listener] = []

    def clock_jumped(self) -> None:
        """Have every listener poll: the times that they know are from before the jump of the clock."""
        self.poll_times.clear()
        for listener in self.listeners:
            listener.notify(None, (), lost=True)

    def notify(self, due: Instant | None, changed: Sequence[str] = (), *, except_for: object = None) -> None:
        """Notify listeners of what is due before the latest poll, and of changed slugs, ``except_for`` one store's."""
        if due is not None and due >= max(self.poll_times.values(), default=due):
            due = None
        if due is None and not changed:
            return
        for listener in self.listeners:
            if except_for is None or listener.owner is not except_for:
                listener.notify(due, changed)
