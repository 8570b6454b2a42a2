"""CronSearch finds and counts the slots of a cron expression in a time zone, without visiting every slot.

``LocalTimes`` knows which local times match. This module maps them to instants, one segment of the zone at a
time (``zones`` explains segments), by one of two DST rules:

- *Every real instant*: each segment is searched separately. A repeated hour fires twice, and a skipped hour never.
- *Wall clock*: each matching local time belongs to exactly one instant (see ``zones``). A repeated time fires at its
  first occurrence. The times of a gap share one slot, at the first valid instant after it.

All numbers are whole seconds since 1970-01-01T00:00:00, UTC or local. ``None`` means that there is no slot.
"""

from __future__ import annotations

from scheduledjob.domain.time.zones import FIRST_SECOND, LAST_SECOND, Segment, Zone

from .local_times import DAY, LocalTimes


class CronSearch:
    """The slots of an expression in a zone, as UTC seconds."""

    def __init__(self, local: LocalTimes, zone: Zone, *, wall_clock: bool) -> None:
        self._local = local
        self._zone = zone
        self._wall_clock = wall_clock

    def next(self, second: int) -> int | None:
        """Return the first slot at or after a second."""
        found = self._next(max(second, FIRST_SECOND))
        return found if found is not None and found <= LAST_SECOND else None

    def previous(self, second: int) -> int | None:
        """Return the last slot at or before a second."""
        found = self._previous(min(second, LAST_SECOND))
        return found if found is not None and found >= FIRST_SECOND else None

    def _next(self, second: int) -> int | None:
        if self._zone.is_utc:
            return self._local.next(second)
        segment = self._zone.at(second)
        low = second + segment.offset
        if self._wall_clock:
            return self._next_wall(segment, second, low)
        while True:
            found = self._local.next(low)
            if found is not None and found < segment.end + segment.offset:
                return found - segment.offset
            after = self._zone.at(segment.end)
            if after.start + after.offset < low:  # clocks go back to before `low`, so these local times come again
                segment, low = after, after.start + after.offset
            elif found is None:
                return None
            else:  # no slot before `found`, however often clocks change until then
                segment = self._zone.owner_of(found)
                low = max(found, segment.start + segment.offset)

    def _next_wall(self, segment: Segment, second: int, low: int) -> int | None:
        # The times of a gap have their slot at the first second of the segment, so there the search starts with them.
        low = segment.wall if second == segment.start else max(low, segment.wall)
        found = self._local.next(low)
        if found is None:
            return None
        if found >= segment.end + segment.offset:
            segment = self._zone.owner_of(found)
        return max(segment.start, found - segment.offset)

    def _previous(self, second: int) -> int | None:
        if self._zone.is_utc:
            return self._local.previous(second)
        segment = self._zone.at(second)
        high = second + segment.offset
        if self._wall_clock:
            return self._previous_wall(segment, high)
        while True:
            found = self._local.previous(high)
            if found is not None and found >= segment.start + segment.offset:
                return found - segment.offset
            before = self._zone.at(segment.start - 1)
            last = before.end + before.offset - 1
            if last > high:  # clocks went back, so local times later than `high` came before
                segment, high = before, last
            elif found is None:
                return None
            else:
                segment = self._last_with(found)
                high = min(found, segment.end + segment.offset - 1)

    def _previous_wall(self, segment: Segment, high: int) -> int | None:
        found = self._local.previous(max(high, segment.wall - 1))
        if found is None:
            return None
        if found < segment.wall:
            segment = self._zone.owner_of(found)
        return max(segment.start, found - segment.offset)

    def _last_with(self, local: int) -> Segment:
        """Return the last segment that contains a local second, or the segment before the gap that skips it."""
        segment = self._zone.owner_of(local)
        if local < segment.start + segment.offset:
            return self._zone.at(segment.start - 1)
        after = self._zone.at(segment.end)
        return after if after.start + after.offset <= local else segment

    def count(self, start: int, stop: int) -> int:
        """Return how many slots lie in ``start <= second < stop``."""
        start, stop = max(start, FIRST_SECOND), min(stop, LAST_SECOND + 1)
        if self._zone.is_utc:
            return self._local.count(start, stop)
        total = 0
        while start < stop:
            segment = self._zone.at(start)
            end = min(stop, segment.end)
            low, high = start + segment.offset, end + segment.offset
            if self._wall_clock:
                total += self._fires_at_start(segment, start)
                low = max(low + (start == segment.start), segment.wall)  # the first second is counted already
            total += self._local.count(low, high)
            start = end
        return total

    def _fires_at_start(self, segment: Segment, second: int) -> bool:
        """Whether ``second`` is the first of its segment and a slot, be it its own or that of the gap before it."""
        first = segment.start + segment.offset
        return second == segment.start and self._local.count(segment.wall, first + 1) > 0

    def day_key(self, day: int) -> tuple[int, ...]:
        """Return a key for a UTC day (days since 1970-01-01). Days with equal keys have equal ``day_slots``."""
        start = day * DAY
        if self._zone.is_utc:
            return (int(self._local.matches_day(day)),)
        segment = self._zone.at(start)
        first = start + segment.offset
        if segment.start == start or segment.end < start + DAY or segment.wall > first:
            return (-1, day)  # clocks may change on this day
        local_day, shift = divmod(first, DAY)
        return shift, self._local.matches_day(local_day), bool(shift) and self._local.matches_day(local_day + 1)

    def day_pattern(self) -> int:
        """Return the times of a matching day, bit n for its n-th second: what ``day_slots`` needs for every day."""
        return self._local.times.pattern()

    def day_slots(self, day: int, pattern: int) -> int:
        """Return the slots of a UTC day, bit n for its n-th second. ``pattern`` is ``day_pattern()``."""
        start, stop = day * DAY, (day + 1) * DAY
        if self._zone.is_utc:
            return pattern if self._local.matches_day(day) else 0
        slots, begin = 0, start
        while begin < stop:
            segment = self._zone.at(begin)
            end = min(stop, segment.end)
            low, high = begin + segment.offset, end + segment.offset
            if self._wall_clock:
                slots |= self._fires_at_start(segment, begin) << begin - start
                low = max(low, segment.wall)
            # Empty if repeated local times last until the end of the day: they belong to their first occurrence.
            for local_day in range(low // DAY, -(-high // DAY) if low < high else low // DAY):
                if self._local.matches_day(local_day):
                    first, last = max(low, local_day * DAY), min(high, (local_day + 1) * DAY)
                    part = pattern >> first - local_day * DAY & (1 << last - first) - 1
                    slots |= part << first - segment.offset - start
            begin = end
        return slots
