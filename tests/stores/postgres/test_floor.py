"""From where a claim looks: as high as is safe, and from the bottom once a second."""

from __future__ import annotations

import pytest

from scheduledjob.stores.postgres.claim_watermark import BOTTOM, INTERVAL, SLACK, ClaimWatermark

KINDS = frozenset({"shell"})
T = 1_000_000_000


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watermark(clock: Clock) -> ClaimWatermark:
    """One that has looked from the bottom just now, and found everything taken up to T."""
    watermark = ClaimWatermark(clock)
    start, token = watermark.begin(KINDS)
    assert start == BOTTOM
    watermark.finish(token, T)
    return watermark


def test_the_next_claim_begins_where_the_last_ended(watermark: ClaimWatermark) -> None:
    assert watermark.begin(KINDS)[0] == T - SLACK


def test_once_a_second_a_claim_looks_below(watermark: ClaimWatermark, clock: Clock) -> None:
    clock.now += INTERVAL
    assert watermark.begin(KINDS)[0] == BOTTOM
    assert watermark.begin(KINDS)[0] == T - SLACK


def test_the_floor_only_rises_by_itself(watermark: ClaimWatermark) -> None:
    _, token = watermark.begin(KINDS)
    watermark.finish(token, T - 10 * SLACK)
    assert watermark.known == T - SLACK


def test_what_becomes_due_below_it_lowers_it(watermark: ClaimWatermark) -> None:
    watermark.lower(T - 10 * SLACK)
    assert watermark.begin(KINDS)[0] == T - 10 * SLACK


def test_a_claim_that_was_under_way_meanwhile_does_not_raise_it(watermark: ClaimWatermark) -> None:
    _, token = watermark.begin(KINDS)
    watermark.lower(T - 10 * SLACK)
    watermark.finish(token, T + SLACK)
    assert watermark.known == T - 10 * SLACK


def test_other_kinds_begin_at_the_bottom(watermark: ClaimWatermark) -> None:
    assert watermark.begin(KINDS | {"curl"})[0] == BOTTOM
