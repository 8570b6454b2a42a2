"""Clocks: the boot clock of this machine, which only measures, and an estimate of the deciding clock, the store's.

The boot clock never goes back and counts the time that the machine was suspended. ``time.monotonic`` stands still
meanwhile, so by that clock a lease would still last although it passed while the machine slept.

The store's clock decides whether a slot is due. A replica never reads its own wall clock, which may be an hour off. It
reads the store's clock now and then, and extends the last answer by its boot clock. The store answered at some
moment between sending and receiving; the estimate assumes the moment of receiving. So it is late by less than the
round trip, and never ahead. The best of the recent answers is used; it loses ``DRIFT`` with age, because no two clocks
run at quite the same rate.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Protocol

from scheduledjob.domain.time.instants import SECOND, Instant, Micros

JUMP: Micros = SECOND
"""Somebody set the store's clock if it is further from the estimate than this, beyond the round trip."""

DRIFT = 200e-6
"""How much faster than the store's clock ours may run: twice what machines without NTP show."""

_MICROS = (1 - DRIFT) * SECOND
"""Microseconds of the store's clock that are assumed to pass in one second of ours."""


class Clock(Protocol):
    """Returns seconds that never go back; ``boot_seconds`` outside tests."""

    def __call__(self) -> float: ...


_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # macOS counts suspended time in the latter


boot_seconds: Clock = partial(time.clock_gettime, _BOOT_CLOCK)
"""Returns the seconds since this machine was started, suspended time included."""


def boot_nanoseconds() -> int:
    """Return what ``boot_seconds`` does, in nanoseconds."""
    return time.clock_gettime_ns(_BOOT_CLOCK)


class StoreClock:
    """An estimate of the store's clock that is never ahead of it."""

    def __init__(self, monotonic: Clock) -> None:
        self._monotonic = monotonic
        self._base: Instant = 0
        self._at = 0.0
        self.known = False
        self.last_answer_at = float("-inf")
        """Monotonic seconds of the store's last answer."""
        self.jumps = 0
        """How often an answer differed from the estimate by more than ``JUMP``: somebody set the store's clock."""
        self.last_jump: Micros = 0
        """How far the store's clock moved at the last jump; negative if it was set back."""

    def observe(self, store_now: Instant, sent: float, received: float) -> None:
        """The store read ``store_now`` from its clock between ``sent`` and ``received`` (monotonic seconds)."""
        self.last_answer_at = received
        estimate = self._estimate(received)
        stepped_back = estimate > store_now + round((received - sent) * SECOND)
        behind = store_now - estimate
        if self.known and (behind > JUMP or behind < -JUMP - round((received - sent) * SECOND)):
            self.jumps += 1
            self.last_jump = behind
        if not self.known or estimate <= store_now or stepped_back:
            self._base, self._at, self.known = store_now, received, True

    def now(self) -> Instant:
        """The store's clock: at most a round trip late, never ahead."""
        return self._base + int((self._monotonic() - self._at) * _MICROS)

    def until(self, instant: Instant) -> float:
        """Seconds until ``now()`` returns ``instant``; zero or less once it has."""
        return (instant - self.now()) / _MICROS

    def _estimate(self, monotonic: float) -> Instant:
        return self._base + int((monotonic - self._at) * _MICROS)
