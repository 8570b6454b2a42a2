"""TimesOfDay: the seconds of a day that a cron expression matches.

The fields for seconds, minutes and hours are bit masks, so finding the next value takes a shift and a count of trailing
zeros. Times are seconds since midnight, 0 to 86399.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def lowest_bit(mask: int) -> int:
    """Return the number of the lowest bit that is set."""
    return (mask & -mask).bit_length() - 1


def mask_of(numbers: Iterable[int]) -> int:
    """Return a mask in which the bits with these numbers are set."""
    mask = 0
    for number in numbers:
        mask |= 1 << number
    return mask


class TimesOfDay:
    """The times that three masks match. Each mask has at least one bit."""

    def __init__(self, seconds: int, minutes: int, hours: int) -> None:
        self._seconds = seconds
        self._minutes = minutes
        self._hours = hours
        self._first_second = lowest_bit(seconds)
        self._last_in_minute = seconds.bit_length() - 1
        self._last_in_hour = (minutes.bit_length() - 1) * 60 + self._last_in_minute
        self._in_minute = seconds.bit_count()
        self._in_hour = minutes.bit_count() * self._in_minute
        self.first = lowest_bit(hours) * 3600 + lowest_bit(minutes) * 60 + self._first_second
        """The first match of the day."""
        self.last = (hours.bit_length() - 1) * 3600 + self._last_in_hour
        """The last match of the day."""
        self.count = hours.bit_count() * self._in_hour
        """The number of matches."""

    def at_or_after(self, time: int) -> int | None:
        """Return the first match at or after a second of the day."""
        hour, rest = divmod(time, 3600)
        if self._hours >> hour & 1:
            minute, second = divmod(rest, 60)
            if self._minutes >> minute & 1:
                ahead = self._seconds >> second
                if ahead:
                    return time + lowest_bit(ahead)
            ahead = self._minutes >> minute + 1
            if ahead:
                return hour * 3600 + (minute + 1 + lowest_bit(ahead)) * 60 + self._first_second
        ahead = self._hours >> hour + 1
        if ahead:
            return (hour + 1 + lowest_bit(ahead)) * 3600 + self.first % 3600
        return None

    def at_or_before(self, time: int) -> int | None:
        """Return the last match at or before a second of the day."""
        hour, rest = divmod(time, 3600)
        if self._hours >> hour & 1:
            minute, second = divmod(rest, 60)
            if self._minutes >> minute & 1:
                behind = self._seconds & (2 << second) - 1
                if behind:
                    return time - second + behind.bit_length() - 1
            behind = self._minutes & (1 << minute) - 1
            if behind:
                return hour * 3600 + (behind.bit_length() - 1) * 60 + self._last_in_minute
        behind = self._hours & (1 << hour) - 1
        if behind:
            return (behind.bit_length() - 1) * 3600 + self._last_in_hour
        return None

    def count_before(self, time: int) -> int:
        """Return how many matches are before a second of the day."""
        hour, rest = divmod(time, 3600)
        minute, second = divmod(rest, 60)
        total = (self._hours & (1 << hour) - 1).bit_count() * self._in_hour
        if self._hours >> hour & 1:
            total += (self._minutes & (1 << minute) - 1).bit_count() * self._in_minute
            if self._minutes >> minute & 1:
                total += (self._seconds & (1 << second) - 1).bit_count()
        return total

    def has(self, time: int) -> bool:
        """Whether a second of the day matches."""
        hour, rest = divmod(time, 3600)
        minute, second = divmod(rest, 60)
        return bool(self._hours >> hour & 1 and self._minutes >> minute & 1 and self._seconds >> second & 1)

    @property
    def masks(self) -> tuple[int, int, int]:
        """The seconds, minutes and hours: equal for equal times of day."""
        return self._seconds, self._minutes, self._hours

    @property
    def whole_minutes(self) -> bool:
        """Whether all matches are at the first second of a minute."""
        return self._seconds == 1

    def pattern(self, unit: int) -> int:
        """Return the matches as a mask with bit n for the n-th second of the day, or minute if ``unit`` is 60."""
        hour = self._minutes if self._seconds & 1 else 0
        if unit == 1:
            hour = 0
            for minute in range(60):
                if self._minutes >> minute & 1:
                    hour |= self._seconds << minute * 60
        bits = 0
        for number in range(24):
            if self._hours >> number & 1:
                bits |= hour << number * 3600 // unit
        return bits
