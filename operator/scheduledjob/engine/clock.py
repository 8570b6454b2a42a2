"""Clocks: the monotonic clock of this process, which only measures, and an estimate of the deciding clock, the store's.

The store's clock decides whether a slot is due. A replica never reads its own wall clock, which may be an hour off. It
reads the store's clock now and then, and extends the last answer by its monotonic clock. The store answered at some
moment between sending and receiving; the estimate assumes the moment of receiving. So it is late by less than the
round trip, and never ahead. The best of the recent answers is used; it loses ``DRIFT`` with age, because no two clocks
run at quite the same rate.
"""

from __future__ import annotations

from typing import Protocol

from scheduledjob.domain.time.instants import SECOND, Instant

DRIFT = 200e-6
"""How much faster than the store's clock ours may run: twice what machines without NTP show."""

_MICROS = (1 - DRIFT) * SECOND
"""Microseconds of the store's clock that are assumed to pass in one second of ours."""


class Clock(Protocol):
    """Returns seconds that never go back; ``time.monotonic`` outside tests."""

    def __call__(self) -> float: ...


class StoreClock:
    """An estimate of the store's clock that is never ahead of it."""

    def __init__(self, monotonic: Clock) -> None:
        self._monotonic = monotonic
        self._base: Instant = 0
        self._at = 0.0
        self.known = False
        self.last_answer_at = float("-inf")
        """Monotonic seconds of the store's last answer."""

    def observe(self, store_now: Instant, sent: float, received: float) -> None:
        """The store read ``store_now`` from its clock between ``sent`` and ``received`` (monotonic seconds)."""
        self.last_answer_at = received
        estimate = self._estimate(received)
        stepped_back = estimate > store_now + round((received - sent) * SECOND)
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
