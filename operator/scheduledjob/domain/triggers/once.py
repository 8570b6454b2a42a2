"""At and after: triggers with one slot, at an instant or at a delay after the creation of the schedule."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime

from scheduledjob.domain.time.durations import MAX_DURATION, format_duration
from scheduledjob.domain.time.instants import SECOND, Instant, Micros, rfc3339, to_datetime, to_instant
from scheduledjob.domain.time.zones import FIRST_SECOND, LAST_SECOND

from .stored_trigger import StoredTrigger

_RFC3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?)([Zz]|[+-][0-9]{2}:[0-9]{2})?"
)


@dataclass(frozen=True, slots=True)
class At:
    """One slot at a moment: an aware datetime, or RFC 3339 with an offset (``2026-12-01T10:00:00Z``).

    Raises ``ValueError`` if the text is not an instant or the year is not in 2 to 9998, and ``TypeError`` for a value
    that is neither text nor a datetime.
    """

    moment: datetime
    instant: Instant = field(init=False, repr=False, compare=False)

    def __init__(self, moment: datetime | str) -> None:
        given: object = moment
        if not isinstance(given, datetime | str):
            example = 'give an aware datetime, or text as in "2026-12-01T10:00:00Z"'
            raise TypeError(f"{given!r:.60} is not a moment: {example}")
        instant = to_instant(_parse(moment) if isinstance(moment, str) else moment)
        if not FIRST_SECOND * SECOND <= instant <= LAST_SECOND * SECOND:
            raise ValueError(f"{moment} is out of reach: write a year from 2 to 9998")
        object.__setattr__(self, "moment", to_datetime(instant))
        object.__setattr__(self, "instant", instant)

    def next(self, after: datetime) -> datetime | None:
        """Return the moment in UTC if it is after another, else None."""
        return self.moment if to_instant(after) < self.instant else None

    def previous(self, at: datetime) -> datetime | None:
        """Return the moment in UTC if it is at or before another, else None."""
        return self.moment if self.instant <= to_instant(at) else None

    def explain(self) -> str:
        """Return the moment in words."""
        return f"once, at {rfc3339(self.instant)}"

    def next_instant(self, after: Instant) -> Instant | None:
        """Return the instant if it is after another, else None."""
        return self.instant if after < self.instant else None

    def previous_instant(self, at: Instant) -> Instant | None:
        """Return the instant if it is at or before another, else None."""
        return self.instant if self.instant <= at else None

    def count(self, after: Instant, until: Instant) -> int:
        """Return 1 if ``after < instant <= until``, else 0."""
        return int(after < self.instant <= until)

    def stored(self) -> AtTrigger:
        """Return the moment as a definition stores it."""
        return AtTrigger(self.instant)


class AtTrigger(StoredTrigger, frozen=True, tag="at"):
    """One slot at an instant."""

    at: Instant

    def bind(self, seed: str, created: Instant) -> At:
        """Return its moment, which depends on no creation."""
        return At(to_datetime(self.at))

    def short(self) -> str:
        """Return ``at 2026-12-01T10:00:00Z``."""
        return f"at {rfc3339(self.at)}"

    def long(self, seed: str) -> str:
        """Return ``once, at 2026-12-01T10:00:00Z``."""
        return f"once, at {rfc3339(self.at)}"


class AfterTrigger(StoredTrigger, frozen=True, tag="after"):
    """One slot, at a delay after the creation of the schedule."""

    after: Micros

    def bind(self, seed: str, created: Instant) -> At:
        """Return the moment of a schedule that was created then. Raises ``ValueError`` for a delay out of range."""
        if not 0 <= self.after <= MAX_DURATION:
            raise ValueError(f"a delay of {format_duration(self.after)} is not allowed: write 0s to 36500d")
        # A slot at the creation itself would count as decided already, so even 0s lies a microsecond after it.
        return At(to_datetime(created + max(self.after, 1)))

    def short(self) -> str:
        """Return ``after 5m``."""
        return f"after {format_duration(self.after)}"

    def long(self, seed: str) -> str:
        """Return ``once, 5m after the object is created``."""
        return f"once, {format_duration(self.after)} after the object is created"

    @property
    def counts_from_creation(self) -> bool:
        """Always."""
        return True


def _parse(text: str) -> datetime:
    found = _RFC3339.fullmatch(text)
    shown = repr(text if len(text) <= 60 else text[:60] + "…")
    if found is None:
        raise ValueError(f"{shown} is not an instant: write it as in 2026-12-01T10:00:00Z or 2026-12-01T10:00:00+01:00")
    day, time, offset = found.groups()
    if offset is None:
        raise ValueError(f"{shown} has no offset from UTC: write {text}Z, or an offset such as +01:00")
    try:
        return datetime.fromisoformat(f"{day}T{time}{offset.upper()}").astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{shown} is not an instant: {error}") from None
