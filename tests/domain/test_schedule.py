"""What the resource promises about misfires, edits, pauses, completion and stored state, sentence by sentence."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from scheduledjob.domain.schedule import machine
from scheduledjob.domain.schedule.actions import AttemptEnd
from scheduledjob.domain.schedule.backoff import Exponential, Fixed
from scheduledjob.domain.schedule.definition import CatchUp, Concurrency, ExcludeWindow, Misfire
from scheduledjob.domain.schedule.machine import first_state, first_wake
from scheduledjob.domain.schedule.misfire import jitter_of
from scheduledjob.domain.schedule.plan import Plan, slots_of
from scheduledjob.domain.schedule.schedule import Schedule
from scheduledjob.domain.schedule.state import Completion, Outcome, Run, State
from scheduledjob.domain.time.instants import MINUTE, SECOND
from scheduledjob.domain.triggers.every import EveryTrigger
from scheduledjob.domain.triggers.following import FollowingTrigger
from scheduledjob.domain.triggers.once import AtTrigger

from .schedule_driver import Driver, T, defined

# ---------------------------------------------------------------- misfire


def late(rule: Misfire, **fields: Any) -> Driver:
    """A schedule of every minute that no replica claimed until five and a half minutes after its creation."""
    return Driver(defined(misfire=rule, concurrency=Concurrency.ALLOW, **fields))


def test_last_takes_the_newest_of_the_missed_slots() -> None:
    job = late(Misfire(CatchUp.LAST))
    assert job.starts(330) == [300]
    assert job.state.missed == 4


def test_without_a_deadline_there_is_no_limit() -> None:
    job = late(Misfire(CatchUp.LAST))
    assert job.starts(60 * 60 * 24 * 365 + 59) == [60 * 60 * 24 * 365]


def test_skip_is_eligible_for_ten_seconds() -> None:
    assert late(Misfire(CatchUp.SKIP)).starts(310) == [300]
    job = late(Misfire(CatchUp.SKIP))
    assert job.starts(310.000001) == []
    assert job.state.missed == 5
    assert job.starts(360) == [360]


def test_skip_takes_the_newest_within_its_deadline() -> None:
    assert late(Misfire(CatchUp.SKIP, 5, 10 * MINUTE)).starts(330) == [300]


def test_all_takes_the_newest_few_oldest_first() -> None:
    job = late(Misfire(CatchUp.ALL, 3))
    assert job.starts(330) == [180]
    assert [run.slot - T for run in job.state.waiting] == [240 * SECOND, 300 * SECOND]
    assert job.state.missed == 2


@pytest.mark.parametrize(("deadline", "taken"), [(150, [180, 240, 300]), (149, [240, 300]), (30, [300]), (29, [])])
def test_a_slot_is_eligible_while_it_is_no_later_than_its_deadline(deadline: int, taken: list[int]) -> None:
    job = late(Misfire(CatchUp.ALL, 9, deadline * SECOND))
    job.at(330)
    assert [(run.slot - T) // SECOND for run in (*job.state.runs, *job.state.waiting)] == taken
    assert job.state.missed == 5 - len(taken)


def test_with_a_deadline_of_zero_every_late_slot_is_missed() -> None:
    job = Driver(defined(misfire=Misfire(starting_deadline=0)))
    assert job.starts(60) == [60]
    job.end(61)
    assert job.starts(120.000001) == []
    assert job.state.missed == 1


def test_lateness_counts_from_the_jittered_time() -> None:
    jitter = 30 * SECOND
    due = 60 + jitter_of("u", T + MINUTE, jitter) / SECOND
    assert due > 60
    job = Driver(defined(jitter=jitter, misfire=Misfire(starting_deadline=0)))
    assert job.starts(due - 0.000001) == []
    assert job.starts(due) == [60]


def test_excluded_slots_are_counted_as_such() -> None:
    window = ExcludeWindow(T + 2 * MINUTE, T + 4 * MINUTE)
    job = late(Misfire(CatchUp.ALL), exclude=(window,))
    job.at(330)
    assert [(run.slot - T) // SECOND for run in (*job.state.runs, *job.state.waiting)] == [60, 240, 300]
    assert (job.state.excluded, job.state.missed) == (2, 0)


def test_excluded_slots_before_a_run_that_was_lost_are_counted() -> None:
    job = Driver(defined(exclude=(ExcludeWindow(T, T + 3 * MINUTE),)))
    job.at(10)
    job.die(190)
    assert [run.slot - T for run in job.state.runs] == [3 * MINUTE]
    assert job.state.excluded == 2


def test_a_named_first_slot_in_the_past_does_not_bring_back_others() -> None:
    job = Driver(defined(misfire=Misfire(CatchUp.ALL), concurrency=Concurrency.ALLOW), first=T - 10 * MINUTE)
    assert job.starts(1) == [-600]
    assert job.state.missed == 0
    assert job.starts(60) == [60]


def test_slots_before_a_named_first_slot_do_not_count() -> None:
    job = Driver(defined(), first=T + 150 * SECOND)
    assert job.starts(60) == []
    assert job.starts(150) == [150]
    job.end(151)
    assert job.starts(180) == [180]
    assert job.state.missed == 0


# ---------------------------------------------------------------- edits, suspend, pause


def test_an_edit_of_the_triggers_never_replays_the_past() -> None:
    job = Driver(defined())
    job.edit(330, triggers=(EveryTrigger(30 * SECOND, T),))
    assert job.starts(330) == []
    assert job.starts(360) == [360]
    assert job.state.missed == 0


def test_an_edit_of_anything_else_keeps_what_is_due() -> None:
    job = Driver(defined())
    job.edit(330, job={"command": "true"})
    assert job.starts(330) == [300]


def test_suspend_stops_new_slots_and_lets_active_runs_and_their_retries_finish() -> None:
    job = Driver(defined())
    job.at(60)
    job.edit(70, suspend=True)
    assert job.end(80, AttemptEnd.FAILED) is None
    assert job.starts(90) == [60]
    assert job.end(91) is not None
    assert job.starts(600) == []
    assert machine.wake_at(job.schedule) is None


def test_a_resume_never_replays_the_past() -> None:
    job = Driver(defined(suspend=True))
    assert job.starts(200) == []
    job.edit(330, suspend=False)
    assert job.starts(330) == []
    assert job.starts(360) == [360]


@pytest.mark.parametrize("close", ["suspend", "pause", "complete"])
def test_a_waiting_run_does_not_start_once_no_slot_may(close: str) -> None:
    job = Driver(defined(concurrency=Concurrency.QUEUE, pause_after_failures=1, retry=Exponential(max_retries=0)))
    job.at(60)
    job.at(120)
    assert len(job.state.waiting) == 1
    if close == "suspend":
        job.edit(130, suspend=True)
    job.end(140, {"suspend": AttemptEnd.SUCCEEDED, "pause": AttemptEnd.FAILED, "complete": AttemptEnd.COMPLETED}[close])
    assert job.starts(150) == []
    assert (job.state.waiting, job.state.skipped, job.state.started) == ([], 1, 1)


def test_failures_in_a_row_pause_unless_a_success_or_an_edit_is_between() -> None:
    job = Driver(defined(pause_after_failures=2, retry=Exponential(max_retries=0)))
    job.run(60, AttemptEnd.FAILED)
    job.run(120)
    job.run(180, AttemptEnd.FAILED)
    assert job.state.failures_in_row == 1
    job.run(240, AttemptEnd.FAILED)
    assert job.state.paused
    assert job.starts(300) == []
    assert machine.wake_at(job.schedule) is None
    job.edit(310)
    assert job.starts(330) == []  # nor does that replay the past
    assert job.starts(360) == [360]


def test_cancelled_runs_are_not_failures() -> None:
    job = Driver(defined(pause_after_failures=1))
    record = job.run(60, AttemptEnd.CANCELLED)
    assert record is not None
    assert record.outcome is Outcome.CANCELLED
    assert not job.state.paused
    assert job.state.failures_in_row == 0


# ---------------------------------------------------------------- completion, overdue


def test_completed_by_its_job_never_runs_again() -> None:
    job = Driver(defined())
    record = job.run(60, AttemptEnd.COMPLETED)
    assert record is not None
    assert record.outcome is Outcome.SUCCEEDED
    assert job.state.completed is Completion.JOB
    assert job.schedule.done
    job.edit(70, triggers=(EveryTrigger(SECOND, T),))
    assert job.starts(1000) == []
    assert machine.wake_at(job.schedule) is None


def test_a_revision_that_reopens_goes_on_after_its_job_completed_it_and_replays_nothing() -> None:
    job = Driver(defined())
    job.run(60, AttemptEnd.COMPLETED)
    machine.apply_revision(job.schedule, 2, T + 200 * SECOND, None)
    assert job.state.completed is Completion.JOB
    machine.apply_revision(job.schedule, 3, T + 200 * SECOND, None, reopen=True)
    assert job.starts(200) == []
    assert job.starts(240) == [240.0]


def test_max_runs_completes_once_the_last_has_ended() -> None:
    job = Driver(defined(max_runs=2))
    job.run(60)
    job.at(120)
    assert not job.schedule.done
    job.end(130)
    job.at(130)
    assert job.state.completed is Completion.MAX_RUNS
    job.edit(140, max_runs=3)
    assert job.starts(180) == [180]


def test_skipped_slots_do_not_count_for_max_runs() -> None:
    job = Driver(defined(max_runs=2))
    job.at(60)
    job.end(200)
    assert job.starts(240) == [240]


def test_a_schedule_without_a_further_slot_is_complete_until_an_edit_adds_one() -> None:
    job = Driver(defined(triggers=(AtTrigger(T + MINUTE),)))
    job.run(60)
    job.at(61)
    assert job.state.completed is Completion.NO_SLOT
    assert job.schedule.done
    job.edit(70, triggers=(AtTrigger(T + 2 * MINUTE),))
    assert job.starts(120) == [120]


def test_a_follower_never_completes_for_want_of_a_slot() -> None:
    job = Driver(defined(triggers=(FollowingTrigger("other"),)))
    job.at(1000)
    assert job.state.completed is None
    assert not job.schedule.done


def test_overdue_is_reported_once_until_a_success() -> None:
    job = Driver(defined(expect_success_within=90 * SECOND, retry=Exponential(max_retries=0)))
    job.run(60, AttemptEnd.FAILED)
    assert machine.wake_at(job.schedule) == T + 90 * SECOND
    assert job.at(90).became_overdue
    assert not job.at(91).became_overdue
    job.run(120)
    assert not job.state.overdue
    assert job.at(211).became_overdue


def test_a_new_schedule_is_claimed_in_time_to_become_overdue() -> None:
    """Its first slot may be far away, and nothing else would wake its row before that."""
    for within, looked_at in ((None, 3600), (60, 60), (7200, 3600)):
        more: dict[str, Any] = {} if within is None else {"expect_success_within": within * SECOND}
        definition = defined(triggers=(EveryTrigger(3600 * SECOND, T),), **more)
        state = first_state(definition, slots_of(Plan(definition), seed="s", created=T), "u", T)
        assert first_wake(definition, state, T) == T + looked_at * SECOND


def test_overdue_does_not_count_while_suspended_and_starts_again_at_the_resume() -> None:
    job = Driver(defined(expect_success_within=MINUTE, suspend=True))
    assert not job.at(500).became_overdue
    job.edit(500, suspend=False, triggers=(AtTrigger(T + 9000 * SECOND),))
    assert not job.at(559).became_overdue
    assert job.at(560).became_overdue


def test_an_edit_that_allows_more_time_ends_overdue_and_another_edit_does_not_report_it_again() -> None:
    job = Driver(defined(expect_success_within=MINUTE, triggers=(AtTrigger(T + 9000 * SECOND),)))
    assert job.at(60).became_overdue
    job.edit(70, job={})
    assert not job.at(71).became_overdue
    job.edit(80, expect_success_within=2 * MINUTE)
    assert not job.state.overdue
    assert job.at(120).became_overdue


# ---------------------------------------------------------------- what is stored


def test_an_unstored_run_does_not_start() -> None:
    job = Driver(defined())
    now = T + 150 * SECOND  # another slot than the planned one: the store knows nothing of it
    schedule = job.schedule
    assert machine.step(schedule, now).start == ()
    assert machine.awaits_write(schedule, now)
    schedule.writes.begin(schedule.state)
    assert machine.step(schedule, now).start == ()
    schedule.writes.answered()
    assert len(machine.step(schedule, now).start) == 1


def test_the_planned_slot_starts_without_another_write() -> None:
    job = Driver(defined())
    job.at(10)
    (run,) = machine.step(job.schedule, T + MINUTE).start
    assert (run.slot, run.attempt) == (T + MINUTE, 1)
    job.die(100)
    assert [(run.slot, run.attempt, run.lost) for run in job.state.runs] == [(T + MINUTE, 2, 1)]


def test_a_slot_that_replaces_a_run_in_backoff_is_stored_first() -> None:
    """In the store the run in backoff is before it, so the next owner would not know that it had started."""
    job = Driver(defined(concurrency=Concurrency.REPLACE, retry=Fixed([500.0])))
    job.run(60, AttemptEnd.FAILED)
    job.at(61)
    assert machine.step(job.schedule, T + 2 * MINUTE).start == ()
    assert machine.awaits_write(job.schedule, T + 2 * MINUTE)


def test_jitter_is_stable_and_spread() -> None:
    puts = [jitter_of("u", T + n * MINUTE, 30 * SECOND) for n in range(2000)]
    assert puts == [jitter_of("u", T + n * MINUTE, 30 * SECOND) for n in range(2000)]
    assert min(puts) >= 0
    assert max(puts) <= 30 * SECOND
    for tenth in range(10):
        among = sum(tenth * 3 * SECOND <= put < (tenth + 1) * 3 * SECOND for put in puts)
        assert 140 < among < 260
    assert jitter_of("other", T, 30 * SECOND) != jitter_of("u", T, 30 * SECOND)


def test_a_manual_run_does_not_count_for_max_runs() -> None:
    job = Driver(defined(concurrency=Concurrency.QUEUE))
    job.at(60)
    job.state.waiting.append(Run(slot=T + 61 * SECOND, due=T + 61 * SECOND, token="by hand"))
    job.edit(70, suspend=True)
    job.end(80)
    (run,) = job.at(80).start
    assert run.token == "by hand"
    assert job.state.started == 1


def test_after_an_edit_of_the_policy_a_slot_that_may_have_started_waits_as_its_next_attempt() -> None:
    job = Driver(defined(concurrency=Concurrency.ALLOW))
    assert job.starts(60) == [60]
    stored = State.decode(job.state.encode())  # with the slot of the second minute planned beside the first
    edited = msgspec.structs.replace(job.definition, concurrency=Concurrency.FORBID)
    heir = Schedule("s", "u", edited, slots_of(Plan(edited), seed="s", created=T), stored, "other")
    machine.recover(heir, T + 125 * SECOND, edited=True)
    assert [(run.slot - T, run.attempt) for run in heir.state.runs] == [(60 * SECOND, 2)]
    assert [(run.slot - T, run.attempt) for run in heir.state.waiting] == [(120 * SECOND, 2)]


def test_a_planned_slot_behind_a_waiting_run_did_not_start_under_a_dead_owner() -> None:
    """To start it would have taken a write: the waiting run is before it."""
    job = Driver(defined(concurrency=Concurrency.QUEUE, queue_depth=3))
    job.write()
    state = State.decode(job.state.encode())
    assert state.next is not None
    waiting = Run(slot=state.next.slot - 1, due=state.next.slot - 1)
    state.waiting.append(waiting)
    heir = Schedule("s", "u", job.definition, job.schedule.slots, state, "other")
    machine.recover(heir, state.next.due)
    assert heir.state.next is not None
    assert (heir.state.next.attempt, heir.state.next.lost, heir.state.runs) == (1, 0, [])
