"""Local time as plain integers: where the clocks of a zone stand between two of their changes.

Cron expressions speak of local time, slots are instants. ``zoneinfo`` translates one moment at a time; a
search needs to know how long an offset holds, which instants a change of the clocks skips and which local times
it repeats. So a zone is read here once, as a row of *segments* in which the offset is constant, found by
probing ``zoneinfo`` and kept for 388 days at a time, from the first need on. Inside a segment local time is
UTC plus a number, and every question about DST becomes a comparison of integers.

Two views of the local time line meet here. *Every real instant* has the local time ``instant + offset``. And
each local time *belongs* to one instant: its first occurrence when clocks go back, the first valid instant
after the gap when they go forward. The second view is why a segment carries ``wall``: the local times from
``wall`` up to its end belong to it and to no other segment, so that the segments cut the local line into pieces
without holes or overlaps.

All numbers are whole seconds since 1970-01-01T00:00:00, UTC or local.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import cache, lru_cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo, available_timezones

from .instants import SECOND, Instant

FIRST_SECOND: Final = -62_104_060_800  # 0002-01-01T00:00:00Z
LAST_SECOND: Final = 253_370_764_799  # 9998-12-31T23:59:59Z: a zone's offset still leads to a valid date

_CHUNK_BITS: Final = 25  # 2**25 s are 388 days: two or three segments in a zone with DST
_PROBE: Final = 86_400  # no zone has ever changed its clocks twice within four days
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Segment(NamedTuple):
    """The seconds ``start <= t < end`` (UTC), in which local time is ``t + offset``."""

    start: int
    end: int
    offset: int
    wall: int
    """The first local second that belongs here: what lies between it and ``start + offset`` is a gap."""


class Zone:
    """One time zone; get it from ``zone_of``, which shares them."""

    def __init__(self, name: str, info: ZoneInfo) -> None:
        self.name = name
        self._info = info
        self._chunks: dict[int, list[Segment]] = {}
        self.is_utc = name in {"UTC", "Etc/UTC"}

    def at(self, second: int) -> Segment:
        """The segment in which a UTC second lies."""
        index = second >> _CHUNK_BITS
        chunk = self._chunks.get(index)
        if chunk is None:
            chunk = self._chunks[index] = self._read(index)
        for segment in chunk:
            if second < segment.end:
                return segment
        raise AssertionError("a chunk's last segment ends with it")

    def owner_of(self, local: int) -> Segment:
        """The segment that a local second belongs to; it may lie in the gap before the segment."""
        segment = self.at(local - self.at(local).offset)
        while local >= segment.end + segment.offset:
            segment = self.at(segment.end)
        while local < segment.wall:
            segment = self.at(segment.start - 1)
        return segment

    def instant_of(self, local: int) -> int:
        """The UTC second of a local one: its first occurrence, or the first valid instant after its gap."""
        segment = self.owner_of(local)
        return max(segment.start, local - segment.offset)

    def _offset(self, second: int) -> int:
        bounded = min(max(second, FIRST_SECOND), LAST_SECOND)
        offset = (_EPOCH + timedelta(seconds=bounded)).astimezone(self._info).utcoffset()
        if offset is None:
            raise AssertionError("an aware datetime has an offset")
        return offset.days * 86_400 + offset.seconds

    def _read(self, index: int) -> list[Segment]:
        start, stop = index << _CHUNK_BITS, (index + 1) << _CHUNK_BITS
        segments: list[Segment] = []
        before, offset = self._offset(start - 1), self._offset(start)
        known = start  # the last second known to have this offset
        while known < stop - 1:
            probe = min(known + _PROBE, stop - 1)
            following = self._offset(probe)
            if following == offset:
                known = probe
                continue
            while probe - known > 1:
                middle = (known + probe) // 2
                if self._offset(middle) == offset:
                    known = middle
                else:
                    probe = middle
            segments.append(Segment(start, probe, offset, start + before))
            start, known, before, offset = probe, probe, offset, self._offset(probe)
        segments.append(Segment(start, stop, offset, start + before))
        return segments


@lru_cache(maxsize=1024)
def zone_of(name: str) -> Zone:
    """The zone of an IANA name; an unknown one is a ``ValueError`` that says what to write."""
    # What Debian keeps beside the IANA names: zones that count leap seconds, and the machine's own.
    odd = name.startswith(("right/", "posix/")) or name in {"localtime", "posixrules", "Factory"}
    try:
        if odd or not name:
            raise ValueError(name)
        return Zone(name, ZoneInfo(name))
    except (KeyError, ValueError, OSError):
        shown = repr(name if len(name) <= 60 else name[:60] + "…")
        near = _iana_names().get(name.lower().replace(" ", "_"))
        hint = f"did you mean {near}?" if near else "write an IANA name such as Europe/Lisbon, or UTC"
        raise ValueError(f"time zone {shown} is unknown: {hint}") from None


@cache
def _iana_names() -> dict[str, str]:
    return {name.lower(): name for name in available_timezones()}


def midnight(day: date, time_zone: str) -> Instant:
    """The instant at which a date begins in a zone: the first one after the gap where midnight is skipped."""
    local = (day.toordinal() - date(1970, 1, 1).toordinal()) * 86_400
    return zone_of(time_zone).instant_of(local) * SECOND
