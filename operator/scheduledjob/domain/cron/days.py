"""The slots of several cron expressions, UTC day by UTC day, as the bits of ints.

Expressions that share a time zone and a DST rule form a *group*. For a local day, the group's key says which of its
times of day match: equal keys have equal slots, so what is computed for a key is used for all days that have it. A bit
stands for a second, or for a minute if only the first second of each minute matters.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Final

from .local_times import DAY, EPOCH_DAY, FIRST_DAY, LAST_DAY, month_length
from .times_of_day import TimesOfDay, lowest_bit

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from .search import CronSearch, LocalSeconds

WHOLE_MINUTES_FROM: Final = 1096
"""Since this day, 1973-01-01, every zone differs from UTC by whole minutes."""
_CACHED_DAYS: Final = 800
_CACHED_KEYS: Final = 64


class CronGroup:
    """Expressions that share a zone and a DST rule."""

    def __init__(self, searches: Sequence[CronSearch]) -> None:
        self.zone, self.wall_clock = searches[0].zone, searches[0].wall_clock
        self._searches = searches
        by_times: dict[tuple[int, int, int], list[LocalSeconds]] = {}
        for search in searches:
            by_times.setdefault(search.local.times.masks, []).append(search.local)
        self.times: list[TimesOfDay] = [locals_[0].times for locals_ in by_times.values()]
        """The different times of day. Bit n of a key stands for ``times[n]``."""
        self._parts = list(by_times.values())
        self.expressions = len(searches)
        self.keys: dict[int, int] = {}
        """The keys of some local days."""

    def key(self, local_day: int) -> int:
        """Return which of ``times`` match on a local day (days since 1970-01-01)."""
        key = self.keys.get(local_day)
        return self._read_month(local_day) if key is None else key

    def _read_month(self, local_day: int) -> int:
        """Compute the keys of the month that contains a day, and return the key of that day."""
        if not FIRST_DAY <= local_day <= LAST_DAY:
            return 0
        if len(self.keys) > _CACHED_DAYS:
            self.keys.clear()
        found = date.fromordinal(local_day + EPOCH_DAY)
        before = local_day - found.day
        keys = [0] * 32
        for number, parts in enumerate(self._parts):
            days = 0
            for local in parts:
                days |= local.month_days(found.year, found.month)
            while days:
                keys[lowest_bit(days)] |= 1 << number
                days &= days - 1
        for day in range(1, month_length(found.year, found.month) + 1):
            self.keys[before + day] = keys[day]
        return keys[found.day]

    def matches(self, second: int) -> bool:
        """Whether an expression has a slot at a second."""
        if self.zone.is_utc:
            local = second
        else:
            segment = self.zone.at(second)
            local = second + segment.offset
            if self.wall_clock and (second == segment.start or local < segment.wall):
                return any(search.previous(second) == second for search in self._searches)
        day, time = divmod(local, DAY)
        key = self.key(day)
        while key:
            if self.times[lowest_bit(key)].has(time):
                return True
            key &= key - 1
        return False

    def fires_at_start(self, segment_start: int) -> bool:
        """Whether an expression has a slot at the first second of a segment, by the wall-clock rule."""
        return self.wall_clock and any(search.matches(segment_start) for search in self._searches)


class GroupDays:
    """The slots of a group on UTC days, in units of seconds. It keeps what it computes, so make one for each search."""

    def __init__(self, group: CronGroup, unit: int) -> None:
        self._group = group
        self._unit = unit
        self._width = DAY // unit
        self._patterns: dict[int, int] = {}
        self._bits: dict[int, int] = {0: 0}
        self._steady_from = self._steady_until = self._lead = self._shift = 0
        """The UTC days in which the offset of the zone is ``_lead`` days and ``_shift`` seconds."""
        self._next_day, self._next_key = FIRST_DAY - 2, 0
        """A local day and its key: most searches go from day to day."""
        self.cost = len(group.times)
        """How many patterns may be combined for a day."""
        self.expressions = group.expressions

    def key(self, day: int) -> Hashable:
        """Return what the slots of a UTC day depend on; None if it has none."""
        if not self._steady_from <= day < self._steady_until and not self._enter(day):
            return (-1, day)  # clocks may change on this day
        local_day, shift = day + self._lead, self._shift
        if local_day != self._next_day:
            self._next_day, self._next_key = local_day, self._group.key(local_day)
        key = self._next_key
        if not shift:
            return key or None
        self._next_day, self._next_key = local_day + 1, self._group.key(local_day + 1)
        return (shift, key, self._next_key) if key or self._next_key else None

    def _enter(self, day: int) -> bool:
        """Prepare for the days around ``day`` that have the same offset. Return False if clocks change on the day."""
        zone = self._group.zone
        if zone.is_utc:
            self._steady_from, self._steady_until = FIRST_DAY - 1, LAST_DAY + 1
            return True
        segment = zone.at(day * DAY)
        self._lead, self._shift = divmod(segment.offset, DAY)
        self._steady_from = max(segment.start // DAY + 1, -(-(segment.wall - segment.offset) // DAY))
        self._steady_until = segment.end // DAY
        return self._steady_from <= day < self._steady_until

    def slots(self, day: int) -> int:
        """Return the slots of a UTC day (days since 1970-01-01), bit n for its n-th unit."""
        if not self._steady_from <= day < self._steady_until and not self._enter(day):
            return self._slots_of_change(day)
        local_day, shift = day + self._lead, self._shift // self._unit
        if not shift:
            return self._local(local_day)
        late = self._local(local_day + 1)
        return self._local(local_day) >> shift | (late & (1 << shift) - 1) << self._width - shift

    def _slots_of_change(self, day: int) -> int:
        """Return the slots of a day on which clocks may change."""
        group, unit, width = self._group, self._unit, self._width
        start, stop = day * DAY, (day + 1) * DAY
        slots, begin = 0, start
        while begin < stop:
            segment = group.zone.at(begin)
            end = min(stop, segment.end)
            low, high = begin + segment.offset, end + segment.offset
            # Segments also end where nothing changes. With minutes for units, that need not be a whole minute.
            if begin == segment.start and (begin - start) % unit == 0 and group.fires_at_start(begin):
                slots |= 1 << (begin - start) // unit
            if group.wall_clock:
                low = max(low, segment.wall)
            # Empty if repeated local times last until the end of the day: they belong to their first occurrence.
            for local_day in range(low // DAY, -(-high // DAY) if low < high else low // DAY):
                bits = self._local(local_day)
                first, last = max(low, local_day * DAY), min(high, (local_day + 1) * DAY)
                from_bit, to_bit = (first - local_day * DAY) // unit, (last - local_day * DAY) // unit
                if to_bit < width:
                    bits &= (1 << to_bit) - 1
                slots |= (bits >> from_bit) << (first - segment.offset - start) // unit
            begin = end
        return slots

    def _local(self, local_day: int) -> int:
        """Return the slots of a local day."""
        key = self._group.key(local_day)
        bits = self._bits.get(key)
        if bits is None:
            if len(self._bits) >= _CACHED_KEYS:
                self._bits = {0: 0}
            bits, left = 0, key
            while left:
                bits |= self._pattern(lowest_bit(left))
                left &= left - 1
            self._bits[key] = bits
        return bits

    def _pattern(self, number: int) -> int:
        pattern = self._patterns.get(number)
        if pattern is None:
            pattern = self._patterns[number] = self._group.times[number].pattern(self._unit)
        return pattern


def groups_of(searches: Iterable[CronSearch]) -> list[CronGroup]:
    """Put together the expressions that share a zone and a DST rule."""
    groups: dict[tuple[str, bool], list[CronSearch]] = {}
    for search in searches:
        groups.setdefault((search.zone.name, search.wall_clock and not search.zone.is_utc), []).append(search)
    return [CronGroup(members) for members in groups.values()]
