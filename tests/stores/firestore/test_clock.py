"""The estimate of the store's clock: never early, as exact as possible, and corrected when it was wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduledjob.domain.time.instants import HOUR, SECOND, Instant, Micros
from scheduledjob.engine.clock import boot_nanoseconds
from scheduledjob.engine.store import StoreError
from scheduledjob.stores.firestore.clock import DRIFT_PER_MILLION, ROUNDING, FirestoreClock, boot_micros

START: Instant = 1_800_000_000 * SECOND


class World:
    """A true time, a monotonic clock that drifts from it, and a store that stamps writes with the true time."""

    def __init__(self, drift: int = 0) -> None:
        self.true: Micros = 0
        self._drift = drift
        self.stood_still: Micros = 0
        self.clock = FirestoreClock(self.monotonic)

    def monotonic(self) -> Micros:
        passed = self.true - self.stood_still
        return 77 * HOUR + passed + passed * self._drift // 1_000_000

    @property
    def store(self) -> Instant:
        return START + self.true

    def write(self, there: Micros, back: Micros) -> None:
        sent = self.monotonic()
        self.true += there
        stamp = self.store
        self.true += back
        self.clock.measured(sent, self.monotonic(), stamp)


def test_without_a_measurement_the_clock_is_unknown() -> None:
    clock = FirestoreClock()
    for ask in (clock.earliest, clock.latest):
        with pytest.raises(StoreError, match="connect"):
            ask()
    with pytest.raises(StoreError, match="connect"):
        _ = clock.age


def test_the_boot_clock_is_read_in_microseconds() -> None:
    before, reading, after = boot_nanoseconds(), boot_micros(), boot_nanoseconds()
    assert before // 1000 <= reading <= after // 1000


delays = st.integers(0, 3 * SECOND)


@given(
    drift=st.integers(-DRIFT_PER_MILLION + 5, DRIFT_PER_MILLION - 5),
    writes=st.lists(st.tuples(st.integers(0, HOUR), delays, delays), min_size=1, max_size=20),
    after=st.integers(0, HOUR),
)
def test_the_true_time_is_between_the_bounds(drift: int, writes: list[tuple[int, int, int]], after: Micros) -> None:
    world = World(drift)
    best_trip = None
    last = 0
    for pause, there, back in writes:
        world.true += pause
        world.write(there, back)
        best_trip = there + back if best_trip is None else min(best_trip, there + back)
        assert world.clock.earliest() <= world.store <= world.clock.latest()
        assert world.clock.earliest() >= last
        last = world.clock.earliest()
    world.true += after
    assert world.clock.earliest() <= world.store <= world.clock.latest()
    assert world.clock.jumps == 0


@given(there=delays, back=delays)
def test_the_error_is_at_most_the_round_trip(there: Micros, back: Micros) -> None:
    world = World()
    world.write(there, back)
    assert 0 <= world.store - world.clock.earliest() <= back + ROUNDING
    assert 0 <= world.clock.latest() - world.store <= there + (there + back) // 1_000 + 2 * ROUNDING


def test_a_slow_answer_does_not_widen_the_bounds_of_a_quick_one() -> None:
    world = World()
    world.write(1_000, 1_000)
    world.write(2 * SECOND, 2 * SECOND)
    assert (
        world.clock.latest() - world.clock.earliest()
        <= 2_000 + 2 * 4_002_000 * DRIFT_PER_MILLION // 1_000_000 + 4 * ROUNDING
    )


def test_the_bounds_of_an_old_measurement_widen_until_the_next() -> None:
    world = World()
    world.write(1_000, 1_000)
    world.true += HOUR
    assert world.clock.age == HOUR
    drift = HOUR // 1_000_000 * DRIFT_PER_MILLION
    assert world.store - world.clock.earliest() == 1_000 + ROUNDING + drift
    assert world.clock.latest() - world.store == 1_000 + ROUNDING + drift + 1  # the round trip drifts as well
    world.write(1_000, 1_000)
    assert world.clock.age == 0
    assert world.store - world.clock.earliest() == 1_000 + ROUNDING


def test_a_clock_that_stood_still_is_noticed() -> None:
    world = World()
    world.write(1_000, 1_000)
    world.true += 10 * SECOND
    world.stood_still = 10 * SECOND
    assert world.clock.latest() < world.store  # the end of a lease must not be computed from this
    world.write(1_000, 1_000)
    assert world.clock.jumps == 1
    assert world.clock.earliest() <= world.store <= world.clock.latest()


def test_a_store_clock_that_was_set_back_is_noticed() -> None:
    world = World()
    world.write(1_000, 1_000)
    sent = world.monotonic()
    world.clock.measured(sent, sent + 2_000, world.store - HOUR)
    assert world.clock.jumps == 1
    assert world.clock.earliest() <= world.store - HOUR + 2_000


def test_the_bounds_of_an_earlier_reading() -> None:
    world = World()
    world.write(0, 0)
    began = world.monotonic()
    at_begin = world.store
    world.true += SECOND
    assert world.clock.earliest(began) <= at_begin <= world.clock.latest(began)
    assert world.clock.latest(began) < world.clock.latest()
