"""What the resource promises about runs: concurrency, retries, time limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from scheduledjob.domain.schedule import actions, machine, runs
from scheduledjob.domain.schedule.actions import AttemptEnd
from scheduledjob.domain.schedule.backoff import Exponential, Fixed
from scheduledjob.domain.schedule.definition import CatchUp, Concurrency, Misfire, Timeouts
from scheduledjob.domain.schedule.schedule import Schedule
from scheduledjob.domain.schedule.state import Outcome, Run, RunRecord, State
from scheduledjob.domain.time.instants import MINUTE, SECOND

from .schedule_driver import Driver, T, defined

if TYPE_CHECKING:
    from collections.abc import Sequence

# ---------------------------------------------------------------- concurrency


def test_forbid_skips_what_comes_due_while_a_run_is_active() -> None:
    job = Driver(defined())
    job.at(60)
    assert job.starts(200) == []
    job.end(200)
    assert job.starts(200) == []
    assert job.state.skipped == 2
    assert job.starts(240) == [240]


def test_forbid_counts_what_came_due_before_a_pause_or_the_end() -> None:
    job = Driver(defined(pause_after_failures=1, retry=Exponential(max_retries=0)))
    job.at(60)
    job.end(200, AttemptEnd.FAILED)
    assert job.state.skipped == 2
    job = Driver(defined())
    job.at(60)
    job.end(200, AttemptEnd.COMPLETED)
    assert job.state.skipped == 2


def test_a_run_in_backoff_is_active() -> None:
    job = Driver(defined(retry=Fixed([200.0])))
    job.run(60, AttemptEnd.FAILED)
    assert job.starts(120) == []
    assert job.starts(261) == [60]
    job.end(262)
    assert job.state.skipped == 3


def test_queue_waits_in_order_up_to_its_depth() -> None:
    job = Driver(defined(concurrency=Concurrency.QUEUE, queue_depth=2))
    job.at(60)
    for seconds in (120, 180, 240):
        assert job.starts(seconds) == []
    assert job.state.skipped == 1
    job.end(250)
    assert job.starts(250) == [120]
    job.end(260)
    assert job.starts(260) == [180]


def test_queue_runs_up_to_max_concurrent_at_once() -> None:
    job = Driver(defined(concurrency=Concurrency.QUEUE, max_concurrent=2, queue_depth=0))
    assert job.starts(60) == [60]
    assert job.starts(120) == [120]
    assert job.starts(180) == []
    assert job.state.skipped == 1


def test_replace_cancels_waits_for_the_end_and_starts_the_newest() -> None:
    job = Driver(defined(concurrency=Concurrency.REPLACE))
    job.at(60)
    actions = job.at(120)
    assert [(run.slot - T) // SECOND for run in actions.cancel] == [60]
    assert actions.start == ()
    job.at(180)
    record = job.end(190, AttemptEnd.FAILED)
    assert record is not None
    assert record.outcome is Outcome.CANCELLED
    assert job.starts(190) == [180]
    assert job.state.skipped == 1


def test_replace_ends_a_run_in_backoff_at_once() -> None:
    job = Driver(defined(concurrency=Concurrency.REPLACE, retry=Fixed([500.0])))
    job.run(60, AttemptEnd.FAILED)
    assert job.starts(120) == [120]
    assert [record.outcome for record in job.records] == [Outcome.CANCELLED]


def test_replace_keeps_the_success_of_a_run_that_was_being_cancelled() -> None:
    job = Driver(defined(concurrency=Concurrency.REPLACE))
    job.at(60)
    job.at(120)
    record = job.end(121, AttemptEnd.SUCCEEDED)
    assert record is not None
    assert record.outcome is Outcome.SUCCEEDED


def test_allow_runs_side_by_side_up_to_its_limit() -> None:
    job = Driver(defined(concurrency=Concurrency.ALLOW, max_concurrent=2))
    assert [job.starts(seconds) for seconds in (60, 120, 180)] == [[60], [120], []]
    assert job.state.skipped == 1
    job = Driver(defined(concurrency=Concurrency.ALLOW))
    assert all(len(job.starts(60 * n)) == 1 for n in range(1, 50))


@pytest.mark.parametrize("policy", [Concurrency.FORBID, Concurrency.QUEUE, Concurrency.ALLOW])
def test_slots_caught_up_don_t_overlap_each_other(policy: Concurrency) -> None:
    job = Driver(defined(misfire=Misfire(CatchUp.ALL), concurrency=policy))
    order = job.starts(330)
    while job.schedule.executing:
        assert len(job.schedule.executing) == 1
        job.end(331)
        order += job.starts(331)
    assert order == [60, 120, 180, 240, 300]
    assert job.state.skipped == 0


def test_replace_runs_only_the_newest_of_the_slots_caught_up() -> None:
    job = Driver(defined(misfire=Misfire(CatchUp.ALL), concurrency=Concurrency.REPLACE))
    assert job.starts(330) == [300]
    assert job.state.missed == 4
    job = Driver(defined(misfire=Misfire(CatchUp.ALL), concurrency=Concurrency.REPLACE, max_runs=1))
    assert job.starts(330) == [300]


# ---------------------------------------------------------------- retry and timeouts


def attempts(job: Driver, most: int = 20) -> tuple[list[float], RunRecord | None]:
    """Return how long each retry waited, until the run failed or ``most`` attempts had been made."""
    now, waits = 60.0, list[float]()
    for _ in range(most):
        assert len(job.at(now).start) == 1
        record = job.end(now, AttemptEnd.FAILED, reason="exit code 1")
        if record is not None:
            return waits, record
        due = (job.state.runs[0].due - T) / SECOND
        waits.append(due - now)
        now = due
    return waits, None


def test_after_the_last_retry_the_run_fails_and_the_schedule_continues() -> None:
    job = Driver(defined(retry=Fixed([10.0, 20.0])))
    waits, record = attempts(job)
    assert waits == [10, 20]
    assert record is not None
    assert (record.outcome, record.attempt, record.reason) == (Outcome.FAILED, 3, "exit code 1")
    assert job.starts(120) == [120]


def test_no_retries_and_retries_without_end() -> None:
    waits, record = attempts(Driver(defined(retry=Exponential(max_retries=0))))
    assert (waits, record is None) == ([], False)
    waits, record = attempts(Driver(defined(retry=Exponential(initial=1, max=4, max_retries=-1))), most=50)
    assert record is None
    assert waits == [1, 2, *[4] * 48]


def test_there_is_no_retry_that_would_exceed_the_total() -> None:
    job = Driver(defined(retry=Fixed([10.0], max_retries=9), timeouts=Timeouts(total=25 * SECOND)))
    waits, record = attempts(job)
    assert waits == [10, 10]
    assert record is not None
    assert "timeouts.total" in record.reason


def test_total_counts_from_the_first_start_even_if_attempts_are_lost() -> None:
    job = Driver(defined(timeouts=Timeouts(total=100 * SECOND), retry=Exponential(max_retries=-1)))
    job.at(60)
    job.die(161)
    assert job.starts(161) == []
    (record,) = job.records
    assert (record.outcome, record.started) == (Outcome.FAILED, T + 60 * SECOND)


@pytest.mark.parametrize("retries", [0, 6, -1])
def test_five_lost_attempts_in_a_row_are_enough(retries: int) -> None:
    job = Driver(defined(retry=Exponential(max_retries=retries)))
    for lost in range(1, 5):
        (run,) = job.at(60 + lost).start
        assert run.attempt == lost
        job.die(60 + lost)
    job.at(70)
    job.die(70)
    (record,) = job.records
    assert (record.outcome, record.attempt) == (Outcome.FAILED, 5)
    assert "OwnerLost" in record.reason


def test_lost_attempts_use_up_no_retries_and_count_in_a_row_only() -> None:
    job = Driver(defined(retry=Fixed([1.0, 1.0, 1.0])))
    now = 60.0
    for _ in range(3):
        for _ in range(4):
            assert len(job.at(now).start) == 1
            assert job.end(now, AttemptEnd.LOST) is None
        assert len(job.at(now).start) == 1
        assert job.end(now, AttemptEnd.FAILED) is None
        now += 1
    (run,) = job.at(now).start
    assert (run.attempt, run.failed) == (16, 3)
    assert job.end(now, AttemptEnd.FAILED) is not None


def test_a_run_released_before_its_start_keeps_its_attempt_number() -> None:
    job = Driver(defined())
    job.at(10)
    other = Schedule("s", "u", job.definition, job.schedule.slots, State.decode(job.state.encode()))
    (run,) = machine.step(other, T + MINUTE).start
    assert run.attempt == 1


# ---------------------------------------------------------------- results that decide about the next attempt


@pytest.mark.parametrize("retry", [Exponential(not_on=(2, 404)), Fixed([1.0, 1.0], not_on=(404,))])
def test_a_result_in_not_on_fails_the_run_at_once(retry: Exponential | Fixed) -> None:
    job = Driver(defined(retry=retry))
    job.at(60)
    assert job.end(61, AttemptEnd.FAILED, code=500) is None
    assert job.starts(75) == [60]
    record = job.end(76, AttemptEnd.FAILED, code=404, reason="HTTP 404")
    assert record is not None
    assert (record.outcome, record.attempt, record.code) == (Outcome.FAILED, 2, 404)
    assert record.reason == "HTTP 404; not retried, because of retry.notOn"


@pytest.mark.parametrize(
    ("asked", "wait"), [(0, 10), (5, 10), (30, 30), (100, 60), (10**9, 60)], ids=lambda seconds: f"{seconds}s"
)
def test_a_server_may_ask_for_a_longer_wait_up_to_the_maximum(asked: int, wait: int) -> None:
    job = Driver(defined(retry=Exponential(initial=10.0, max=60.0)))
    job.at(60)
    job.end(61, AttemptEnd.FAILED, retry_after=asked * SECOND)
    assert job.starts(61 + wait - 1) == []
    assert job.starts(61 + wait) == [60]


def test_a_server_may_ask_for_the_longest_fixed_wait() -> None:
    job = Driver(defined(retry=Fixed([1.0, 30.0], max_retries=1)))
    job.at(60)
    job.end(61, AttemptEnd.FAILED, retry_after=100 * SECOND)
    assert job.state.runs[0].due == T + 91 * SECOND
    assert job.starts(91) == [60]
    record = job.end(92, AttemptEnd.FAILED, retry_after=1 * SECOND)
    assert record is not None


# ---------------------------------------------------------------- thousands of runs


class Compared:
    """Counts the runs that searches by ``has`` pass over."""

    def __init__(self) -> None:
        self.runs = 0

    def has(self, found: Sequence[Run], run: Run) -> bool:
        self.runs += len(found)
        return any(other is run for other in found)


def crowded(count: int) -> Driver:
    job = Driver(defined(concurrency=Concurrency.ALLOW))
    job.state.runs = [Run(slot=T - number, due=T - number, begun=1) for number in range(count)]
    return job


@pytest.mark.parametrize("policy", [Concurrency.ALLOW, Concurrency.REPLACE])
def test_the_cost_of_a_step_grows_with_the_active_runs_and_not_with_their_square(
    policy: Concurrency, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = Compared()
    monkeypatch.setattr(runs, "has", compared.has)
    monkeypatch.setattr(actions, "has", compared.has)
    job = crowded(4000)
    job.schedule.executing = tuple(job.state.runs)
    job.edit(0, concurrency=policy)
    compared.runs = 0
    machine.step(job.schedule, T + 59 * SECOND)
    cancelled = machine.step(job.schedule, T + 61 * SECOND).cancel
    assert len(cancelled) == (4000 if policy is Concurrency.REPLACE else 0)
    machine.wake_at(job.schedule)
    machine.recover(job.schedule, T + 62 * SECOND)
    assert compared.runs < 4000


def test_a_step_starts_a_limited_number_of_attempts_and_the_rest_is_due_at_once() -> None:
    job = crowded(machine.MAX_STARTS + 7)
    now = T + SECOND
    started = machine.step(job.schedule, now).start
    assert len(started) == machine.MAX_STARTS
    for run in started:
        runs.attempt_started(job.schedule, run, now)
    wake = machine.wake_at(job.schedule)
    assert wake is not None
    assert wake <= now
    assert len(machine.step(job.schedule, now).start) == 7


def test_allow_without_a_maximum_has_ten_thousand_active_runs_at_most() -> None:
    job = crowded(9_999)
    assert len(job.at(60).start) > 0
    assert len(job.state.runs) == 10_000
    assert len(job.starts(120)) <= machine.MAX_STARTS
    assert (len(job.state.runs), job.state.skipped) == (10_000, 1)
