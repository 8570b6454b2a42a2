"""Backoff: waits, limits, and what may be asked for."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduledjob.domain.schedule.backoff import Exponential, Fixed
from scheduledjob.domain.schedule.definition import Definition
from scheduledjob.domain.time.instants import SECOND


def waits(backoff: Exponential | Fixed, count: int = 10) -> list[float | None]:
    return [None if (delay := backoff.delay(n)) is None else delay / SECOND for n in range(1, count + 1)]


def test_the_default_doubles_from_ten_seconds_six_times() -> None:
    assert waits(Exponential(), 7) == [10, 20, 40, 80, 160, 320, None]
    assert waits(Exponential(max_retries=8), 9) == [10, 20, 40, 80, 160, 320, 600, 600, None]


def test_no_retries_and_without_end() -> None:
    assert waits(Exponential(max_retries=0), 1) == [None]
    assert Exponential(max_retries=-1).delay(10**9) == 600 * SECOND
    assert waits(Fixed([1.0], max_retries=0), 1) == [None]
    assert Fixed([1.0, 2.0], max_retries=-1).delay(10**9) == 2 * SECOND


def test_fixed_has_one_retry_for_each_interval_unless_a_number_is_given() -> None:
    assert waits(Fixed([10.0, 60.0, 300.0]), 4) == [10, 60, 300, None]
    assert waits(Fixed([10.0, 60.0, 300.0], max_retries=5), 6) == [10, 60, 300, 300, 300, None]
    assert waits(Fixed([10.0, 60.0, 300.0], max_retries=1), 2) == [10, None]


def test_a_huge_multiplier_ends_at_the_maximum() -> None:
    backoff = Exponential(initial=1.0, max=60.0, multiplier=1e308, max_retries=-1)
    assert waits(backoff, 4) == [1, 60, 60, 60]
    assert Exponential(initial=1e-3, max=60.0, multiplier=10.0, max_retries=-1).delay(10**6) == 60 * SECOND


@given(st.floats(0.001, 1e6), st.floats(1, 1e9), st.floats(1, 1e300), st.integers(-1, 50), st.integers(1, 10**6))
def test_waits_never_shrink_nor_pass_the_maximum(
    initial: float, more: float, multiplier: float, retries: int, failed: int
) -> None:
    backoff = Exponential(initial=initial, max=initial * more, multiplier=multiplier, max_retries=retries)
    delay, after = backoff.delay(failed), backoff.delay(failed + 1)
    assert (delay is None) == (retries != -1 and failed > retries)
    if delay is not None and after is not None:
        assert round(initial * SECOND) <= delay <= after <= round(initial * more * SECOND)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"initial": 0.0}, "initial of 0.0 seconds"),
        ({"initial": math.nan}, "initial of nan seconds"),
        ({"max": math.inf}, "max of inf seconds"),
        ({"multiplier": 0.5}, "multiplier 0.5 is not allowed: a number of at least 1"),
        ({"multiplier": math.inf}, "multiplier inf"),
        ({"initial": 20.0, "max": 10.0}, "max 10.0 is below initial 20.0"),
        ({"max_retries": -2}, "max_retries -2 is not allowed: 0 or more, or -1"),
    ],
)
def test_an_exponential_that_can_t_be(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Exponential(**fields)  # type: ignore[arg-type]  # some are wrong on purpose


@pytest.mark.parametrize("seconds", ["10", True, None])
def test_a_wait_that_is_not_a_number_is_refused_with_words(seconds: Any) -> None:
    with pytest.raises(TypeError, match=r"initial of .* is not allowed: give a number of seconds"):
        Exponential(initial=seconds)
    with pytest.raises(TypeError, match=r"an interval of .* is not allowed: give a number of seconds"):
        Fixed([seconds])


@pytest.mark.parametrize(("intervals", "message"), [([], "intervals is empty"), ([1.0, -1.0], "an interval of -1.0")])
def test_a_fixed_that_can_t_be(intervals: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Fixed(intervals)


@pytest.mark.parametrize("backoff", [Exponential(1.5, 3.0, 1.25, -1), Fixed([1.5, 2.0]), Fixed((1.0,), 3)])
def test_a_backoff_survives_being_stored(backoff: Exponential | Fixed) -> None:
    read = Definition.decode(Definition(kind="k", retry=backoff).encode()).retry
    assert type(read) is type(backoff)
    assert waits(read) == waits(backoff)


@pytest.mark.parametrize("codes", [[404], (404, "5xx"), (True,), 404])
def test_codes_that_are_not_retried_are_whole_numbers(codes: Any) -> None:
    words = r"not_on .* is not allowed: a tuple of exit codes or HTTP statuses"
    with pytest.raises(TypeError, match=words):
        Exponential(not_on=codes)
    with pytest.raises(TypeError, match=words):
        Fixed([1.0], not_on=codes)


@pytest.mark.parametrize("code", [0, -1, 600])
def test_codes_with_which_no_run_fails_are_refused(code: int) -> None:
    words = f"not_on has {code}, with which no run fails: give codes from 1 to 599"
    with pytest.raises(ValueError, match=words):
        Exponential(not_on=(404, code))
    with pytest.raises(ValueError, match=words):
        Fixed([1.0], not_on=(code,))
    Exponential(not_on=(1, 255, 599))
