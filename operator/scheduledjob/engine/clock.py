"""Clocks: the process's own, which only measures, and the store's, which alone decides.

Whether a slot is due is the store's clock to say; a replica's wall clock may be an hour off and is never read for
it. Between two answers of the store a replica carries that clock on with its monotonic one, and errs on the late
side: an answer read at some moment between sending and receiving is taken to be from the moment of receiving, so the
estimate is behind the truth by less than the round trip and never ahead of it. The best of the recent answers
serves; it loses ``DRIFT`` with age, because two clocks never run at quite the same rate.
"""

from __future__ import annotations

from typing import Protocol

from scheduledjob.domain.time.instants import SECOND, Instant

DRIFT = 200e-6
"""How much faster than the store's clock ours may run: twice what is seen of machines without NTP."""

_MICROS = (1 - DRIFT) * SECOND
"""Of the store's clock that we take to have passed in a second of ours."""


class Clock(Protocol):
    """Seconds that only go forward; ``time.monotonic`` outside tests."""

    def __call__(self) -> float: ...


class StoreClock:
    """An estimate of the store's clock that is never ahead of it."""

    def __init__(self, monotonic: Clock) -> None:
        self._monotonic = monotonic
        self._base: Instant = 0
        self._at = 0.0
        self.known = False
        self.heard_at = float("-inf")
        """When the store last said anything; our monotonic seconds."""

    def observe(self, store_now: Instant, sent: float, received: float) -> None:
        """The store said ``store_now`` at some moment between ``sent`` and ``received`` (our monotonic seconds)."""
        self.heard_at = received
        estimate = self._estimate(received)
        stepped_back = estimate > store_now + round((received - sent) * SECOND)
        if not self.known or estimate <= store_now or stepped_back:
            self._base, self._at, self.known = store_now, received, True

    def now(self) -> Instant:
        """The store's clock: at most a round trip behind it, never ahead."""
        return self._base + int((self._monotonic() - self._at) * _MICROS)

    def until(self, instant: Instant) -> float:
        """Seconds from now until ``now()`` will say ``instant``; not above zero when it has."""
        return (instant - self.now()) / _MICROS

    def _estimate(self, monotonic: float) -> Instant:
        return self._base + int((monotonic - self._at) * _MICROS)
