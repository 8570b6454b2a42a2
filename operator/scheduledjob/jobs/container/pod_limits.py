"""The time limits of an attempt that runs as a Pod, and what the attempt waits for.

``timeouts.pending`` and ``timeouts.total`` count from the start of the attempt. So they include the time until this
replica has room for the Pod, and until the API server has created it.
"""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

from scheduledjob.jobs.reasons import length

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from scheduledjob.engine.executor import Attempt

    OnWaiting: TypeAlias = Callable[[Attempt, str, bool], object]
    """Called when what an attempt waits for has changed (empty if it does not wait any more), with whether its job has
    started."""


REPORT_DELAY = 2.0
"""Seconds after which a wait is reported. Most Pods wait only for a moment."""


class NotStartedError(Exception):
    """A time limit has passed before the Pod was created. The message is the reason."""


class PodLimits:
    """The limits of an attempt, in monotonic seconds of this machine; infinite if there are none."""

    def __init__(self, attempt: Attempt, on_waiting: OnWaiting) -> None:
        now = time.monotonic()
        self.pending_until = math.inf if attempt.pending is None else now + attempt.pending
        self.total_until = math.inf if attempt.total is None else now + attempt.total
        self._attempt = attempt
        self._on_waiting = on_waiting
        self._words = ""
        self._report: asyncio.TimerHandle | None = None
        self._reported = False

    @property
    def start_until(self) -> float:
        """When the Pod must have started."""
        return min(self.pending_until, self.total_until)

    def waits_for(self, words: str, *, started: bool = False) -> None:
        """Note what the attempt waits for, and report it soon; empty: it does not wait. ``started``: its job has."""
        if words == self._words:
            return
        self._words = words
        if self._report is not None:
            self._report.cancel()
        if words:
            loop = asyncio.get_running_loop()
            self._report = loop.call_later(REPORT_DELAY, self._report_now, words, started)
        else:
            self._report = None
            if self._reported:
                self._report_now("", started)

    def _report_now(self, words: str, started: bool) -> None:
        self._reported = bool(words)
        self._on_waiting(self._attempt, words, started)

    def not_started(self, words: str = "") -> str:
        """Return the reason of an attempt that has not started in time. ``words``: what it last waited for."""
        if self.total_until < self.pending_until:
            reason = "not started before timeouts.total had passed"
        else:
            reason = f"not started within {length(self._attempt.pending or 0.0)}"
        waited_for = words or self._words
        return f"{reason}: {waited_for}" if waited_for else reason

    @asynccontextmanager
    async def applied(self) -> AsyncIterator[None]:
        """Raise ``NotStartedError`` in place of what takes longer than the limits."""
        limit = self.start_until
        try:
            async with asyncio.timeout(None if limit == math.inf else limit - time.monotonic()) as scope:
                yield
        except TimeoutError:
            if not scope.expired():
                raise
            raise NotStartedError(self.not_started()) from None
