"""The store's clock, estimated: what time it is in Firestore, at least and at most.

Firestore has no ``now()``. But every write is answered with the time at which it happened there, and that time lies
between the sending of the request and its answer. So one write gives two bounds that go on being true as time passes,
widened by what a monotonic clock may drift: *it is at least* (the write's time, plus what has passed since the
answer) and *it is at most* (the write's time, plus what has passed since the sending). The truth lies between; how
far they are apart is the round trip of the best measurement. Every write of the store measures, and no write is made
for measuring's sake while others are.

Which of the two is asked decides on which side the error falls, and each question has one safe side:

* **is it due, has that lease passed?** By the earliest it can be. Too early a "yes" starts a slot before its time or
  takes a row from an owner that still runs; too late a one costs a round trip's error of patience.
* **until when is my lease?** By the latest it can have been when the claim, or renewal, began, plus the lease. The
  owner stops at "begin + lease" by its own monotonic clock, measured from before anything was sent. Its row may pass
  to another only afterwards, so the end that others read must not lie before that moment on the store's clock. The
  earliest estimate would set an end that lies before it by up to the error. The latest sets it late by no more than
  the error, which delays a takeover and harms nobody; and it never is later than the latest clock plus the lease.
* **a takeover** asks the first question about an end that was set by the second: both errors fall on the same, safe
  side, whatever the two replicas' errors are.

A clock that stood still (a suspended machine) or a store whose clock was set shows as a measurement that contradicts
the bounds. They are then taken anew and ``jumps`` goes up, so that whoever has just written a lease's end by the old
bounds can tell that it is worth nothing.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from scheduledjob.engine.store import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from scheduledjob.domain.time.instants import Instant, Micros

DRIFT_PER_MILLION = 500
"""By how much a monotonic clock may be wrong: what Linux lets NTP slew it at most, many times a quartz's own error."""

ROUNDING: Micros = 2
"""The readings and the stamp are each cut to a whole microsecond."""


def monotonic_micros() -> Micros:
    return time.monotonic_ns() // 1000


class FirestoreClock:
    """Bounds on the store's time. Any thread may ask and tell."""

    def __init__(self, monotonic: Callable[[], Micros] = monotonic_micros) -> None:
        self.reading = monotonic
        """Microseconds of the local monotonic clock."""
        self.jumps = 0
        """How often a measurement has contradicted the bounds."""
        self._lock = threading.Lock()
        self._least: tuple[Micros, Instant] | None = None
        """(reading, the earliest that the store's clock showed then)"""
        self._most: tuple[Micros, Instant] | None = None
        self._measured = 0

    def measured(self, sent: Micros, answered: Micros, stamp: Instant) -> None:
        """A write that was sent and answered at these readings happened at ``stamp``."""
        passed = answered - sent
        least, most = stamp - ROUNDING, stamp + passed + _drift(passed) + ROUNDING
        with self._lock:
            self._measured = max(self._measured, answered)
            if self._least is None or self._most is None:
                self._least, self._most = (answered, least), (answered, most)
                return
            known_least, known_most = _least_at(self._least, answered), _most_at(self._most, answered)
            if least > known_most or most < known_least:
                self.jumps += 1
                self._least, self._most = (answered, least), (answered, most)
                return
            if least >= known_least:
                self._least = (answered, least)
            if most <= known_most:
                self._most = (answered, most)

    def earliest(self, reading: Micros | None = None) -> Instant:
        """The store's clock at that reading (None: now) is not before this."""
        with self._lock:
            return _least_at(_known(self._least), self.reading() if reading is None else reading)

    def latest(self, reading: Micros | None = None) -> Instant:
        """The store's clock at that reading (None: now) is not after this."""
        with self._lock:
            return _most_at(_known(self._most), self.reading() if reading is None else reading)

    @property
    def age(self) -> Micros:
        """How long ago the store's clock was last measured."""
        with self._lock:
            _known(self._least)
            return self.reading() - self._measured


def _known(bound: tuple[Micros, Instant] | None) -> tuple[Micros, Instant]:
    if bound is None:
        raise StoreError("the store's clock is not known yet: call connect() first")
    return bound


def _least_at(bound: tuple[Micros, Instant], reading: Micros) -> Instant:
    passed = reading - bound[0]
    return bound[1] + passed - _drift(passed)


def _most_at(bound: tuple[Micros, Instant], reading: Micros) -> Instant:
    passed = reading - bound[0]
    return bound[1] + passed + _drift(passed)


def _drift(passed: Micros) -> Micros:
    """Rounded up, for a time in either direction."""
    return -(-abs(passed) * DRIFT_PER_MILLION // 1_000_000)
