"""Instants: how the product represents time.

An ``Instant`` is a whole number of microseconds since 1970-01-01T00:00:00Z. An int compares, adds and sorts without
time zones, is exact to the microsecond that ``at`` promises, and is cheap to store. Aware datetimes occur only in the
library's public API, in manifests and in printed output. This module converts between the two.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TypeAlias

Instant: TypeAlias = int
"""Microseconds since the epoch, UTC."""

Micros: TypeAlias = int
"""A length of time in microseconds."""

SECOND: Micros = 1_000_000
MINUTE: Micros = 60 * SECOND
HOUR: Micros = 60 * MINUTE
DAY: Micros = 24 * HOUR

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_instant(moment: datetime) -> Instant:
    """Return the instant of an aware datetime. Raises ``ValueError`` for a naive one, which names no instant."""
    given_as: object = moment
    if not isinstance(given_as, datetime):
        given = f"{given_as!r:.60} is not a datetime"
        raise TypeError(f"{given}: give an aware one, as in datetime(2026, 12, 1, 10, tzinfo=UTC)")
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} has no time zone: give one, as in {moment.isoformat()}+00:00")
    return (moment - _EPOCH) // _MICROSECOND


def to_datetime(instant: Instant) -> datetime:
    """Return an instant as an aware UTC datetime."""
    return _EPOCH + timedelta(microseconds=instant)


def from_seconds(seconds: float) -> Micros:
    """Return a duration in seconds as microseconds, rounded to the nearest."""
    return round(seconds * SECOND)


def rfc3339(instant: Instant) -> str:
    """Return ``2026-12-01T10:00:00Z``, with a fraction of the second only if there is one."""
    text = to_datetime(instant).isoformat()
    return text.removesuffix("+00:00") + "Z"


def compact(instant: Instant) -> str:
    """Return ``20261201T100000Z``, the form for labels and names."""
    return to_datetime(instant).strftime("%Y%m%dT%H%M%SZ")
