"""Time zones as segments: periods in which the offset from UTC is constant.

Cron expressions use local time, and slots are instants. ``zoneinfo`` converts one moment at a time, but a search must
know how long an offset holds, which local times a change of the clocks skips and which it repeats. So this module
reads a zone as a sequence of *segments* with a constant offset. It finds them by probing ``zoneinfo``, 388 days at a
time, when they are first needed, and keeps them. Inside a segment, local time is UTC plus a number, and every question
about DST is a comparison of integers.

There are two ways to relate local time to instants. *Every real instant* has the local time ``instant + offset``. And
each local time *belongs* to exactly one instant: its first occurrence if clocks go back, or the first valid instant
after the gap if they go forward. The second way needs ``Segment.wall``: the local times from ``wall`` to the end of a
segment belong to that segment and to no other. So the segments divide local time without gaps or overlaps.

All numbers are whole seconds since 1970-01-01T00:00:00, UTC or local.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from .instants import SECOND, Instant
from .zone_data import is_local_name, zone_info, zone_names

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

FIRST_SECOND: Final = -62_104_060_800  # 0002-01-01T00:00:00Z
LAST_SECOND: Final = 253_370_764_799  # 9998-12-31T23:59:59Z: the date is still valid with any zone's offset added

_CHUNK_BITS: Final = 25  # 2**25 s are 388 days: two or three segments in a zone with DST
_PROBE: Final = 3 * 86_400  # finds every change: no zone has ever changed its clocks twice within four days
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Segment(NamedTuple):
    """The seconds ``start <= t < end`` (UTC), in which local time is ``t + offset``."""

    start: int
    end: int
    offset: int
    wall: int
    """The first local second that belongs to this segment. It is before ``start + offset`` if the segment begins with
    a gap, and after it if the segment begins with repeated local times."""


class Zone:
    """A time zone. Get it from ``zone_of``, which shares one object for each name."""

    def __init__(self, name: str, info: ZoneInfo) -> None:
        self.name = name
        self._info = info
        self._chunks: dict[int, list[Segment]] = {}
        self.is_utc = name in {"UTC", "Etc/UTC"}

    def __reduce__(self) -> tuple[object, ...]:
        return zone_of, (self.name,)

    def at(self, second: int) -> Segment:
        """Return the segment that contains a UTC second."""
        index = second >> _CHUNK_BITS
        chunk = self._chunks.get(index)
        if chunk is None:
            chunk = self._chunks[index] = self._read(index)
        for segment in chunk:
            if second < segment.end:
                return segment
        raise AssertionError("a chunk's last segment ends with it")

    def owner_of(self, local: int) -> Segment:
        """Return the segment that a local second belongs to. The second may be in the gap before the segment."""
        segment = self.at(local - self.at(local).offset)
        while local >= segment.end + segment.offset:
            segment = self.at(segment.end)
        while local < segment.wall:
            segment = self.at(segment.start - 1)
        return segment

    def instant_of(self, local: int) -> int:
        """Return the UTC second of a local second: its first occurrence, or the first valid second after its gap."""
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
    """Return the zone of an IANA name. Raises ``ValueError`` with a suggestion if the name is unknown."""
    try:
        if is_local_name(name) or not name:
            raise ValueError(name)
        return Zone(name, zone_info(name))
    except (KeyError, ValueError, OSError):
        shown = repr(name if len(name) <= 60 else name[:60] + "…")
        near = _iana_names().get(name.lower().replace(" ", "_"))
        hint = f"did you mean {near}?" if near and near != name else "write an IANA name such as Europe/Lisbon, or UTC"
        raise ValueError(f"time zone {shown} is unknown: {hint}") from None


@cache
def _iana_names() -> dict[str, str]:
    return {name.lower(): name for name in zone_names()}


def midnight(day: date, time_zone: str) -> Instant:
    """Return the instant at which a date begins in a zone. If midnight is skipped, that is the end of the gap."""
    local = (day.toordinal() - date(1970, 1, 1).toordinal()) * 86_400
    return zone_of(time_zone).instant_of(local) * SECOND
