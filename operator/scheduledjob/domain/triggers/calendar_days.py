"""Calendar: slots every so many days or weeks, at a local time of day.

Days and weeks are counted on the local calendar, from the day of an anchor. Clocks that change don't move the time of
day. If the change skips it, the slot is at the first valid instant afterwards; if the change repeats it, the slot is at
the first occurrence. Weeks begin on Monday. There is no slot before the anchor.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import date
from typing import TYPE_CHECKING, Final

from scheduledjob.domain.cron.local_times import DAY as DAY_SECONDS
from scheduledjob.domain.cron.local_times import EPOCH_DAY, FIRST_DAY, LAST_DAY, month_length
from scheduledjob.domain.cron.search import CronSearch
from scheduledjob.domain.cron.times_of_day import TimesOfDay, mask_of
from scheduledjob.domain.time.durations import MAX_DURATION, is_number
from scheduledjob.domain.time.instants import DAY, SECOND, Instant, rfc3339, to_datetime, to_instant
from scheduledjob.domain.time.zones import FIRST_SECOND, LAST_SECOND, zone_of

from .every import anchor_at_creation, anchor_instant
from .stored_trigger import StoredTrigger

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

WEEKDAYS: Final = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
MAX_DAYS: Final = MAX_DURATION // DAY
MAX_WEEKS: Final = MAX_DAYS // 7
TIME_PATTERN: Final = "(?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9])?"
"""A time of day, ``HH:MM`` or ``HH:MM:SS``."""

_TIME = re.compile(TIME_PATTERN)
_NAMES: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONDAY: Final = -3
"""1969-12-29, a Monday, in days since 1970-01-01."""


class CalendarDays:
    """The local seconds of a ``Calendar``: one time of day, on days that are found by arithmetic.

    All numbers are days or seconds of local time since 1970-01-01. ``None`` means that there is none.
    """

    def __init__(self, start: int, period: int, offsets: Iterable[int], time: int) -> None:
        self.times = TimesOfDay(1 << time % 60, 1 << time // 60 % 60, 1 << time // 3600)
        """The time of day."""
        self.first_day = FIRST_DAY
        """No day before it counts."""
        self._start = start
        self._period = period
        self._offsets = tuple(sorted(set(offsets)))
        """The days of each period, from 0."""

    def next(self, local: int) -> int | None:
        """Return the first match at or after a local second."""
        time = self.times.first
        day = self._day(self._number(-(-(local - time) // DAY_SECONDS)))
        return day * DAY_SECONDS + time if day <= LAST_DAY else None

    def previous(self, local: int) -> int | None:
        """Return the last match at or before a local second."""
        time = self.times.first
        day = self._day(self._number((local - time) // DAY_SECONDS + 1) - 1)
        return day * DAY_SECONDS + time if day >= self.first_day else None

    def count(self, start: int, stop: int) -> int:
        """Return how many seconds match in ``start <= local < stop``."""
        time = self.times.first
        first, last = (-(-(local - time) // DAY_SECONDS) for local in (start, stop))
        return max(0, self._number(last) - self._number(first))

    def month_days(self, year: int, month: int) -> int:
        """Return the matching days of a month as a mask with bit n for day n."""
        before = date(year, month, 1).toordinal() - EPOCH_DAY - 1
        number, last = self._number(before + 1), self._number(before + 1 + month_length(year, month))
        return mask_of(self._day(index) - before for index in range(number, last))

    def _number(self, day: int) -> int:
        """Return the number of the first matching day at or after a day; they are counted from ``_start``."""
        day = min(max(day, self.first_day), LAST_DAY + 1)
        periods, rest = divmod(day - self._start, self._period)
        return periods * len(self._offsets) + sum(offset < rest for offset in self._offsets)

    def _day(self, number: int) -> int:
        periods, index = divmod(number, len(self._offsets))
        return self._start + periods * self._period + self._offsets[index]


@dataclass(frozen=True, slots=True)
class Calendar:
    """A slot every so many weeks or days at a local time: ``Calendar(weeks=2, on=["MON", "THU"], at="09:00")``.

    Give either ``weeks`` or ``days``. ``on`` has days of the week (MON to SUN, only with ``weeks``), ``at`` is
    ``HH:MM`` or ``HH:MM:SS``, and ``time_zone`` an IANA name. Weeks are counted from the week of the anchor, an aware
    datetime in whole seconds, and days from its day. The anchor also gives the day of the week and the time of day that
    are not given. Without an anchor, the creation of the schedule is the anchor, which ``bind`` fills in. Raises
    ``ValueError`` or ``TypeError`` for a value that is not allowed.
    """

    weeks: int = 0
    days: int = field(default=0, kw_only=True)
    on: Sequence[str] = field(default=(), kw_only=True)
    at: str | None = field(default=None, kw_only=True)
    time_zone: str = field(default="UTC", kw_only=True)
    anchor: datetime | None = field(default=None, kw_only=True)
    _search: CronSearch | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for what, number, most in (("weeks", self.weeks, MAX_WEEKS), ("days", self.days, MAX_DAYS)):
            if not is_number(number):
                raise TypeError(f"{what} of {number!r:.60} is not allowed: give a whole number, as in 2")
            if not (0 <= number <= most and number == int(number)):
                raise ValueError(f"{what} of {number} is not allowed: write a whole number from 1 to {most}")
        if bool(self.weeks) == bool(self.days):
            raise ValueError("an interval has either weeks or days: write weeks=2 or days=14")
        object.__setattr__(self, "on", _weekdays(self.on))
        if self.on and self.days:
            raise ValueError(f"days of the week are allowed only with weeks: write weeks=1, on={list(self.on)}")
        if self.at is not None:
            time_of_day(self.at)
        zone_of(self.time_zone)
        anchor = anchor_instant(self.anchor)
        object.__setattr__(self, "_search", None if anchor is None else self._search_from(anchor // SECOND))

    def bind(self, created: Instant) -> Calendar:
        """Return the calendar with its anchor, or with the creation cut to the whole second if it has none."""
        if self.anchor is not None:
            return self
        return replace(self, anchor=anchor_at_creation(created))

    def next(self, after: datetime) -> datetime | None:
        """Return the first slot after a moment, in UTC. Without an anchor, that moment is the anchor."""
        moment = to_instant(after)
        slot = self.bind(moment).next_instant(moment)
        return None if slot is None else to_datetime(slot)

    def previous(self, at: datetime) -> datetime | None:
        """Return the newest slot at or before a moment, in UTC; None if there is none, or no anchor."""
        slot = None if self.anchor is None else self.previous_instant(to_instant(at))
        return None if slot is None else to_datetime(slot)

    def explain(self) -> str:
        """Return the calendar in words."""
        since = "" if self.anchor is None else f", counted from {rfc3339(to_instant(self.anchor))}"
        return f"{_words(self.stored())}{since}"

    def next_instant(self, after: Instant) -> Instant | None:
        """Return the first slot after an instant, or None."""
        slot = self.by_day().next(after // SECOND + 1)
        return None if slot is None else slot * SECOND

    def previous_instant(self, at: Instant) -> Instant | None:
        """Return the newest slot at or before an instant, or None."""
        slot = self.by_day().previous(at // SECOND)
        return None if slot is None else slot * SECOND

    def count(self, after: Instant, until: Instant) -> int:
        """Return how many slots lie in ``after < slot <= until``, without visiting each."""
        return self.by_day().count(after // SECOND + 1, until // SECOND + 1)

    def by_day(self) -> CronSearch:
        """Return the search behind it, in seconds."""
        if self._search is None:
            raise ValueError(f"{self!r} has no anchor: give it one, or bind it to the creation of a schedule")
        return self._search

    def stored(self) -> CalendarTrigger:
        """Return the calendar as a definition stores it."""
        anchor = None if self.anchor is None else to_instant(self.anchor)
        return CalendarTrigger(int(self.weeks), int(self.days), tuple(self.on), self.at, self.time_zone, anchor)

    def _search_from(self, anchor: int) -> CronSearch:
        """Return the search for the slots from a UTC second on."""
        anchor = min(max(anchor, FIRST_SECOND), LAST_SECOND)
        zone = zone_of(self.time_zone)
        day, time = divmod(anchor + zone.at(anchor).offset, DAY_SECONDS)
        if self.at is not None:
            time = time_of_day(self.at)
        if self.weeks:
            weekday = (day - _MONDAY) % 7
            offsets = tuple(WEEKDAYS.index(name) for name in self.on) or (weekday,)
            local = CalendarDays(day - weekday, 7 * int(self.weeks), offsets, time)
        else:
            local = CalendarDays(day, int(self.days), (0,), time)
        local.first_day = day
        while zone.instant_of(local.first_day * DAY_SECONDS + time) < anchor:
            local.first_day += 1
        return CronSearch(local, zone, wall_clock=True)


class CalendarTrigger(StoredTrigger, frozen=True, tag="calendar"):
    """Slots every so many weeks or days, at a local time of day."""

    weeks: int = 0
    """0: the interval is in days."""
    days: int = 0
    on: tuple[str, ...] = ()
    """Days of the week, MON to SUN; empty: that of the anchor."""
    at: str | None = None
    """``HH:MM`` or ``HH:MM:SS``; None: the anchor's time of day."""
    time_zone: str = "UTC"
    anchor: Instant | None = None
    """None: the creation of the schedule, cut to the whole second."""

    def bind(self, seed: str, created: Instant) -> Calendar:
        """Return the calendar, with the creation as its anchor if it has none."""
        anchor = None if self.anchor is None else to_datetime(self.anchor)
        bound = Calendar(self.weeks, days=self.days, on=self.on, at=self.at, time_zone=self.time_zone, anchor=anchor)
        return bound.bind(created)

    def short(self) -> str:
        """Return ``every 2w MON,THU 09:00 Europe/Lisbon``."""
        length = f"{self.weeks}w" if self.weeks else f"{self.days}d"
        zone = "" if self.time_zone == "UTC" else self.time_zone
        return " ".join(filter(None, ("every", length, ",".join(self.on), self.at, zone)))

    def long(self, seed: str) -> str:
        """Return ``every 2 weeks on Monday and Thursday at 09:00, Europe/Lisbon time, counted from ...``."""
        anchor = "the object's creation" if self.anchor is None else rfc3339(self.anchor)
        return f"{_words(self)}, counted from {anchor}"

    @property
    def counts_from_creation(self) -> bool:
        """Whether it has no anchor of its own."""
        return self.anchor is None

    @property
    def zone(self) -> str:
        """The time zone of the days and of the time of day."""
        return self.time_zone


def time_of_day(text: str) -> int:
    """Return the seconds since midnight of a time such as ``09:00``. Raises ``ValueError`` for other text."""
    if not isinstance(text, str) or not _TIME.fullmatch(text):
        raise ValueError(f'{text!r:.60} is not a time of day: write HH:MM or HH:MM:SS, as in "09:00"')
    hour, minute, second = (*map(int, text.split(":")), 0)[:3]
    return hour * 3600 + minute * 60 + second


def _weekdays(names: Iterable[str]) -> tuple[str, ...]:
    """Return the days of the week in their order, each once."""
    given = [names] if isinstance(names, str) else list(names)
    known = {str(name).upper() for name in given}
    for name in given:
        if not isinstance(name, str) or name.upper() not in WEEKDAYS:
            raise ValueError(f"{name!r:.60} is not a day of the week: write {', '.join(WEEKDAYS[:-1])} or SUN")
    return tuple(name for name in WEEKDAYS if name in known)


def _words(trigger: CalendarTrigger) -> str:
    """Return ``every 2 weeks on Monday and Thursday at 09:00, Europe/Lisbon time``."""
    count, unit = (trigger.weeks, "week") if trigger.weeks else (trigger.days, "day")
    length = f"every {unit}" if count == 1 else f"every {count} {unit}s"
    *names, last = [_NAMES[WEEKDAYS.index(name)] for name in trigger.on] or [""]
    days = f" on {', '.join(names)} and {last}" if names else f" on {last}" if last else ""
    at = f" at {trigger.at}" if trigger.at is not None else ""
    return f"{length}{days}{at}, {'UTC' if trigger.time_zone == 'UTC' else f'{trigger.time_zone} time'}"
