"""From where a claim looks: as high as is safe, and from the bottom once a second."""

from __future__ import annotations

import pytest

from scheduledjob.stores.postgres.claim_watermark import BOTTOM, INTERVAL, SLACK, Floor

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
def floor(clock: Clock) -> Floor:
    """One that has looked from the bottom just now, and found everything taken up to T."""
    floor = Floor(clock)
    start, token = floor.begin(KINDS)
    assert start == BOTTOM
    floor.finish(token, T)
    return floor


def test_the_next_claim_begins_where_the_last_ended(floor: Floor) -> None:
    assert floor.begin(KINDS)[0] == T - SLACK


def test_once_a_second_a_claim_looks_below(floor: Floor, clock: Clock) -> None:
    clock.now += INTERVAL
    assert floor.begin(KINDS)[0] == BOTTOM
    assert floor.begin(KINDS)[0] == T - SLACK


def test_the_floor_only_rises_by_itself(floor: Floor) -> None:
    _, token = floor.begin(KINDS)
    floor.finish(token, T - 10 * SLACK)
    assert floor.known == T - SLACK


def test_what_becomes_due_below_it_lowers_it(floor: Floor) -> None:
    floor.lower(T - 10 * SLACK)
    assert floor.begin(KINDS)[0] == T - 10 * SLACK


def test_a_claim_that_was_under_way_meanwhile_does_not_raise_it(floor: Floor) -> None:
    _, token = floor.begin(KINDS)
    floor.lower(T - 10 * SLACK)
    floor.finish(token, T + SLACK)
    assert floor.known == T - 10 * SLACK


def test_other_kinds_begin_at_the_bottom(floor: Floor) -> None:
    assert floor.begin(KINDS | {"curl"})[0] == BOTTOM
