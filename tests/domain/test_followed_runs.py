"""Slots that follow the runs of other schedules: none is lost, none is made twice, and the past is not replayed."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from scheduledjob.domain.schedule import followed_runs, machine
from scheduledjob.domain.schedule.actions import AttemptEnd
from scheduledjob.domain.schedule.backoff import Exponential
from scheduledjob.domain.schedule.definition import CatchUp, Concurrency, ExcludeWindow, Misfire
from scheduledjob.domain.schedule.followed_runs import (
    MAX_CHAIN,
    MAX_ENDS,
    MAX_RECORD_DELAY,
    MAX_REMEMBERED_RUNS,
    POLL_INTERVAL,
    POLL_RETRY_DELAY,
    upstreams,
)
from scheduledjob.domain.schedule.machine import first_state
from scheduledjob.domain.schedule.plan import Plan, slots_of
from scheduledjob.domain.schedule.schedule import Schedule
from scheduledjob.domain.schedule.state import Completion, Outcome, RunRecord, State
from scheduledjob.domain.time.instants import MINUTE, SECOND
from scheduledjob.domain.triggers.every import EveryTrigger
from scheduledjob.domain.triggers.following import FollowingTrigger

from .schedule_driver import Driver, T, defined
from .test_requests import ask, paused


class Follower(Driver):
    """A schedule called ``ns/load`` that follows others of its namespace."""

    def __post_init__(self) -> None:
        slots = slots_of(Plan(self.definition), seed="s", created=T)
        state = first_state(self.definition, slots, "u", T)
        self.schedule = Schedule("ns/load", "u", self.definition, slots, state, "me")

    def reload(self) -> None:
        """The next owner knows only the encoded state."""
        old = self.schedule
        state = State.decode(old.state.encode())
        self.schedule = Schedule(old.slug, old.uid, self.definition, old.slots, state, "other")

    def poll(self, seconds: float, *records: RunRecord) -> list[float]:
        """Poll, and return the slots of the runs that start, in seconds after ``T``."""
        now = T + round(seconds * SECOND)
        followed_runs.plan_poll(self.schedule, now)
        assert followed_runs.begin_poll(self.schedule, now)
        followed_runs.poll_ended(self.schedule, records, now)
        return self.starts(seconds)


def follower(**fields: Any) -> Follower:
    given = {"triggers": (FollowingTrigger("extract"),), "concurrency": Concurrency.ALLOW} | fields
    return Follower(defined(**given))


def ended(seconds: float, outcome: Outcome = Outcome.SUCCEEDED, slug: str = "ns/extract", name: str = "") -> RunRecord:
    finished = T + round(seconds * SECOND)
    return RunRecord(name or f"{slug}-{finished}", "x", slug, finished - 9, finished - 5, finished, 1, outcome)


def test_the_end_of_a_run_is_a_slot() -> None:
    job = follower()
    assert job.poll(10, ended(9.5)) == [9.5]
    assert job.state.last_schedule == T + 9_500_000
    assert (job.state.started, job.state.missed) == (1, 0)


def test_a_slot_is_made_once_however_often_the_owner_polls() -> None:
    job = follower()
    first = ended(9.5)
    assert job.poll(10, first) == [9.5]
    job.end(10)
    job.reload()
    assert job.poll(10.1, first, ended(9.9)) == [9.9]
    assert job.poll(10.2, ended(9.9), first) == []


def test_only_the_configured_outcome_and_names_count() -> None:
    job = follower(triggers=(FollowingTrigger("extract"), FollowingTrigger("clean", "Failed")))
    assert upstreams(job.schedule) == {"ns/extract": {"Succeeded"}, "ns/clean": {"Failed"}}
    found = [
        ended(9.1),
        ended(9.2, Outcome.FAILED),
        ended(9.3, slug="ns/clean"),
        ended(9.4, Outcome.FAILED, slug="ns/clean"),
        ended(9.6, slug="other/extract"),
        ended(9.7, Outcome.CANCELLED),
    ]
    assert job.poll(10, *found) == [9.1, 9.4]


def test_runs_that_ended_before_the_creation_do_not_count() -> None:
    assert follower().poll(1, ended(-0.5), ended(0)) == []


def test_a_record_that_reaches_history_late_is_not_overlooked() -> None:
    job = follower(misfire=Misfire(CatchUp.ALL))
    job.poll(100, ended(99.5))
    job.poll(200)
    assert job.poll(300, ended(99.5), ended(99.25)) == [99.25]


def test_no_two_runs_share_a_slot() -> None:
    job = follower()
    one, other = ended(9.5, name="one"), ended(9.5, name="other")
    job.poll(10, one)
    assert job.poll(10.1, one, other) == [9.500001]
    assert job.poll(10.2, one, other, ended(10, name="on the second")) == [10.000001]


def test_a_failed_poll_is_repeated_soon_and_a_successful_one_in_a_minute() -> None:
    job = follower()
    followed_runs.plan_poll(job.schedule, T)
    assert machine.wake_at(job.schedule) == T
    assert followed_runs.begin_poll(job.schedule, T)
    assert machine.wake_at(job.schedule) is None
    assert not followed_runs.begin_poll(job.schedule, T)
    followed_runs.poll_ended(job.schedule, None, T)
    assert machine.wake_at(job.schedule) == T + POLL_RETRY_DELAY
    assert followed_runs.begin_poll(job.schedule, T + POLL_RETRY_DELAY)
    followed_runs.poll_ended(job.schedule, [], T + POLL_RETRY_DELAY)
    assert machine.wake_at(job.schedule) == T + POLL_RETRY_DELAY + POLL_INTERVAL


@pytest.mark.parametrize("apart", [0, 3, 100_000])
def test_many_ends_are_taken_in_several_polls_and_none_is_lost(apart: int) -> None:
    job, count = follower(), 3 * MAX_ENDS + 7
    records = [
        replace(ended(100), run_id=f"r-{number}", finished=T + 100 * SECOND + apart * number) for number in range(count)
    ]
    started = polls = 0
    now = T + 200 * SECOND
    while polls == 0 or job.schedule.poll_at == now:
        followed_runs.plan_poll(job.schedule, now)
        assert followed_runs.begin_poll(job.schedule, now)
        followed_runs.poll_ended(job.schedule, records[::-1], now)
        assert len(job.state.upcoming) <= MAX_ENDS
        started, polls = started + len(job.state.upcoming), polls + 1
        job.state.upcoming = ()
    assert (started, polls) == (count, 4)


def test_a_touch_during_a_poll_causes_another() -> None:
    job = follower()
    followed_runs.plan_poll(job.schedule, T)
    assert followed_runs.begin_poll(job.schedule, T)
    followed_runs.plan_poll(job.schedule, T + 1)
    assert not followed_runs.begin_poll(job.schedule, T + 1)
    followed_runs.poll_ended(job.schedule, [], T + 2)
    assert followed_runs.begin_poll(job.schedule, T + 2)


def test_the_next_owner_repeats_a_poll_that_was_in_flight_at_the_release() -> None:
    job = follower()
    followed_runs.plan_poll(job.schedule, T)
    assert followed_runs.begin_poll(job.schedule, T)
    machine.prepare_release(job.schedule, T + 5)
    assert machine.wake_at(job.schedule) == T + 5


# ---------------------------------------------------------------- as any other slot


def test_last_runs_the_newest_of_several_missed_slots() -> None:
    job = follower()
    assert job.poll(60, ended(10), ended(20), ended(30), ended(59.9)) == [59.9]
    assert job.state.missed == 3


def test_all_runs_the_newest_few_one_after_the_other() -> None:
    job = follower(misfire=Misfire(CatchUp.ALL, 2))
    assert job.poll(60, ended(10.5), ended(20.5), ended(30.5)) == [20.5]
    assert job.state.missed == 1
    job.end(61)
    assert job.starts(61) == [30.5]


def test_slots_that_are_on_time_all_run() -> None:
    assert follower().poll(10, ended(9.2), ended(9.5), ended(9.7)) == [9.2, 9.5, 9.7]


def test_a_deadline() -> None:
    job = follower(misfire=Misfire(CatchUp.SKIP))
    assert job.poll(60, ended(49.9)) == []
    assert job.state.missed == 1


def test_concurrency() -> None:
    job = follower(concurrency=Concurrency.FORBID)
    assert job.poll(10, ended(9.5), ended(9.6)) == [9.5]
    assert job.state.skipped == 1
    job = follower(concurrency=Concurrency.REPLACE)
    assert job.poll(10, ended(9.5), ended(9.6)) == [9.6]
    assert job.state.missed == 1


def test_exclusions_and_bounds() -> None:
    window = ExcludeWindow(T + 20 * SECOND, T + 30 * SECOND)
    job = follower(exclude=(window,), start_at=T + 10 * SECOND, end_at=T + 40 * SECOND, misfire=Misfire(CatchUp.ALL))
    assert job.poll(45, ended(5), ended(25), ended(35.5), ended(41)) == [35.5]
    assert (job.state.excluded, job.state.missed) == (1, 0)
    job.end(46)
    job.at(40 + MAX_RECORD_DELAY / SECOND)
    assert job.state.completed is None
    job.at(41 + MAX_RECORD_DELAY / SECOND)
    assert job.state.completed is Completion.NO_SLOT


def test_max_runs() -> None:
    job = follower(max_runs=1)
    assert job.poll(10, ended(9.5), ended(9.6)) == [9.5]
    job.end(11)
    assert job.poll(12, ended(11.5)) == []
    assert job.state.completed is Completion.MAX_RUNS
    assert machine.wake_at(job.schedule) is None


def test_jitter_delays_a_slot() -> None:
    job = follower(jitter=30 * SECOND)
    assert job.poll(10, ended(9.5)) == []
    (run,) = job.state.upcoming
    assert machine.wake_at(job.schedule) == run.due > T + 10 * SECOND
    job.reload()
    assert job.starts((run.due - 1 - T) / SECOND) == []
    assert job.starts((run.due - T) / SECOND) == [9.5]
    assert job.state.upcoming == ()


def test_a_cron_trigger_and_a_followed_schedule_do_not_hide_each_others_slots() -> None:
    job = follower(triggers=(EveryTrigger(MINUTE, T), FollowingTrigger("extract")))
    assert job.poll(70, ended(69.5)) == [60, 69.5]
    assert sorted(job.poll(120.2, ended(119.5))) == [119.5, 120]
    assert {round(run.slot - T) for run in job.schedule.executing} == {
        60 * SECOND,
        69_500_000,
        119_500_000,
        120 * SECOND,
    }


# ---------------------------------------------------------------- edits, suspend, pause


@pytest.mark.parametrize("how", ["suspend", "pause", "edit", "add"])
def test_the_past_is_not_replayed(how: str) -> None:
    job = follower(pause_after_failures=1, retry=Exponential(max_retries=0), jitter=0)
    if how == "suspend":
        job.edit(1, suspend=True)
        job.at(20)
        job.edit(30, suspend=False)
    elif how == "pause":
        job.poll(2, ended(1.5))
        job.end(3, AttemptEnd.FAILED)
        assert paused(job)
        ask(job, 30, resume="r")
    elif how == "edit":
        job.edit(30, jitter=1)
    else:
        job = follower(triggers=(EveryTrigger(MINUTE, T),))
        job.edit(30, triggers=(FollowingTrigger("extract"),))
    assert job.poll(40, ended(20), ended(29.9)) == []
    assert job.poll(41, ended(20), ended(29.9), ended(40.5))[-1:] == [40.5]
    assert job.state.missed == 0


def test_there_is_no_poll_while_nothing_may_start() -> None:
    job = follower(suspend=True)
    followed_runs.plan_poll(job.schedule, T)
    assert machine.wake_at(job.schedule) is None
    job.edit(9, suspend=False)
    followed_runs.plan_poll(job.schedule, T + 9 * SECOND)
    assert machine.wake_at(job.schedule) == T + 9 * SECOND


# ---------------------------------------------------------------- however it comes


@given(
    st.lists(
        st.tuples(st.integers(0, 900), st.integers(0, MAX_RECORD_DELAY // SECOND - 1)), max_size=MAX_REMEMBERED_RUNS
    ),
    st.lists(st.integers(1, 240), min_size=1, max_size=12),
)
def test_each_end_is_decided_once_whenever_it_reaches_history(ends: list[tuple[int, int]], pauses: list[int]) -> None:
    job = follower()
    history = [
        (T + (at + 1 + late) * SECOND, ended(at + 0.25, name=f"{number}")) for number, (at, late) in enumerate(ends)
    ]
    should_poll = sorted({*accumulate(pauses), *(at + 1 + late for at, late in ends)})
    for look in should_poll:
        job.poll(look, *[record for there, record in history if there <= T + look * SECOND])
        job.reload()
        job.state.runs.clear()
        assert len(job.state.followed_ids) <= MAX_REMEMBERED_RUNS
    assert job.state.started + job.state.missed == len(ends)


# ---------------------------------------------------------------- chains


def test_a_run_carries_the_chain_of_jobs_that_led_to_it() -> None:
    job = follower()
    job.poll(10, replace(ended(9.5), chain="fetch"))
    job.reload()
    machine.recover(job.schedule, T + 10 * SECOND)
    job.at(11)
    record = job.end(12)
    assert record is not None
    assert record.chain == "fetch/extract"
    job.poll(20, ended(19.5))
    record = job.end(21)
    assert record is not None
    assert record.chain == "extract"


def test_jobs_that_follow_each_other_in_a_circle_stop() -> None:
    names = ("extract", "load")
    record, started = ended(1), 0
    for number in range(1, 100):
        job = follower(
            triggers=(FollowingTrigger(names[(number + 1) % 2]), FollowingTrigger(names[(number + 1) % 2], "Cancelled"))
        )
        job.schedule.slug = f"ns/{names[number % 2]}"
        if not job.poll(number + 1, record):
            break
        started += 1
        last = job.end(number + 1)
        assert last is not None
        record = last
    assert started == MAX_CHAIN
    (cut,) = job.records
    assert (cut.outcome, cut.started, job.state.cancelled, job.state.started) == (Outcome.CANCELLED, None, 1, 0)
    assert cut.reason.startswith(
        "16 runs have followed each other (load -> extract -> load), and no more are allowed: "
    )
    assert "remove the trigger `following` from one of them" in cut.reason
    end_of_chain = follower(triggers=(FollowingTrigger("load", "Cancelled"),))
    assert end_of_chain.poll(200, cut) == []
    assert end_of_chain.records == [], "nothing follows the end of a chain"


def test_a_chain_without_a_circle_is_named_by_its_end() -> None:
    job = follower()
    job.poll(10, replace(ended(9.5), chain="/".join(f"job-{number}" for number in range(MAX_CHAIN - 1))))
    assert len(job.starts(10)) == 0
    assert job.end(11) is not None
    job.poll(20, replace(ended(19.5), chain="/".join(f"job-{number}" for number in range(MAX_CHAIN))))
    assert "(job-13 -> job-14 -> job-15 -> extract -> load)" in job.records[-1].reason
