"""CronSearch: the slots of a cron expression in a zone, found, counted and drawn as bits without a walk over them.

``LocalTimes`` knows which local times match. Here they are laid on the segments of a zone, by the two DST rules:

- *every real instant*: each segment is searched for itself, so a repeated hour fires twice, a skipped one never;
- *wall clock*: each matching local time belongs to exactly one instant (see ``zones``), so a repeated time fires
  at its first occurrence, and those of a gap meet at the first valid instant after it.

All numbers are whole seconds since 1970-01-01T00:00:00, UTC or local; ``None`` where there is no slot.
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
        """The first slot at or after a second."""
        found = self._next(max(second, FIRST_SECOND))
        return found if found is not None and found <= LAST_SECOND else None

    def previous(self, second: int) -> int | None:
        """The last slot at or before a second."""
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
            if after.start + after.offset < low:  # clocks go back to before the search began: look there again
                segment, low = after, after.start + after.offset
            elif found is None:
                return None
            else:  # nothing until `found`, however often clocks change before it
                segment = self._zone.owner_of(found)
                low = max(found, segment.start + segment.offset)

    def _next_wall(self, segment: Segment, second: int, low: int) -> int | None:
        # The slots of a gap meet at the segment's first second: from there, everything that it owns is ahead.
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
            if last > high:  # later local times than the search's came before clocks went back
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
        """The last segment that has a local second, or the one before the gap that swallows it."""
        segment = self._zone.owner_of(local)
        if local < segment.start + segment.offset:
            return self._zone.at(segment.start - 1)
        after = self._zone.at(segment.end)
        return after if after.start + after.offset <= local else segment

    def count(self, start: int, stop: int) -> int:
        """How many slots lie in ``start <= second < stop``."""
        start, stop = max(start, FIRST_SECOND), min(stop, LAST_SECOND + 1)
        if self._zone.is_utc:
            return self._local.count(start, stop)
        total = 0
        while start < stop:
            segment = self._zone.at(start)
            end = min(stop, segment.end)
            low, high = start + segment.offset, end + segment.offset
            if self._wall_clock:
                total += self._meets_at(segment, start)
                low = max(low + (start == segment.start), segment.wall)
            total += self._local.count(low, high)
            start = end
        return total

    def _meets_at(self, segment: Segment, second: int) -> bool:
        """Whether a wall-clock slot, or those of the gap before it, fall on a segment's first second."""
        first = segment.start + segment.offset
        return second == segment.start and self._local.count(segment.wall, first + 1) > 0

    def day_key(self, day: int) -> tuple[int, ...]:
        """A key that days (UTC, days since 1970-01-01) with the same slots share; see ``day_slots``."""
        start = day * DAY
        if self._zone.is_utc:
            return (int(self._local.matches_day(day)),)
        segment = self._zone.at(start)
        first = start + segment.offset
        if segment.start == start or segment.end < start + DAY or segment.wall > first:
            return (-1, day)  # clocks change, or may
        local, shift = divmod(first, DAY)
        return shift, self._local.matches_day(local), bool(shift) and self._local.matches_day(local + 1)

    def day_pattern(self) -> int:
        """What ``day_slots`` is made from: worth keeping while one asks for many days."""
        return self._local.day_pattern()

    def day_slots(self, day: int, pattern: int) -> int:
        """The slots of a UTC day, bit n for its n-th second; ``pattern`` is ``day_pattern()``."""
        start, stop = day * DAY, (day + 1) * DAY
        if self._zone.is_utc:
            return pattern if self._local.matches_day(day) else 0
        slots, begin = 0, start
        while begin < stop:
            segment = self._zone.at(begin)
            end = min(stop, segment.end)
            low, high = begin + segment.offset, end + segment.offset
            if self._wall_clock:
                slots |= self._meets_at(segment, begin) << begin - start
                low = max(low, segment.wall)
            # Nothing if the overlap outlasts the day: its local times belong to their first occurrence.
            for local in range(low // DAY, -(-high // DAY) if low < high else low // DAY):
                if self._local.matches_day(local):
                    first, last = max(low, local * DAY), min(high, (local + 1) * DAY)
                    part = pattern >> first - local * DAY & (1 << last - first) - 1
                    slots |= part << first - segment.offset - start
            begin = end
        return slots
