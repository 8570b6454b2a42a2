"""The memory store's clock: the wall clock of this machine.

Leases must not follow the wall clock when somebody sets it, or when it goes on after the machine was suspended:
everything in this process stood still meanwhile. So the clock notices that the wall clock has moved against a steady
clock, and reports by how much. The database then moves the ends of leases, and notifies its listeners.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from scheduledjob.domain.time.instants import SECOND, Instant

if TYPE_CHECKING:
    from scheduledjob.domain.time.instants import Micros

Clock: TypeAlias = Callable[[], Instant]

STEP: Micros = SECOND // 20
"""A smaller difference between the two clocks comes from the time that reading takes, or from slow corrections."""

_READINGS = 3
"""How often both clocks are read before a difference counts: this thread may have been suspended between the two."""


class WallClock:
    """The wall clock, with the ``jump`` that it has made since ``take_jump`` was last called."""

    def __init__(
        self,
        wall: Callable[[], int] = time.time_ns,
        steady: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Both functions return nanoseconds. ``steady`` never jumps, and stands still while the machine sleeps."""
        self._wall = wall
        self._steady = steady
        self._offset = self._wall() - self._steady()
        self._jump: Micros = 0

    def __call__(self) -> Instant:
        steady = self._steady()
        difference = self._wall() - steady - self._offset
        if abs(difference) >= STEP * 1000:
            difference, steady = self._read_again()
            self._offset += difference
            self._jump += difference // 1000
        return (self._offset + steady) // 1000

    def take_jump(self) -> Micros:
        """Return by how much the wall clock has jumped since the last call."""
        jump, self._jump = self._jump, 0
        return jump

    def _read_again(self) -> tuple[int, int]:
        """Return the difference between the clocks (zero if it is not a jump) and the reading of the steady clock."""
        differences = []
        for _ in range(_READINGS):
            steady = self._steady()
            differences.append(self._wall() - steady - self._offset)
        smallest = min(differences, key=abs)
        return (smallest if abs(smallest) >= STEP * 1000 else 0), steady
