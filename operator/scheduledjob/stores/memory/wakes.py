"""Who listens to an installation of the memory store, and what of it is worth telling them.

A replica that has announced when it looks next is told only of what it would otherwise see too late. Listeners live
in event loops of their own, perhaps in other threads; each is called there, once for all that came up until then.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from scheduledjob.engine.store import Wake

from .rows import earlier

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from scheduledjob.domain.time.instants import Instant


class Listener:
    """Made in the event loop that it calls back in; ``owner`` is whose it is."""

    def __init__(self, owner: object, lock: threading.Lock, on_wake: Callable[[Wake], None]) -> None:
        self.owner = owner
        self._lock = lock
        self._on_wake = on_wake
        self._loop = asyncio.get_running_loop()
        self._pending: Wake | None = None

    def tell(self, due: Instant | None, changed: Sequence[str]) -> None:
        """Called under the lock, from any thread."""
        if self._pending is not None:
            self._pending.due = earlier(self._pending.due, due)
            self._pending.changed = [*self._pending.changed, *changed]
        else:
            self._pending = Wake(due, list(changed))
            try:
                self._loop.call_soon_threadsafe(self._call)
            except RuntimeError:  # the loop has closed: nobody is there to be told
                self._pending = None

    def forget(self) -> None:
        """Called under the lock: what is on its way does not arrive."""
        self._pending = None

    def _call(self) -> None:
        with self._lock:
            wake, self._pending = self._pending, None
        if wake is not None:
            self._on_wake(wake)


class Wakes:
    """The listeners of one installation. Each method is called under the database's lock."""

    def __init__(self) -> None:
        self.poll_times: dict[str, Instant] = {}
        """By when each replica looks without being told to."""
        self.listeners: list[Listener] = []

    def tell(self, due: Instant | None, changed: Sequence[str] = (), *, besides: object = None) -> None:
        """Pass on what listeners may not know: what is due before the latest look, and what has changed."""
        if due is not None and due >= max(self.poll_times.values(), default=due):
            due = None
        if due is None and not changed:
            return
        for listener in self.listeners:
            if besides is None or listener.owner is not besides:
                listener.tell(due, changed)
