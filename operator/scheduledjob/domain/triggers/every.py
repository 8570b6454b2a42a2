"""Every: slots at a fixed distance, counted from an anchor, whatever the clocks on the wall do."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from scheduledjob.domain.time.durations import MAX_DURATION, format_duration, require_seconds
from scheduledjob.domain.time.instants import DAY, SECOND, Instant, Micros, rfc3339, to_datetime, to_instant
from scheduledjob.domain.time.zones import LAST_SECOND

if TYPE_CHECKING:
    from datetime import datetime

_DAY_SECONDS = DAY // SECOND


@dataclass(frozen=True, slots=True)
class Every:
    """A slot every so many seconds: ``anchor + n * seconds`` for n = 0, 1, 2 ...

    ``seconds`` is a whole number from 1 on, ``anchor`` an aware datetime in whole seconds. Without one the interval
    counts from the creation of the schedule, which ``bind`` fills in. Raises ``ValueError`` for another number, and
    ``TypeError`` for what is no number.
    """

    seconds: float
    anchor: datetime | None = None
    _every: Micros = field(init=False, repr=False, compare=False)
    _anchor: Instant | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_seconds("an interval", self.seconds)
        if not (1 <= self.seconds <= MAX_DURATION // SECOND and self.seconds == int(self.seconds)):
            raise ValueError(
                f"an interval of {self.seconds} seconds is not allowed: "
                f"write a whole number of seconds from 1 to {MAX_DURATION // SECOND}"
            )
        anchor = None if self.anchor is None else to_instant(self.anchor)
        if anchor is not None and anchor % SECOND:
            raise ValueError(f"the anchor {rfc3339(anchor)} is not allowed: leave out the fraction of the second")
        object.__setattr__(self, "_every", int(self.seconds) * SECOND)
        object.__setattr__(self, "_anchor", anchor)

    def bind(self, created: Instant) -> Every:
        """The interval with its anchor: its own, else the creation of the schedule, cut to the whole second."""
        if self._anchor is not None:
            return self
        return replace(self, anchor=to_datetime(created - created % SECOND))

    def next(self, after: datetime) -> datetime | None:
        """The first slot after a moment, in UTC; without an anchor that of a schedule created at that moment."""
        moment = to_instant(after)
        slot = self.bind(moment).next_instant(moment)
        return None if slot is None else to_datetime(slot)

    def previous(self, at: datetime) -> datetime | None:
        """The newest slot until a moment, in UTC; without an anchor there was none yet."""
        slot = None if self._anchor is None else self.previous_instant(to_instant(at))
        return None if slot is None else to_datetime(slot)

    def explain(self) -> str:
        """The interval in words."""
        length = format_duration(self._every)
        since = "" if self._anchor is None else f", counted from {rfc3339(self._anchor)}"
        return f"every {length}{since}"

    def next_instant(self, after: Instant) -> Instant | None:
        """The first slot after an instant."""
        anchor = self._bound()
        slot = anchor + max(0, (after - anchor) // self._every + 1) * self._every
        return slot if slot <= LAST_SECOND * SECOND else None

    def previous_instant(self, at: Instant) -> Instant | None:
        """The newest slot at or before an instant."""
        anchor = self._bound()
        at = min(at, LAST_SECOND * SECOND)
        return None if at < anchor else at - (at - anchor) % self._every

    def count(self, after: Instant, until: Instant) -> int:
        """How many slots lie in ``after < slot <= until``."""
        anchor = self._bound()
        return max(0, self._number(until - anchor) - self._number(after - anchor))

    def day_key(self, day: int) -> tuple[int, ...]:
        """What ``day_slots`` of a UTC day depends on: the second of the day at which its first slot is."""
        until_anchor = self._bound() // SECOND - day * _DAY_SECONDS
        first = until_anchor if until_anchor >= 0 else until_anchor % (self._every // SECOND)
        return (min(first, _DAY_SECONDS),)

    def day_pattern(self) -> int:
        """A bit for each second of a day at which there is a slot, if the day begins with one."""
        pattern, width = 1, self._every // SECOND
        while width < _DAY_SECONDS:
            pattern |= pattern << width
            width *= 2
        return pattern

    def day_slots(self, day: int, pattern: int) -> int:
        """The slots of a UTC day (days since 1970-01-01), bit n for its n-th second."""
        return pattern << self.day_key(day)[0] & (1 << _DAY_SECONDS) - 1

    def _number(self, since: Micros) -> int:
        return 0 if since < 0 else since // self._every + 1

    def _bound(self) -> Instant:
        if self._anchor is None:
            raise ValueError(
                f"{self!r} counts from nothing yet: bind it to the creation of a schedule, or give an anchor"
            )
        return self._anchor
