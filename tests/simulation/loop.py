"""An event loop on the world's clock: it never waits, and runs only when the world lets it run."""

from __future__ import annotations

import asyncio
import heapq
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_STEPS = 20_000
"""After this many rounds in which no time passes, a loop counts as spinning."""


class SpinningError(AssertionError):
    """A replica does not come to rest. It would occupy a core."""


class VirtualLoop(asyncio.BaseEventLoop):
    """One replica's event loop. ``clock`` is the clock of its timers, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self.zone_data = ""
        """The release of the replica's time zone data."""
        self.failures: list[dict[str, Any]] = []
        self.set_exception_handler(lambda _, context: self.failures.append(context))

    def time(self) -> float:
        return self._clock()

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:  # type: ignore[override]  # there is only one thread
        return self.call_soon(callback, *args, context=context)

    def _process_events(self, event_list: Any) -> None:
        raise AssertionError("there is no selector")

    def next_timer(self) -> float | None:
        """Return when this loop has to run next, by its own clock; now if something is ready."""
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        while scheduled and scheduled[0].cancelled():
            handle = heapq.heappop(scheduled)
            handle._scheduled = False  # type: ignore[attr-defined]
        if self._ready:  # type: ignore[attr-defined]
            return self._clock()
        return scheduled[0].when() if scheduled else None

    def has_work(self) -> bool:
        """Whether anything is due now. Most of the time nothing is, in most loops."""
        if self._ready:  # type: ignore[attr-defined]
            return True
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        return bool(scheduled) and scheduled[0].when() <= self._clock()

    def run_ready(self) -> None:
        """Run everything that is due now."""
        previous = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            for _ in range(MAX_STEPS):
                if not self._step():
                    return
        finally:
            asyncio._set_running_loop(previous)
        raise SpinningError(f"not at rest after {MAX_STEPS} rounds at one instant")

    def _step(self) -> bool:
        now = self._clock()
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        ready: Any = self._ready  # type: ignore[attr-defined]
        while scheduled and (scheduled[0].cancelled() or scheduled[0].when() <= now):
            handle = heapq.heappop(scheduled)
            handle._scheduled = False  # type: ignore[attr-defined]
            if not handle.cancelled():
                ready.append(handle)
        if not ready:
            return False
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle.cancelled():
                handle._run()
        return True
