"""LocalTimes: the local seconds that a cron expression matches, in a calendar without time zones.

The times of a matching day are ``TimesOfDay``. The matching days of a month are a bit mask, computed once for each of
the 28 shapes that a month can have (its length and its first day of the week). So the next match, the previous match
and the number of matches in ten years are found without visiting every match.

All numbers are whole local seconds since 1970-01-01T00:00:00, or days since then. ``None`` means that nothing matches.
"""

from __future__ import annotations

from datetime import date
from functools import cache
from typing import TYPE_CHECKING, Final

from scheduledjob.domain.time.zones import FIRST_SECOND, LAST_SECOND

from .parse import CronError, CronFields, Field, Kind, Term
from .times_of_day import TimesOfDay, lowest_bit, mask_of

if TYPE_CHECKING:
    from collections.abc import Iterable

DAY: Final = 86_400
EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
FIRST_DAY: Final = FIRST_SECOND // DAY
LAST_DAY: Final = LAST_SECOND // DAY
_FIRST_YEAR: Final = 2
_LAST_YEAR: Final = 9998
_MONTH_LENGTHS: Final = (0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def _field_mask(field: Field, terms: tuple[Term, ...]) -> int:
    return mask_of(number for term in terms for number in term.numbers(field))


def month_length(year: int, month: int) -> int:
    """Return the number of days of a month."""
    leap = month == 2 and year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return 29 if leap else _MONTH_LENGTHS[month]


class LocalTimes:
    """The local seconds that an expression matches, in a calendar without zones."""

    def __init__(self, fields: CronFields, *, any_second: bool = False) -> None:
        self.times = TimesOfDay(
            (1 << 60) - 1 if any_second else _field_mask(Field.SECOND, fields.second),
            _field_mask(Field.MINUTE, fields.minute),
            _field_mask(Field.HOUR, fields.hour),
        )
        """The matches of a matching day."""
        self._months = _field_mask(Field.MONTH, fields.month)
        unbounded = any(term.kind is Kind.ANY and term.step == 1 for term in fields.year)
        self._years = None if unbounded else _field_mask(Field.YEAR, fields.year)
        self._fields = fields
        self._shapes: dict[int, int] = {}
        """By length and first weekday of a month: its matching days."""
        self._require_a_match()

    def next(self, local: int) -> int | None:
        """Return the first match at or after a local second."""
        day, time = divmod(local, DAY)
        if self.matches_day(day):
            found = self.times.at_or_after(time)
            if found is not None:
                return day * DAY + found
        following = self._day_from(day + 1)
        return None if following is None else following * DAY + self.times.first

    def previous(self, local: int) -> int | None:
        """Return the last match at or before a local second."""
        day, time = divmod(local, DAY)
        if self.matches_day(day):
            found = self.times.at_or_before(time)
            if found is not None:
                return day * DAY + found
        earlier = self._day_until(day - 1)
        return None if earlier is None else earlier * DAY + self.times.last

    def count(self, start: int, stop: int) -> int:
        """Return how many seconds match in ``start <= local < stop``."""
        if stop <= start:
            return 0
        first, from_time = divmod(start, DAY)
        last, to_time = divmod(stop, DAY)
        total = self._days_between(first, last) * self.times.count
        if to_time and self.matches_day(last):
            total += self.times.count_before(to_time)
        if from_time and self.matches_day(first):
            total -= self.times.count_before(from_time)
        return total

    def matches_day(self, day: int) -> bool:
        """Whether a day (days since 1970-01-01) has matches."""
        if not FIRST_DAY <= day <= LAST_DAY:
            return False
        found = date.fromordinal(day + EPOCH_DAY)
        year = found.year
        if self._years is not None and not self._years >> year & 1:
            return False
        return bool(self._month_days(year, found.month) >> found.day & 1)

    def _day_from(self, day: int) -> int | None:
        """Return the first matching day at or after ``day``."""
        if day > LAST_DAY:
            return None
        start = date.fromordinal(max(day, FIRST_DAY) + EPOCH_DAY)
        year, month, skip = start.year, start.month, start.day
        while year <= _LAST_YEAR:
            if self._years is not None and not self._years >> year & 1:
                later = self._years >> year
                if not later:
                    return None
                year, month, skip = year + lowest_bit(later), 1, 0
            ahead = self._months >> month
            while ahead:
                step = lowest_bit(ahead)
                if step:
                    month, skip = month + step, 0
                days = self._month_days(year, month) >> skip
                if days:
                    return date(year, month, 1).toordinal() - 1 + skip + lowest_bit(days) - EPOCH_DAY
                month, skip = month + 1, 0
                ahead = self._months >> month
            year, month, skip = year + 1, 1, 0
        return None

    def _day_until(self, day: int) -> int | None:
        """Return the last matching day at or before ``day``."""
        if day < FIRST_DAY:
            return None
        start = date.fromordinal(min(day, LAST_DAY) + EPOCH_DAY)
        year, month, keep = start.year, start.month, start.day
        while year >= _FIRST_YEAR:
            if self._years is not None and not self._years >> year & 1:
                earlier = self._years & (1 << year) - 1
                if not earlier:
                    return None
                year, month, keep = earlier.bit_length() - 1, 12, 31
            behind = self._months & (2 << month) - 1
            while behind:
                last = behind.bit_length() - 1
                if last != month:
                    month, keep = last, 31
                days = self._month_days(year, month) & (2 << keep) - 1
                if days:
                    return date(year, month, 1).toordinal() - 1 + days.bit_length() - 1 - EPOCH_DAY
                month, keep = month - 1, 31
                behind = self._months & (2 << month) - 1
            year, month, keep = year - 1, 12, 31
        return None

    def _days_between(self, first: int, stop: int) -> int:
        """Return how many days match in ``first <= day < stop``."""
        first, stop = max(first, FIRST_DAY), min(stop, LAST_DAY + 1)
        if stop <= first:
            return 0
        start, end = date.fromordinal(first + EPOCH_DAY), date.fromordinal(stop + EPOCH_DAY)
        year, month, total = start.year, start.month, 0
        while (year, month) <= (end.year, end.month):
            total += self.month_days(year, month).bit_count()
            year, month = (year, month + 1) if month < 12 else (year + 1, 1)
        for edge, factor in ((start, -1), (end, 1)):
            days = self.month_days(edge.year, edge.month)
            kept = days & (1 << edge.day) - 1
            total += factor * kept.bit_count() - (days.bit_count() if factor > 0 else 0)
        return total

    def month_days(self, year: int, month: int) -> int:
        """Return the matching days of a month as a mask with bit n for day n."""
        return self._month_days(year, month) if self._years is None or self._years >> year & 1 else 0

    def _month_days(self, year: int, month: int) -> int:
        """Return the matching days of a month of a year that matches."""
        if not self._months >> month & 1:
            return 0
        return self._shape(month_length(year, month), date(year, month, 1).toordinal() % 7)

    def _shape(self, length: int, first_weekday: int) -> int:
        days = self._shapes.get(length * 8 + first_weekday)
        if days is None:
            days = self._shapes[length * 8 + first_weekday] = self._make_shape(length, first_weekday)
        return days

    def _make_shape(self, length: int, first_weekday: int) -> int:
        whole = mask_of(range(1, length + 1))
        by_date = mask_of(day for term in self._fields.day for day in _days_by_date(term, length, first_weekday))
        by_name = mask_of(day for term in self._fields.weekday for day in _days_by_name(term, length, first_weekday))
        return (by_date | by_name if self._fields.either_day else by_date & by_name) & whole

    def _require_a_match(self) -> None:
        """Raise ``CronError`` if no day ever matches. Sooner or later, a month begins on each day of the week."""
        for month in range(1, 13):
            if not self._months >> month & 1:
                continue
            if self._years is None:
                lengths = {_MONTH_LENGTHS[month], 29 if month == 2 else _MONTH_LENGTHS[month]}
                if any(self._shape(length, weekday) for length in lengths for weekday in range(7)):
                    return
            elif any(self._years & years and self._shape(*shape) for shape, years in _years_by_shape(month)):
                return
        if self._years is None:
            raise CronError(
                "day-of-month and month: the expression can never fire, because no such day exists in these months; "
                "allowed are days that they have"
            )
        raise CronError(
            "day-of-month, month and year: the expression can never fire, because no such day exists in these years; "
            "allowed are days that they have"
        )


@cache
def _years_by_shape(month: int) -> list[tuple[tuple[int, int], int]]:
    """Return the shapes (length, first weekday) that a month has in 1970 to 2099, each with its years as a mask."""
    years: dict[tuple[int, int], int] = {}
    for year in range(1970, 2100):
        shape = month_length(year, month), date(year, month, 1).toordinal() % 7
        years[shape] = years.get(shape, 0) | 1 << year
    return list(years.items())


def _days_by_date(term: Term, length: int, first_weekday: int) -> Iterable[int]:
    match term.kind:
        case Kind.LAST_DAY:
            return (length - term.first,) if length > term.first else ()
        case Kind.NEAREST_WEEKDAY:
            return (_nearest_weekday(term.first, length, first_weekday),) if term.first <= length else ()
        case Kind.LAST_WEEKDAY:
            return (_nearest_weekday(length, length, first_weekday),)
        case _:
            return term.numbers(Field.DAY)


def _days_by_name(term: Term, length: int, first_weekday: int) -> Iterable[int]:
    if term.kind in {Kind.ANY, Kind.SPAN}:
        named = set(term.numbers(Field.WEEKDAY))
        return (day for day in range(1, length + 1) if (first_weekday + day - 1) % 7 in named)
    days = [day for day in range(1, length + 1) if (first_weekday + day - 1) % 7 == term.first]
    if term.kind is Kind.LAST_NTH:
        return days[-1:]
    return days[term.last - 1 : term.last]


def _nearest_weekday(day: int, length: int, first_weekday: int) -> int:
    weekday = (first_weekday + day - 1) % 7
    if weekday == 6:  # Saturday
        return day - 1 if day > 1 else day + 2
    if weekday == 0:
        return day + 1 if day < length else day - 2
    return day
