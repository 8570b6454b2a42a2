"""An estimate of the store's clock: the earliest and the latest time that it may be in Firestore.

Firestore has no ``now()``. But it answers every write with the time at which the write happened there, which is after
the request was sent and before the answer arrived. So a write gives two bounds: the time is *at least* the write's time
plus what has passed since the answer, and *at most* the write's time plus what has passed since the request. The bounds
stay true as time passes if they are widened by the drift of the local clock. They are as far apart as the round
trip of the best measurement took. Every write of the store is a measurement; extra writes are made only when there
has been none for a while.

For each question, one of the two bounds errs on the safe side:

* **Is a row due? Has a lease ended?** The earliest time decides. A "yes" that is too early would start a slot before
  its time, or take a row from an owner that still runs. One that is too late only costs a little waiting.
* **When does my lease end?** At the latest time at which the claim or renewal can have started, plus the lease. The
  owner stops at "start + lease" by its own boot clock, measured before anything was sent. Another replica may take
  the row only after that, so the stored end must not be before that moment on the store's clock. An end computed from
  the earliest time could be too early by the error. One computed from the latest time is too late by at most the
  error, which only delays a takeover.
* **A takeover** compares the first estimate with an end that was set by the second. Both errors are on the safe side,
  whatever the two replicas' errors are.

If the store's clock was set, a measurement contradicts the
bounds. Then the bounds start anew and ``jumps`` goes up. A replica that has just written the end of a lease by the old
bounds learns from this that the end is wrong.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from scheduledjob.engine.clock import boot_nanoseconds
from scheduledjob.engine.store import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from scheduledjob.domain.time.instants import Instant, Micros

DRIFT_PER_MILLION = 500
"""The greatest error of the boot clock: the most that NTP may slew it on Linux, many times the error of a quartz."""

ROUNDING: Micros = 2
"""Microseconds to allow for the readings and the stamp, which are each rounded down to a whole microsecond."""


def boot_micros() -> Micros:
    return boot_nanoseconds() // 1000


class FirestoreClock:
    """Bounds of the store's time. It may be used from any thread."""

    def __init__(self, reading: Callable[[], Micros] = boot_micros) -> None:
        self.reading = reading
        """Microseconds of this machine's boot clock."""
        self.jumps = 0
        """How often a measurement has contradicted the bounds."""
        self._lock = threading.Lock()
        self._least: tuple[Micros, Instant] | None = None
        """(reading of the boot clock, the earliest time of the store's clock then)"""
        self._most: tuple[Micros, Instant] | None = None
        self._measured = 0

    def measured(self, sent: Micros, answered: Micros, stamp: Instant) -> None:
        """Take in that a write which was sent and answered at these readings happened at ``stamp``."""
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
        """Return the earliest time of the store's clock at that reading (None: now)."""
        with self._lock:
            return _least_at(_known(self._least), self.reading() if reading is None else reading)

    def latest(self, reading: Micros | None = None) -> Instant:
        """Return the latest time of the store's clock at that reading (None: now)."""
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
    """Return the greatest drift in that time, rounded up; the time may be negative."""
    return -(-abs(passed) * DRIFT_PER_MILLION // 1_000_000)
