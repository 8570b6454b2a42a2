"""Backoff: how long to wait between a failed attempt and the next, and when no retry is left.

There are two kinds, as in the manifest. Both are values: they are part of a definition, stored with it, and compared by
content. Attempts that were lost with their replica are not failures and have no backoff. Both have ``not_on``: exit
codes or HTTP statuses after which the run fails at once, whatever retries are left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from scheduledjob.domain.time.durations import is_number, require_seconds
from scheduledjob.domain.time.instants import Micros, from_seconds

DEFAULT_RETRIES = 6
WITHOUT_END = -1
_GREATEST_CODE = 599
"""The greatest HTTP status. Exit codes are smaller."""


class Exponential(msgspec.Struct, frozen=True, omit_defaults=True, tag="exponential", tag_field="backoff"):
    """Wait ``initial`` seconds, then ``multiplier`` times as long each time, but at most ``max`` seconds.

    With ``max_retries`` of -1 there is always another retry. Raises ``ValueError`` for a length that is not positive, a
    multiplier below 1, a ``max`` below ``initial``, or a code with which no run fails.
    """

    initial: float = 10.0
    max: float = 600.0
    multiplier: float = 2.0
    max_retries: int = DEFAULT_RETRIES
    not_on: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _check_seconds("initial", self.initial)
        _check_seconds("max", self.max)
        if not is_number(self.multiplier):
            raise TypeError(f"multiplier {self.multiplier!r:.60} is not allowed: a number of at least 1")
        if not (math.isfinite(self.multiplier) and self.multiplier >= 1):
            raise ValueError(f"multiplier {self.multiplier!r} is not allowed: a number of at least 1")
        if self.max < self.initial:
            raise ValueError(f"max {self.max!r} is below initial {self.initial!r}: give one at least as long")
        _check_retries(self.max_retries)
        _check_codes(self.not_on)

    @property
    def longest(self) -> Micros:
        """The longest wait, also if a server asks for more."""
        return from_seconds(self.max)

    def delay(self, failed: int) -> Micros | None:
        """Return the wait after the ``failed``-th failed attempt (from 1); None if no retry is left."""
        if self.max_retries != WITHOUT_END and failed > self.max_retries:
            return None
        try:
            seconds = self.initial * self.multiplier ** (failed - 1)
        except OverflowError:
            seconds = self.max
        return from_seconds(min(seconds, self.max))


class Fixed(msgspec.Struct, frozen=True, omit_defaults=True, tag="fixed", tag_field="backoff"):
    """Wait the given seconds, with one retry for each interval.

    ``max_retries`` sets another number of retries; then the last interval repeats. -1: there is always another retry.
    Raises ``ValueError`` for no intervals, for one that is not positive, or for a code with which no run fails.
    """

    intervals: Sequence[float]
    max_retries: int | None = None
    not_on: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        given: object = self.intervals
        if isinstance(given, str | bytes) or not isinstance(given, Sequence):
            shown = f"intervals of {given!r:.60} are not allowed"
            raise TypeError(f"{shown}: give a list of waits in seconds, as in [10.0, 60.0]")
        if not self.intervals:
            raise ValueError("intervals is empty: give at least one wait in seconds, as in [10.0, 60.0]")
        for interval in self.intervals:
            _check_seconds("an interval", interval)
        if self.max_retries is not None:
            _check_retries(self.max_retries)
        _check_codes(self.not_on)

    @property
    def longest(self) -> Micros:
        """The longest wait, also if a server asks for more."""
        return from_seconds(max(self.intervals))

    def delay(self, failed: int) -> Micros | None:
        """Return the wait after the ``failed``-th failed attempt (from 1); None if no retry is left."""
        allowed = len(self.intervals) if self.max_retries is None else self.max_retries
        if allowed != WITHOUT_END and failed > allowed:
            return None
        return from_seconds(self.intervals[min(failed, len(self.intervals)) - 1])


Backoff: TypeAlias = Exponential | Fixed


def _check_seconds(name: str, seconds: float) -> None:
    require_seconds(name, seconds)
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"{name} of {seconds!r} seconds is not allowed: a positive number of seconds")


def _check_codes(codes: tuple[int, ...]) -> None:
    if not isinstance(codes, tuple) or not all(type(code) is int for code in codes):
        raise TypeError(f"not_on {codes!r:.60} is not allowed: a tuple of exit codes or HTTP statuses, as in (2, 404)")
    if impossible := [code for code in codes if not 1 <= code <= _GREATEST_CODE]:
        raise ValueError(f"not_on has {impossible[0]}, with which no run fails: give codes from 1 to {_GREATEST_CODE}")


def _check_retries(retries: int) -> None:
    if not isinstance(retries, int) or isinstance(retries, bool):
        raise TypeError(f"max_retries {retries!r:.60} is not allowed: a whole number, or -1 for no limit")
    if retries < WITHOUT_END:
        raise ValueError(f"max_retries {retries} is not allowed: 0 or more, or -1 for no limit")
