"""The estimate of the store's clock is never ahead, however clocks and the network behave; and the timers on it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from scheduledjob.domain.time.instants import DAY, SECOND, Instant
from scheduledjob.engine.clock import DRIFT, StoreClock
from scheduledjob.engine.timers import MAX_AT_ONCE, MIN_CANCELLED, Timers

T: Instant = 1_790_000_000 * SECOND


@dataclass
class Pair:
    """True time in seconds. The store's clock follows it; ours has another rate and another zero."""

    rate: float = 1.0
    zero: float = 0.0
    time: float = 0.0
    set_to: Instant = T

    def monotonic(self) -> float:
        return self.zero + self.time * self.rate

    def store(self) -> Instant:
        return self.set_to + int(self.time * SECOND)


rates = st.floats(1 - DRIFT * 0.99, 1 + DRIFT * 0.99)
lags = st.floats(0, 2)


@given(rates, st.floats(-1e5, 1e5), st.lists(st.tuples(lags, lags, st.floats(0, 5000)), min_size=1, max_size=20))
def test_the_estimate_is_late_by_less_than_the_round_trip(
    rate: float, zero: float, exchanges: list[tuple[float, float, float]]
) -> None:
    pair = Pair(rate, zero)
    clock = StoreClock(pair.monotonic)
    for there, back, pause in exchanges:
        sent = pair.monotonic()
        pair.time += there
        said = pair.store()
        pair.time += back
        clock.observe(said, sent, pair.monotonic())
        behind = pair.store() - clock.now()
        assert -2 <= behind <= back * SECOND + 5
        pair.time += pause
        behind = pair.store() - clock.now()
        assert -2 <= behind <= back * SECOND + pause * 3 * DRIFT * SECOND + 5


def test_the_best_recent_answer_is_used() -> None:
    pair = Pair()
    clock = StoreClock(pair.monotonic)
    clock.observe(pair.store(), 0.0, 0.0)
    pair.time = 10.0
    clock.observe(pair.store() - SECOND, 8.0, 10.0)  # a slow answer
    assert pair.store() - clock.now() <= 10 * DRIFT * SECOND + 2


@given(st.floats(0, 1), st.integers(2, 10**6))
def test_the_estimate_follows_a_clock_that_was_set_back(round_trip: float, back: int) -> None:
    pair = Pair()
    clock = StoreClock(pair.monotonic)
    clock.observe(pair.store(), pair.monotonic(), pair.monotonic())
    pair.set_to -= back * SECOND
    sent = pair.monotonic()
    pair.time += round_trip
    clock.observe(pair.store(), sent, pair.monotonic())
    assert clock.now() <= pair.store()


@given(rates, st.integers(0, 10**10))
def test_until_is_long_enough_to_reach_the_instant(rate: float, length: int) -> None:
    pair = Pair(rate)
    clock = StoreClock(pair.monotonic)
    clock.observe(pair.store(), pair.monotonic(), pair.monotonic())
    pair.time += clock.until(T + length) / rate + 2e-6
    assert clock.now() >= T + length
    assert clock.until(T + length) <= 0
    assert pair.store() >= T + length - 2


# ---------------------------------------------------------------- timers


class Slow:
    """The event loop's clock is slightly faster than the store's, so its timers fire early."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.zero = self.loop.time()
        self.clock = StoreClock(lambda: self.zero + (self.loop.time() - self.zero) * 0.7)
        self.clock.observe(T, self.zero, self.zero)


async def test_timers_fire_in_order_and_never_before_their_time() -> None:
    slow = Slow()
    fired: list[str] = []
    done = asyncio.Event()

    def on_due(item: tuple[str, Instant], token: int) -> None:
        assert slow.clock.now() >= item[1]
        fired.append(item[0])
        if item[0] == "last":
            done.set()

    timers: Timers[tuple[str, Instant]] = Timers(slow.clock, on_due)
    now = slow.clock.now()
    for name, later in (("c", 30), ("last", 60), ("a", 0), ("b", 10)):
        due = now + later * 1000
        timers.set(due, (name, due))
    async with asyncio.timeout(30):
        await done.wait()
    assert fired == ["a", "b", "c", "last"]


async def test_a_timer_may_be_set_while_another_fires() -> None:
    slow = Slow()
    fired: asyncio.Queue[tuple[str, int]] = asyncio.Queue()

    def on_due(item: str, token: int) -> None:
        if item == "first":
            timers.set(slow.clock.now() - 5, "past")
        fired.put_nowait((item, token))

    timers: Timers[str] = Timers(slow.clock, on_due)
    first = timers.set(slow.clock.now() + 5000, "first")
    second = timers.set(slow.clock.now() + 5000, "first")
    assert first != second
    async with asyncio.timeout(30):
        assert [(await fired.get())[0] for _ in range(4)].count("past") == 2


async def test_closed_timers_do_not_fire() -> None:
    slow = Slow()
    fired: list[str] = []
    timers: Timers[str] = Timers(slow.clock, lambda item, token: fired.append(item))
    timers.set(slow.clock.now() + 1000, "never")
    timers.close()
    other = asyncio.Event()
    later: Timers[str] = Timers(slow.clock, lambda item, token: other.set())
    later.set(slow.clock.now() + 20_000, "later")
    await other.wait()
    assert fired == []


async def test_thousands_of_timers_that_are_due_together_do_not_fire_in_one_turn() -> None:
    slow = Slow()
    fired, turns = 0, 0

    def on_due(item: str, token: int) -> None:
        nonlocal fired
        fired += 1
        if item == "again":
            timers.set(0, "again")

    timers: Timers[str] = Timers(slow.clock, on_due)
    for _ in range(10 * MAX_AT_ONCE):
        timers.set(0, "once")
    timers.set(0, "again")
    while fired <= 10 * MAX_AT_ONCE:
        before = fired
        await asyncio.sleep(0)
        assert fired - before <= MAX_AT_ONCE
        turns += 1
    assert turns >= 10
    timers.close()


async def test_a_cancelled_timer_releases_its_item_and_does_not_fire() -> None:
    slow = Slow()
    fired: asyncio.Queue[str] = asyncio.Queue()

    def on_due(item: str, token: int) -> None:
        if item == "first":
            timers.cancel(together)
        timers.cancel(token)  # nothing is left to cancel
        fired.put_nowait(item)

    timers: Timers[str] = Timers(slow.clock, on_due)
    timers.cancel(timers.set(slow.clock.now() + 1000, "cancelled"))
    assert timers._items == {}
    timers.set(slow.clock.now() + 5000, "first")
    together = timers.set(slow.clock.now() + 5000, "cancelled by the first")
    timers.set(slow.clock.now() + 10_000, "last")
    async with asyncio.timeout(30):
        assert [await fired.get() for _ in range(2)] == ["first", "last"]
    timers.close()


async def test_the_heap_follows_what_is_awaited_and_not_what_was() -> None:
    timers: Timers[int] = Timers(Slow().clock, lambda item, token: None)
    far = timers._clock.now() + DAY
    kept = [timers.set(far + number, number) for number in range(10)]
    for number in range(10_000):
        timers.cancel(timers.set(far - number, number))
        assert len(timers._heap) <= 2 * len(kept) + MIN_CANCELLED + 1
    assert sorted(timers._items) == kept
    timers.close()


async def test_tenants_take_turns_when_much_is_due_at_once() -> None:
    slow = Slow()
    order: list[str] = []
    done = asyncio.Event()

    def on_due(item: str, token: int) -> None:
        order.append(item)
        if len(order) == 10 * MAX_AT_ONCE + 1:
            done.set()

    timers: Timers[str] = Timers(slow.clock, on_due, tenant_of=lambda item: item)
    now = slow.clock.now()
    for n in range(10 * MAX_AT_ONCE):
        timers.set(now - SECOND + n, "hog")
    timers.set(now, "lone")
    async with asyncio.timeout(30):
        await done.wait()
    assert order.index("lone") < 2 * MAX_AT_ONCE
    assert len(order) == 10 * MAX_AT_ONCE + 1
    assert not timers._items
