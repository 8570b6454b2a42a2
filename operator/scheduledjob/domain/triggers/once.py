"""Triggers that fire at most once of themselves: at an instant, after a delay, or when another job has run."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime

from scheduledjob.domain.time.durations import MAX_DURATION, format_duration
from scheduledjob.domain.time.instants import SECOND, Instant, Micros, rfc3339, to_datetime, to_instant
from scheduledjob.domain.time.zones import FIRST_SECOND, LAST_SECOND

OUTCOMES = ("Succeeded", "Failed", "Cancelled")

_RFC3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?)([Zz]|[+-][0-9]{2}:[0-9]{2})?"
)


@dataclass(frozen=True, slots=True)
class At:
    """One slot at a moment: an aware datetime, or RFC 3339 with an offset (``2026-12-01T10:00:00Z``).

    Raises ``ValueError`` where the text names no instant, or none in the years 2 to 9998, ``TypeError`` for neither.
    """

    moment: datetime
    instant: Instant = field(init=False, repr=False, compare=False)

    def __init__(self, moment: datetime | str) -> None:
        given: object = moment
        if not isinstance(given, datetime | str):
            example = 'give an aware datetime, or text as in "2026-12-01T10:00:00Z"'
            raise TypeError(f"{given!r:.60} is no moment: {example}")
        instant = to_instant(_parse(moment) if isinstance(moment, str) else moment)
        if not FIRST_SECOND * SECOND <= instant <= LAST_SECOND * SECOND:
            raise ValueError(f"{moment} is out of reach: write a year from 2 to 9998")
        object.__setattr__(self, "moment", to_datetime(instant))
        object.__setattr__(self, "instant", instant)

    def bind(self, created: Instant) -> At:
        """Itself: a moment depends on no creation."""
        return self

    def next(self, after: datetime) -> datetime | None:
        """The moment in UTC, if it is still to come; else None."""
        return self.moment if to_instant(after) < self.instant else None

    def previous(self, at: datetime) -> datetime | None:
        """The moment in UTC, if it has come; else None."""
        return self.moment if self.instant <= to_instant(at) else None

    def explain(self) -> str:
        """The moment in words."""
        return f"once, at {rfc3339(self.instant)}"

    def next_instant(self, after: Instant) -> Instant | None:
        """The instant, if it is after another."""
        return self.instant if after < self.instant else None

    def previous_instant(self, at: Instant) -> Instant | None:
        """The instant, if it is at or before another."""
        return self.instant if self.instant <= at else None

    def count(self, after: Instant, until: Instant) -> int:
        """1 if ``after < instant <= until``, else 0."""
        return int(after < self.instant <= until)


@dataclass(frozen=True, slots=True)
class After:
    """One slot, so long after the creation of the schedule; ``bind`` makes it an ``At``."""

    delay: Micros

    def __post_init__(self) -> None:
        if not 0 <= self.delay <= MAX_DURATION:
            raise ValueError(f"a delay of {format_duration(self.delay)} is not allowed: write 0s to 36500d")

    def bind(self, created: Instant) -> At:
        """The slot of a schedule that was created then."""
        return At(to_datetime(created + self.delay))

    def explain(self) -> str:
        """The delay in words."""
        return f"once, {format_duration(self.delay)} after creation"


@dataclass(frozen=True, slots=True)
class Following:
    """Whenever a run of another job ends so. It has no slots of its own: the end of that run makes them."""

    name: str
    outcome: str = "Succeeded"

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(
                f"the outcome {self.outcome!r} is unknown: write {', '.join(OUTCOMES[:-1])} or {OUTCOMES[-1]}"
            )

    def bind(self, created: Instant) -> Following:
        """Itself: what it follows depends on no creation."""
        return self

    def explain(self) -> str:
        """What it follows, in words."""
        ends = {"Succeeded": "succeeds", "Failed": "fails", "Cancelled": "is cancelled"}[self.outcome]
        return f"whenever a run of {self.name} {ends}"


def _parse(text: str) -> datetime:
    found = _RFC3339.fullmatch(text)
    shown = repr(text if len(text) <= 60 else text[:60] + "…")
    if found is None:
        raise ValueError(f"{shown} is no instant: write it as in 2026-12-01T10:00:00Z or 2026-12-01T10:00:00+01:00")
    day, time, offset = found.groups()
    if offset is None:
        raise ValueError(f"{shown} has no offset, so it names no instant: write {text}Z, or an offset such as +01:00")
    try:
        return datetime.fromisoformat(f"{day}T{time}{offset.upper()}").astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{shown} is no instant: {error}") from None
