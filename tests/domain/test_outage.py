"""An outage while a run was active: what becomes of the slots that nobody could run."""

from __future__ import annotations

import pytest

from scheduledjob.domain.schedule import due
from scheduledjob.domain.schedule.actions import AttemptEnd
from scheduledjob.domain.schedule.definition import CatchUp, Concurrency, Misfire
from scheduledjob.domain.schedule.restore import restored_state
from scheduledjob.domain.schedule.runs import MAX_LOST_IN_ROW
from scheduledjob.domain.time.instants import MINUTE, SECOND
from scheduledjob.domain.triggers.every import EveryTrigger

from .schedule_driver import Driver, T, defined

LEASE_END = 75.0
"""The owner died amid the run of slot 60. It would have passed the run on by then."""
BACK = 380.0
"""When somebody takes over: the slots 120, 180, 240, 300 and 360 have come due since."""


def after_outage(policy: Concurrency, misfire: Misfire, *, lease_end: float = LEASE_END, **fields: object) -> Driver:
    definition = defined(concurrency=policy, misfire=misfire, **fields)
    driver = Driver(definition)
    assert driver.starts(60 + definition.jitter / SECOND) == [60.0]
    driver.die(BACK)
    due.miss_outage(driver.schedule, T + round(lease_end * SECOND), T + round(BACK * SECOND))
    return driver


def all_starts(driver: Driver) -> list[tuple[float, int]]:
    """Let one run after another end. Return their slots and attempts in the order of their starts."""
    starts: list[tuple[float, int]] = []
    for second in range(40):
        started = driver.at(BACK + second).start
        starts += [((run.slot - T) / SECOND, run.attempt) for run in started]
        while driver.schedule.executing:
            driver.end(BACK + second)
    return starts


@pytest.mark.parametrize(
    ("misfire", "caught_up"),
    [
        (Misfire(CatchUp.LAST), [360.0]),
        (Misfire(CatchUp.LAST, starting_deadline=15 * SECOND), []),
        (Misfire(CatchUp.ALL, 3), [240.0, 300.0, 360.0]),
        (Misfire(CatchUp.ALL, 100), [120.0, 180.0, 240.0, 300.0, 360.0]),
        (Misfire(CatchUp.ALL, 100, starting_deadline=90 * SECOND), [300.0, 360.0]),
        (Misfire(CatchUp.SKIP), []),
    ],
)
@pytest.mark.parametrize("policy", [Concurrency.FORBID, Concurrency.QUEUE])
def test_slots_that_nobody_could_run_are_caught_up_after_the_retried_run(
    policy: Concurrency, misfire: Misfire, caught_up: list[float]
) -> None:
    driver = after_outage(policy, misfire)
    assert all_starts(driver) == [(60.0, 2), *((slot, 1) for slot in caught_up)]
    state = driver.state
    assert (state.skipped, state.missed, state.succeeded) == (0, 5 - len(caught_up), 1 + len(caught_up))


def test_the_run_of_a_dead_owner_is_active_until_its_lease_passed() -> None:
    driver = after_outage(Concurrency.FORBID, Misfire(CatchUp.ALL, 100), lease_end=185.0)
    assert all_starts(driver) == [(60.0, 2), (240.0, 1), (300.0, 1), (360.0, 1)]
    assert (driver.state.skipped, driver.state.missed) == (2, 0)


def test_a_take_over_without_an_outage_skips_what_overlapped() -> None:
    driver = after_outage(Concurrency.FORBID, Misfire(), lease_end=BACK - 0.2)
    assert all_starts(driver) == [(60.0, 2)]
    assert (driver.state.skipped, driver.state.missed) == (5, 0)


@pytest.mark.parametrize(("lease_end", "caught_up"), [(185.0, [360.0]), (360.0, [])])
def test_slots_that_nobody_could_run_are_caught_up_after_a_run_that_waits_alone(
    lease_end: float, caught_up: list[float]
) -> None:
    """The active run has been lost too often, and ends as failed. The one that waited behind it is next.

    A slot that came due by the end of the lease found a full queue.
    """
    driver = Driver(defined(concurrency=Concurrency.QUEUE, queue_depth=1))
    assert driver.starts(60) == [60.0]
    driver.state.runs[0].lost = MAX_LOST_IN_ROW - 1
    assert driver.starts(120) == []
    driver.die(BACK)
    assert ([run.slot for run in driver.state.waiting], driver.state.runs) == ([T + 120 * SECOND], [])
    due.miss_outage(driver.schedule, T + round(lease_end * SECOND), T + round(BACK * SECOND))
    assert all_starts(driver) == [(slot, 1) for slot in (120.0, *caught_up)]
    assert (driver.state.skipped, driver.state.missed) == (1 - len(caught_up), 3)


def test_replace_starts_the_newest_missed_slot_in_place_of_the_dead_run() -> None:
    driver = after_outage(Concurrency.REPLACE, Misfire(CatchUp.ALL, 100))
    assert [slot for slot, _ in all_starts(driver)] == [360.0]
    assert driver.state.cancelled >= 1


def test_a_full_allow_catches_up_when_the_retried_runs_have_ended() -> None:
    driver = after_outage(Concurrency.ALLOW, Misfire(), max_concurrent=1)
    assert all_starts(driver) == [(60.0, 2), (360.0, 1)]
    assert driver.state.skipped == 0


def test_max_runs_holds_after_an_outage() -> None:
    driver = after_outage(Concurrency.FORBID, Misfire(CatchUp.ALL, 100), max_runs=3)
    assert [slot for slot, _ in all_starts(driver)] == [60.0, 120.0, 180.0]


def test_jitter_decides_what_is_an_overlap() -> None:
    driver = after_outage(Concurrency.FORBID, Misfire(CatchUp.ALL, 100), jitter=MINUTE // 2)
    counted = driver.state.skipped + driver.state.missed
    assert counted + len(all_starts(driver)) - 1 == 5


@pytest.mark.parametrize("clean_shutdown", [True, False])
def test_a_restored_schedule_catches_up_what_nobody_could_run(clean_shutdown: bool) -> None:
    driver = Driver(defined(triggers=(EveryTrigger(MINUTE, T),)))
    driver.at(60)
    if clean_shutdown:
        driver.end(62, AttemptEnd.LOST)
    schedule = driver.schedule
    state, _ = restored_state(
        schedule.state.encode().decode(),
        driver.definition,
        schedule.slots,
        "u",
        T + round(BACK * SECOND),
        clean_shutdown=clean_shutdown,
        detached=False,
    )
    assert [(run.slot - T) / SECOND for run in state.runs] == [60.0]
    assert [(run.slot - T) / SECOND for run in state.waiting] == [360.0]
    assert (state.skipped, state.missed) == (0, 4)
