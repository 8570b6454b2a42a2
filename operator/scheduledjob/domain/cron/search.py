"""CronSearch finds and counts the slots of a cron expression in a time zone, without visiting every slot.

``LocalTimes`` knows which local times match; so does ``CalendarDays`` of the triggers. This module maps them to
instants, one segment of the zone at a time (``zones`` explains segments), by one of two DST rules:

- *Every real instant*: each segment is searched separately. A repeated hour fires twice, and a skipped hour never.
- *Wall clock*: each matching local time belongs to exactly one instant (see ``zones``). A repeated time fires at its
  first occurrence. The times of a gap share one slot, at the first valid instant after it.

All numbers are whole seconds since 1970-01-01T00:00:00, UTC or local. ``None`` means that there is no slot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from scheduledjob.domain.time.zones import FIRST_SECOND, LAST_SECOND, Segment, Zone

if TYPE_CHECKING:
    from .times_of_day import TimesOfDay


class LocalSeconds(Protocol):
    """The local seconds that match. All days that match have the same times of day."""

    @property
    def times(self) -> TimesOfDay:
        """The matches of a matching day."""

    def next(self, local: int) -> int | None:
        """Return the first match at or after a local second."""

    def previous(self, local: int) -> int | None:
        """Return the last match at or before a local second."""

    def count(self, start: int, stop: int) -> int:
        """Return how many seconds match in ``start <= local < stop``."""

    def month_days(self, year: int, month: int) -> int:
        """Return the matching days of a month as a mask with bit n for day n."""


class CronSearch:
    """The slots of an expression, or of a calendar, in a zone, as UTC seconds."""

    def __init__(self, local: LocalSeconds, zone: Zone, *, wall_clock: bool) -> None:
        self.local = local
        self.zone = zone
        self.wall_clock = wall_clock

    def next(self, second: int) -> int | None:
        """Return the first slot at or after a second."""
        found = self._next(max(second, FIRST_SECOND))
        return found if found is not None and found <= LAST_SECOND else None

    def previous(self, second: int) -> int | None:
        """Return the last slot at or before a second."""
        found = self._previous(min(second, LAST_SECOND))
        return found if found is not None and found >= FIRST_SECOND else None

    def matches(self, second: int) -> bool:
        """Whether there is a slot at a second."""
        return self.previous(second) == second

    @property
    def whole_minutes(self) -> bool:
        """Whether all slots are at the first second of a minute."""
        return self.local.times.whole_minutes

    def _next(self, second: int) -> int | None:
        if self.zone.is_utc:
            return self.local.next(second)
        segment = self.zone.at(second)
        low = second + segment.offset
        if self.wall_clock:
            return self._next_wall(segment, second, low)
        while True:
            found = self.local.next(low)
            if found is not None and found < segment.end + segment.offset:
                return found - segment.offset
            after = self.zone.at(segment.end)
            if after.start + after.offset < low:  # clocks go back to before `low`, so these local times come again
                segment, low = after, after.start + after.offset
            elif found is None:
                return None
            else:  # no slot before `found`, however often clocks change until then
                segment = self.zone.owner_of(found)
                low = max(found, segment.start + segment.offset)

    def _next_wall(self, segment: Segment, second: int, low: int) -> int | None:
        # The times of a gap have their slot at the first second of the segment, so there the search starts with them.
        low = segment.wall if second == segment.start else max(low, segment.wall)
        found = self.local.next(low)
        if found is None:
            return None
        if found >= segment.end + segment.offset:
            segment = self.zone.owner_of(found)
        return max(segment.start, found - segment.offset)

    def _previous(self, second: int) -> int | None:
        if self.zone.is_utc:
            return self.local.previous(second)
        segment = self.zone.at(second)
        high = second + segment.offset
        if self.wall_clock:
            return self._previous_wall(segment, high)
        while True:
            found = self.local.previous(high)
            if found is not None and found >= segment.start + segment.offset:
                return found - segment.offset
            before = self.zone.at(segment.start - 1)
            last = before.end + before.offset - 1
            if last > high:  # clocks went back, so local times later than `high` came before
                segment, high = before, last
            elif found is None:
                return None
            else:
                segment = self._last_with(found)
                high = min(found, segment.end + segment.offset - 1)

    def _previous_wall(self, segment: Segment, high: int) -> int | None:
        found = self.local.previous(max(high, segment.wall - 1))
        if found is None:
            return None
        if found < segment.wall:
            segment = self.zone.owner_of(found)
        return max(segment.start, found - segment.offset)

    def _last_with(self, local: int) -> Segment:
        """Return the last segment that contains a local second, or the segment before the gap that skips it."""
        segment = self.zone.owner_of(local)
        if local < segment.start + segment.offset:
            return self.zone.at(segment.start - 1)
        after = self.zone.at(segment.end)
        return after if after.start + after.offset <= local else segment

    def count(self, start: int, stop: int) -> int:
        """Return how many slots lie in ``start <= second < stop``."""
        start, stop = max(start, FIRST_SECOND), min(stop, LAST_SECOND + 1)
        if self.zone.is_utc:
            return self.local.count(start, stop)
        total = 0
        while start < stop:
            segment = self.zone.at(start)
            end = min(stop, segment.end)
            low, high = start + segment.offset, end + segment.offset
            if self.wall_clock:
                total += self._fires_at_start(segment, start)
                low = max(low + (start == segment.start), segment.wall)  # the first second is counted already
            total += self.local.count(low, high)
            start = end
        return total

    def _fires_at_start(self, segment: Segment, second: int) -> bool:
        """Whether ``second`` is the first of its segment and a slot, be it its own or that of the gap before it."""
        first = segment.start + segment.offset
        return second == segment.start and self.local.count(segment.wall, first + 1) > 0
