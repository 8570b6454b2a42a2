"""The claim watermark: as high as is safe, and ignored once a second."""

from __future__ import annotations

import pytest

from scheduledjob.stores.postgres.claim_watermark import BOTTOM, INTERVAL, SLACK, ClaimWatermark
from tests.support.moved_clock import MovedClock

KINDS = frozenset({"shell"})
T = 1_000_000_000


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock(100.0)


@pytest.fixture
def watermark(clock: MovedClock) -> ClaimWatermark:
    """A watermark that was ignored just now, by a claim that took everything up to T."""
    watermark = ClaimWatermark(clock)
    start, token = watermark.begin(KINDS)
    assert start == BOTTOM
    watermark.finish(token, T)
    return watermark


def test_the_next_claim_starts_where_the_last_ended(watermark: ClaimWatermark) -> None:
    assert watermark.begin(KINDS)[0] == T - SLACK


def test_once_a_second_a_claim_ignores_the_watermark(watermark: ClaimWatermark, clock: MovedClock) -> None:
    clock.now += INTERVAL
    assert watermark.begin(KINDS)[0] == BOTTOM
    assert watermark.begin(KINDS)[0] == T - SLACK


def test_a_claim_never_lowers_the_watermark(watermark: ClaimWatermark) -> None:
    _, token = watermark.begin(KINDS)
    watermark.finish(token, T - 10 * SLACK)
    assert watermark.known == T - SLACK


def test_a_row_due_below_the_watermark_lowers_it(watermark: ClaimWatermark) -> None:
    watermark.lower(T - 10 * SLACK)
    assert watermark.begin(KINDS)[0] == T - 10 * SLACK


def test_a_claim_in_flight_meanwhile_does_not_raise_it(watermark: ClaimWatermark) -> None:
    _, token = watermark.begin(KINDS)
    watermark.lower(T - 10 * SLACK)
    watermark.finish(token, T + SLACK)
    assert watermark.known == T - 10 * SLACK


def test_other_kinds_start_at_the_bottom(watermark: ClaimWatermark) -> None:
    assert watermark.begin(KINDS | {"curl"})[0] == BOTTOM
