"""Every: slots at a fixed interval, counted from an anchor and not affected by daylight saving time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from scheduledjob.domain.time.durations import MAX_DURATION, format_duration, require_seconds
from scheduledjob.domain.time.instants import DAY, MINUTE, SECOND, Instant, Micros, rfc3339, to_datetime, to_instant
from scheduledjob.domain.time.zones import LAST_SECOND

from .stored_trigger import StoredTrigger

if TYPE_CHECKING:
    from datetime import datetime

_DAY_SECONDS = DAY // SECOND
_WHOLE_DAY = {unit: (1 << _DAY_SECONDS // unit) - 1 for unit in (1, 60)}
"""A bit for each ``unit`` seconds of a day."""


def anchor_instant(anchor: datetime | None) -> Instant | None:
    """Return the instant of an anchor. Raises ``ValueError`` if it has a fraction of a second."""
    instant = None if anchor is None else to_instant(anchor)
    if instant is not None and instant % SECOND:
        raise ValueError(f"the anchor {rfc3339(instant)} is not allowed: leave out the fraction of the second")
    return instant


def anchor_at_creation(created: Instant) -> datetime:
    """Return the anchor of a schedule that names none: its creation, cut to the whole second."""
    return to_datetime(created - created % SECOND)


@dataclass(frozen=True, slots=True)
class Every:
    """A slot every so many seconds: ``anchor + n * seconds`` for n = 0, 1, 2 ...

    ``seconds`` is a whole number of at least 1, ``anchor`` an aware datetime in whole seconds. Without an anchor the
    interval counts from the creation of the schedule, which ``bind`` fills in. Raises ``ValueError`` for another number
    and ``TypeError`` for a value that is not a number.
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
        object.__setattr__(self, "_every", int(self.seconds) * SECOND)
        object.__setattr__(self, "_anchor", anchor_instant(self.anchor))

    def bind(self, created: Instant) -> Every:
        """Return the interval with its anchor, or with the creation cut to the whole second if it has none."""
        if self._anchor is not None:
            return self
        return replace(self, anchor=anchor_at_creation(created))

    def next(self, after: datetime) -> datetime | None:
        """Return the first slot after a moment, in UTC. Without an anchor the interval counts from that moment."""
        moment = to_instant(after)
        slot = self.bind(moment).next_instant(moment)
        return None if slot is None else to_datetime(slot)

    def previous(self, at: datetime) -> datetime | None:
        """Return the newest slot at or before a moment, in UTC; None if there is none, or no anchor."""
        slot = None if self._anchor is None else self.previous_instant(to_instant(at))
        return None if slot is None else to_datetime(slot)

    def explain(self) -> str:
        """Return the interval in words."""
        length = format_duration(self._every)
        since = "" if self._anchor is None else f", counted from {rfc3339(self._anchor)}"
        return f"every {length}{since}"

    def next_instant(self, after: Instant) -> Instant | None:
        """Return the first slot after an instant, or None."""
        anchor = self._bound()
        slot = anchor + max(0, (after - anchor) // self._every + 1) * self._every
        return slot if slot <= LAST_SECOND * SECOND else None

    def previous_instant(self, at: Instant) -> Instant | None:
        """Return the newest slot at or before an instant, or None."""
        anchor = self._bound()
        at = min(at, LAST_SECOND * SECOND)
        return None if at < anchor else at - (at - anchor) % self._every

    def count(self, after: Instant, until: Instant) -> int:
        """Return how many slots lie in ``after < slot <= until``."""
        anchor = self._bound()
        return max(0, self._number(until - anchor) - self._number(after - anchor))

    def by_day(self) -> Every:
        """Return itself, which knows its slots of a day."""
        return self

    def stored(self) -> EveryTrigger:
        """Return the interval as a definition stores it."""
        return EveryTrigger(self._every, self._anchor)

    def day_key(self, day: int) -> tuple[int, ...]:
        """Return the second of a UTC day at which its first slot is: ``day_slots`` depends on nothing else."""
        until_anchor = self._bound() // SECOND - day * _DAY_SECONDS
        first = until_anchor if until_anchor >= 0 else until_anchor % (self._every // SECOND)
        return (min(first, _DAY_SECONDS),)

    @property
    def whole_minutes(self) -> bool:
        """Whether all slots are at the first second of a minute."""
        return self._every % MINUTE == 0 and self._bound() % MINUTE == 0

    def day_pattern(self, unit: int) -> int:
        """Return the slots of a day that begins with a slot, bit n for its n-th ``unit`` seconds."""
        pattern, width = 1, self._every // SECOND // unit
        while width < _DAY_SECONDS // unit:
            pattern |= pattern << width
            width *= 2
        return pattern & _WHOLE_DAY[unit]

    def day_slots(self, day: int, pattern: int, unit: int) -> int:
        """Return the slots of a UTC day (days since 1970-01-01), bit n for its n-th ``unit`` seconds."""
        return pattern << self.day_key(day)[0] // unit & _WHOLE_DAY[unit]

    def _number(self, since: Micros) -> int:
        return 0 if since < 0 else since // self._every + 1

    def _bound(self) -> Instant:
        if self._anchor is None:
            raise ValueError(f"{self!r} has no anchor: give it one, or bind it to the creation of a schedule")
        return self._anchor


class EveryTrigger(StoredTrigger, frozen=True, tag="every"):
    """Slots at a fixed interval."""

    every: Micros
    anchor: Instant | None = None
    """None: the creation of the schedule, cut to the whole second."""

    def bind(self, seed: str, created: Instant) -> Every:
        """Return the interval, with the creation as its anchor if it has none."""
        anchor = None if self.anchor is None else to_datetime(self.anchor)
        return Every(self.every // SECOND, anchor).bind(created)

    def short(self) -> str:
        """Return ``every 6h``."""
        return f"every {format_duration(self.every)}"

    def long(self, seed: str) -> str:
        """Return ``every 6h, counted from 2026-12-01T00:00:00Z``."""
        anchor = "the object's creation" if self.anchor is None else rfc3339(self.anchor)
        return f"{self.short()}, counted from {anchor}"

    @property
    def counts_from_creation(self) -> bool:
        """Whether it has no anchor of its own."""
        return self.anchor is None
