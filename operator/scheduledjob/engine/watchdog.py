"""The watchdog of the event loop: notices when something holds it, and for how long.

All runs of a replica share one event loop. Whatever holds it for long (a callback that computes, a job that blocks)
delays the start of everybody's runs. So the work of a turn of the loop is bounded (``TURN_LIMIT``), and the watchdog
measures whether that is so: it asks for a call at short intervals, and sees how late each call comes. A process that
got no CPU looks the same.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger("scheduledjob.watchdog")

INTERVAL = 0.02
"""Seconds between two calls. Most of what holds the loop for ``HELD_FOR`` is noticed."""
HELD_FOR = 0.05
"""Seconds of lateness from which the loop counts as held."""
LOGGED_FROM = 1.0
"""Seconds of lateness from which the log says so."""
TURN_LIMIT = 0.01
"""Seconds of work after which a batch lets the event loop go on, and continues in a later turn."""


class LoopWatchdog:
    """Calls ``on_lag`` with how late each call of the event loop came, in seconds."""

    def __init__(self, on_lag: Callable[[float], None]) -> None:
        self._on_lag = on_lag

    async def run(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            expected = loop.time() + INTERVAL
            await asyncio.sleep(INTERVAL)
            self.measured(loop.time() - expected)

    def measured(self, lag: float) -> None:
        """Count a call that was late by ``lag`` seconds."""
        lag = max(0.0, lag)
        self._on_lag(lag)
        if lag >= LOGGED_FROM:
            log.warning("the event loop was held, or this process got no CPU", seconds=round(lag, 1))
