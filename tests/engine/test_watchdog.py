"""The watchdog of the event loop, with measurements that the tests make up."""

from __future__ import annotations

import pytest

from scheduledjob.engine.watchdog import HELD_FOR, INTERVAL, LoopWatchdog
from scheduledjob.web.metrics import Metrics
from tests.simulation.loop import VirtualLoop


def test_what_holds_the_loop_is_counted_from_fifty_milliseconds_on() -> None:
    metrics = Metrics()
    watchdog = LoopWatchdog(metrics.loop_lag)
    for lag in (-0.001, 0.0, 0.001, HELD_FOR - 0.001):
        watchdog.measured(lag)
    assert metrics.event_loop_held.value() == 0
    watchdog.measured(HELD_FOR)
    watchdog.measured(2.0)
    assert metrics.event_loop_held.value() == 2
    assert metrics.event_loop_lag_seconds.count() == 6


def test_a_call_is_as_late_as_the_loop_comes_to_it() -> None:
    now, lags = 0.0, list[float]()
    loop = VirtualLoop(lambda: now)
    running = loop.create_task(LoopWatchdog(lags.append).run())
    loop.run_ready()
    for late in (0.0, 0.5, 0.0):
        now += INTERVAL + late
        loop.run_ready()
    assert lags == pytest.approx([0.0, 0.5, 0.0])
    running.cancel()
    loop.run_ready()
    loop.close()
