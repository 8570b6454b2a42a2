"""Instants: exact conversions, and text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduledjob.domain.time.instants import compact, from_seconds, rfc3339, to_datetime, to_instant

offsets = st.integers(-23, 23).map(lambda hours: timezone(timedelta(hours=hours)))
moments = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=offsets)  # noqa: DTZ001  # bounds are naive by contract


@given(moments)
def test_conversions_keep_microseconds(moment: datetime) -> None:
    instant = to_instant(moment)
    assert to_datetime(instant) == moment
    assert to_datetime(instant).tzinfo is UTC
    assert datetime.fromisoformat(rfc3339(instant)) == moment


@given(moments, moments)
def test_instants_are_ordered_as_moments_are(first: datetime, second: datetime) -> None:
    assert (to_instant(first) < to_instant(second)) == (first < second)


def test_a_naive_datetime_names_no_instant() -> None:
    with pytest.raises(ValueError, match=r"2026-12-01T10:00:00 has no time zone: give one, as in"):
        to_instant(datetime(2026, 12, 1, 10))  # noqa: DTZ001  # what a user may give


def test_instants_are_formatted() -> None:
    instant = to_instant(datetime(2026, 12, 1, 10, tzinfo=UTC))
    assert rfc3339(instant) == "2026-12-01T10:00:00Z"
    assert rfc3339(instant + 1500) == "2026-12-01T10:00:00.001500Z"
    assert compact(instant) == "20261201T100000Z"
    assert from_seconds(1.0000004) == 1_000_000
