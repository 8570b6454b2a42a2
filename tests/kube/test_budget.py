"""The budget of writes, with a simulated clock."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduledjob.kube.client.budget import Budget, BudgetUse
from tests.simulation.loop import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator


class World:
    """An event loop with a simulated clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.loop = VirtualLoop(lambda: self.now)

    def start(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        return self.loop.create_task(work)

    def run(self, seconds: float) -> None:
        """Advance the clock, and run timers when they are due."""
        end = self.now + seconds
        self.loop.run_ready()
        while (timer := self.loop.next_timer()) is not None and timer <= end:
            self.now = max(self.now, timer)
            self.loop.run_ready()
        self.now = end
        self.loop.run_ready()


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    for task in asyncio.all_tasks(world.loop):
        task.cancel()
    world.loop.run_ready()
    world.loop.close()


async def write(budget: Budget, use: BudgetUse, count: int, done: Callable[[], None]) -> None:
    for _ in range(count):
        await budget.take(use)
        done()


def times(world: World, budget: Budget, use: BudgetUse, count: int = 10**6) -> list[float]:
    """Return a list that fills with the times of the writes of a writer, in seconds from now."""
    begun, granted = world.now, list[float]()
    world.start(write(budget, use, count, lambda: granted.append(world.now - begun)))
    return granted


def test_the_rate_follows_the_burst(world: World) -> None:
    granted = times(world, Budget(20.0, 5), BudgetUse.STATUS)
    world.run(10.0)
    assert granted[:6] == [0.0, 0.0, 0.0, 0.0, 0.0, pytest.approx(0.05)]
    assert len(granted) == 5 + 200


def test_a_pause_does_not_accumulate_more_than_the_burst(world: World) -> None:
    budget = Budget(20.0, 5)
    times(world, budget, BudgetUse.STATUS, 5)
    world.run(3600.0)
    granted = times(world, budget, BudgetUse.STATUS)
    world.run(1.0)
    assert len(granted) == 5 + 20


def test_events_alone_get_a_quarter(world: World) -> None:
    granted = times(world, Budget(20.0, 20.0), BudgetUse.EVENT)
    world.run(100.0)
    assert len(granted) == pytest.approx(5 + 500, abs=1)


def test_under_load_one_write_in_twenty_is_an_event(world: World) -> None:
    budget = Budget(20.0, 20.0)
    status, events = times(world, budget, BudgetUse.STATUS), times(world, budget, BudgetUse.EVENT)
    world.run(100.0)
    assert len(events) == pytest.approx(100, abs=5)
    assert len(status) == pytest.approx(1920, abs=20)
    assert max(later - sooner for sooner, later in pairwise(status)) < 0.2, "at most one Event at a time"


def test_after_the_load_events_get_their_quarter_again(world: World) -> None:
    budget = Budget(20.0, 20.0)
    status, events = times(world, budget, BudgetUse.STATUS, 1000), times(world, budget, BudgetUse.EVENT)
    world.run(100.0)
    assert len(status) == 1000
    assert status[-1] < 55.0
    assert len([moment for moment in events if moment > status[-1]]) == pytest.approx(5 * (100.0 - status[-1]), abs=6)


def test_status_may_use_the_whole_budget_without_events(world: World) -> None:
    granted = times(world, Budget(20.0, 1), BudgetUse.STATUS)
    world.run(10.0)
    assert len(granted) == pytest.approx(201, abs=1)


def test_a_cancelled_waiter_takes_no_token(world: World) -> None:
    budget = Budget(1.0, 1)
    times(world, budget, BudgetUse.STATUS, 1)
    world.run(0.0)
    impatient = [world.start(write(budget, BudgetUse.STATUS, 1, lambda: None)) for _ in range(10)]
    world.run(0.0)
    for task in impatient:
        task.cancel()
    granted = times(world, budget, BudgetUse.STATUS)
    world.run(5.0)
    assert granted == [pytest.approx(1.0 + n) for n in range(5)]


def test_a_token_granted_during_cancellation_is_returned(world: World) -> None:
    budget = Budget(1.0, 1)
    times(world, budget, BudgetUse.STATUS, 1)
    unlucky = world.start(write(budget, BudgetUse.STATUS, 1, lambda: None))
    world.run(0.0)
    world.loop.call_later(1.1, unlucky.cancel)
    granted = times(world, budget, BudgetUse.STATUS, 1)
    world.now += 1.2  # the loop was busy: both timers are due, the token's first
    world.loop.run_ready()
    assert unlucky.cancelled()
    assert granted == [pytest.approx(1.2)]


def test_a_lifted_budget_allows_everything(world: World) -> None:
    budget = Budget(1.0, 1)
    status, events = times(world, budget, BudgetUse.STATUS, 1000), times(world, budget, BudgetUse.EVENT, 1000)
    world.run(0.0)
    budget.lift()
    world.run(0.0)
    assert (len(status), len(events)) == (1000, 1000)


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (1, 0.5), (float("nan"), 1)])
def test_a_budget_that_allows_nothing_is_refused(rate: float, burst: float) -> None:
    with pytest.raises(ValueError, match="allows none"):
        Budget(rate, burst)


@given(
    rate=st.floats(0.1, 1000.0),
    burst=st.floats(1.0, 100.0),
    actions=st.lists(st.tuples(st.sampled_from(BudgetUse), st.integers(0, 30), st.floats(0.0, 5.0)), max_size=20),
)
def test_no_time_span_exceeds_burst_and_rate(
    rate: float, burst: float, actions: list[tuple[BudgetUse, int, float]]
) -> None:
    world = World()
    budget = Budget(rate, burst)
    granted: list[tuple[float, BudgetUse]] = []
    wanted = 0
    for use, count, seconds in actions:
        wanted += count
        world.start(write(budget, use, count, lambda use=use: granted.append((world.now, use))))  # type: ignore[misc]  # a lambda with a default
        world.run(seconds)
    world.run(wanted / rate * 4 + 1)
    assert len(granted) == wanted, "every write is granted in the end"
    for share, chosen in ((1.0, set(BudgetUse)), (0.25, {BudgetUse.EVENT})):
        at = [moment for moment, use in granted if use in chosen]
        most = max(1.0, burst * share)
        for first, begun in enumerate(at):
            for last in range(first, len(at)):
                assert last - first + 1 <= most + (at[last] - begun) * rate * share + 1e-3
    world.loop.close()
