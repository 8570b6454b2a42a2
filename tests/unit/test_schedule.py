"""What the resource promises of misfires, concurrency, retries and completion, sentence by sentence."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from scheduledjob.domain.backoff import Exponential, Fixed
from scheduledjob.domain.definition import (
    AtTrigger,
    CatchUp,
    Concurrency,
    Definition,
    EveryTrigger,
    ExcludeWindow,
    FollowingTrigger,
    Misfire,
    Timeouts,
)
from scheduledjob.domain.instants import MINUTE, SECOND, Instant
from scheduledjob.domain.misfire import jitter_of
from scheduledjob.domain.moves import End, Moves
from scheduledjob.domain.plan import Plan, slots_of
from scheduledjob.domain.schedule import Schedule, first_state, first_wake
from scheduledjob.domain.state import Completion, Outcome, Run, RunRecord, State

T: Instant = 1_790_000_000 * SECOND
"""When the schedules here are created; a whole minute."""
EVERY_MINUTE = (EveryTrigger(MINUTE, T),)


def defined(**fields: Any) -> Definition:
    return Definition(**{"kind": "k", "triggers": EVERY_MINUTE} | fields)


@dataclass
class Driver:
    """A schedule whose every write arrives at once; time is in seconds after ``T``."""

    definition: Definition
    first: Instant | None = None
    schedule: Schedule = field(init=False)
    revision: int = 1

    def __post_init__(self) -> None:
        slots = slots_of(Plan(self.definition), seed="s", created=T)
        state = first_state(self.definition, slots, "u", T, self.first)
        self.schedule = Schedule("s", "u", self.definition, slots, state, "me")

    @property
    def state(self) -> State:
        return self.schedule.state

    def at(self, seconds: float) -> Moves:
        """Everything that is due at that time is started and stored."""
        now = T + round(seconds * SECOND)
        moves = self.schedule.step(now)
        started = moves.start
        for run in started:
            self.schedule.began(run, now)
        while (wake := self.schedule.wake()) is not None and wake <= now:
            self.schedule.snapshot()
            self.schedule.stored()
            more = self.schedule.step(now)
            for run in more.start:
                self.schedule.began(run, now)
            started = (*started, *more.start)
            if self.schedule.look_at is not None and self.schedule.look_at <= now:
                break  # that is for whoever looks
        self.schedule.snapshot()
        self.schedule.stored()
        return Moves(started, moves.cancel, moves.became_overdue)

    def starts(self, seconds: float) -> list[float]:
        """The slots, in seconds after ``T``, of the runs that start at that time."""
        return [(run.slot - T) / SECOND for run in self.at(seconds).start]

    def end(self, seconds: float, end: End = End.SUCCEEDED, which: int = 0, **details: Any) -> RunRecord | None:
        run = self.schedule.executing[which]
        return self.schedule.ended(run, end, T + round(seconds * SECOND), **details)

    def run(self, seconds: float, end: End = End.SUCCEEDED) -> RunRecord | None:
        """One attempt that starts at that time and ends a second later."""
        assert len(self.at(seconds).start) == 1
        return self.end(seconds + 1, end)

    def edit(self, seconds: float, **changes: Any) -> None:
        self.definition = msgspec.structs.replace(self.definition, **changes)
        self.revision += 1
        self.schedule.rewish(self.definition, slots_of(Plan(self.definition), seed="s", created=T))
        self.schedule.edited(self.revision, T + round(seconds * SECOND), None)

    def die(self, seconds: float) -> None:
        """The owner dies, and somebody takes over what had been stored last."""
        old = self.schedule
        self.schedule = Schedule("s", "u", old.definition, old.slots, State.decode(old.state.encode()), "other")
        self.schedule.taken_over(T + round(seconds * SECOND))


# ---------------------------------------------------------------- misfire


def late(rule: Misfire, **fields: Any) -> Driver:
    """A schedule of every minute of which nobody took care until five minutes and a half after its creation."""
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


def test_a_deadline_of_nothing_misses_what_is_late_at_all() -> None:
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


def test_a_named_first_slot_in_the_past_brings_no_other_back() -> None:
    job = Driver(defined(misfire=Misfire(CatchUp.ALL), concurrency=Concurrency.ALLOW), first=T - 10 * MINUTE)
    assert job.starts(1) == [-600]
    assert job.state.missed == 0
    assert job.starts(60) == [60]


def test_the_triggers_slots_before_a_named_first_one_are_none() -> None:
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
    assert job.end(80, End.FAILED) is None
    assert job.starts(90) == [60]
    assert job.end(91) is not None
    assert job.starts(600) == []
    assert job.schedule.wake() is None


def test_a_resume_never_replays_the_past() -> None:
    job = Driver(defined(suspend=True))
    assert job.starts(200) == []
    job.edit(330, suspend=False)
    assert job.starts(330) == []
    assert job.starts(360) == [360]


@pytest.mark.parametrize("close", ["suspend", "pause", "complete"])
def test_what_waits_does_not_start_once_no_slot_may(close: str) -> None:
    job = Driver(defined(concurrency=Concurrency.QUEUE, pause_after_failures=1, retry=Exponential(max_retries=0)))
    job.at(60)
    job.at(120)
    assert len(job.state.waiting) == 1
    if close == "suspend":
        job.edit(130, suspend=True)
    job.end(140, {"suspend": End.SUCCEEDED, "pause": End.FAILED, "complete": End.COMPLETED}[close])
    assert job.starts(150) == []
    assert (job.state.waiting, job.state.skipped, job.state.started) == ([], 1, 1)


def test_failures_in_a_row_pause_and_an_edit_or_a_success_between_does_not() -> None:
    job = Driver(defined(pause_after_failures=2, retry=Exponential(max_retries=0)))
    job.run(60, End.FAILED)
    job.run(120)
    job.run(180, End.FAILED)
    assert job.state.failures_in_row == 1
    job.run(240, End.FAILED)
    assert job.state.paused
    assert job.starts(300) == []
    assert job.schedule.wake() is None
    job.edit(310)
    assert job.starts(330) == []  # nor does that replay the past
    assert job.starts(360) == [360]


def test_cancelled_runs_are_no_failures() -> None:
    job = Driver(defined(pause_after_failures=1))
    record = job.run(60, End.CANCELLED)
    assert record is not None
    assert record.outcome is Outcome.CANCELLED
    assert not job.state.paused
    assert job.state.failures_in_row == 0


# ---------------------------------------------------------------- concurrency


def test_forbid_consumes_what_comes_due_meanwhile() -> None:
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
    job.end(200, End.FAILED)
    assert job.state.skipped == 2
    job = Driver(defined())
    job.at(60)
    job.end(200, End.COMPLETED)
    assert job.state.skipped == 2


def test_a_run_in_backoff_is_active() -> None:
    job = Driver(defined(retry=Fixed([200.0])))
    job.run(60, End.FAILED)
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


def test_queue_runs_as_many_at_once_as_it_may() -> None:
    job = Driver(defined(concurrency=Concurrency.QUEUE, max_concurrent=2, queue_depth=0))
    assert job.starts(60) == [60]
    assert job.starts(120) == [120]
    assert job.starts(180) == []
    assert job.state.skipped == 1


def test_replace_cancels_waits_for_the_end_and_starts_the_newest() -> None:
    job = Driver(defined(concurrency=Concurrency.REPLACE))
    job.at(60)
    moves = job.at(120)
    assert [(run.slot - T) // SECOND for run in moves.cancel] == [60]
    assert moves.start == ()
    job.at(180)
    record = job.end(190, End.FAILED)
    assert record is not None
    assert record.outcome is Outcome.CANCELLED
    assert job.starts(190) == [180]
    assert job.state.skipped == 1


def test_replace_ends_a_run_in_backoff_at_once() -> None:
    job = Driver(defined(concurrency=Concurrency.REPLACE, retry=Fixed([500.0])))
    job.run(60, End.FAILED)
    assert job.starts(120) == [120]
    assert [record.outcome for record in job.schedule.records] == [Outcome.CANCELLED]


def test_replace_keeps_a_run_that_ended_well_while_it_was_being_cancelled() -> None:
    job = Driver(defined(concurrency=Concurrency.REPLACE))
    job.at(60)
    job.at(120)
    record = job.end(121, End.SUCCEEDED)
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


def test_of_slots_caught_up_replace_runs_the_newest_only() -> None:
    job = Driver(defined(misfire=Misfire(CatchUp.ALL), concurrency=Concurrency.REPLACE))
    assert job.starts(330) == [300]
    assert job.state.missed == 4
    job = Driver(defined(misfire=Misfire(CatchUp.ALL), concurrency=Concurrency.REPLACE, max_runs=1))
    assert job.starts(330) == [300]


# ---------------------------------------------------------------- retry and timeouts


def attempts(job: Driver, most: int = 20) -> tuple[list[float], RunRecord | None]:
    """How long each retry waited, until the run failed for good or so many attempts had been made."""
    now, waits = 60.0, list[float]()
    for _ in range(most):
        assert len(job.at(now).start) == 1
        record = job.end(now, End.FAILED, reason="exit code 1")
        if record is not None:
            return waits, record
        due = (job.state.runs[0].due - T) / SECOND
        waits.append(due - now)
        now = due
    return waits, None


def test_after_the_last_retry_the_run_has_failed_and_the_schedule_goes_on() -> None:
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


def test_no_retry_that_the_total_leaves_no_time_for() -> None:
    job = Driver(defined(retry=Fixed([10.0], max_retries=9), timeouts=Timeouts(total=25 * SECOND)))
    waits, record = attempts(job)
    assert waits == [10, 10]
    assert record is not None
    assert "timeouts.total" in record.reason


def test_total_counts_from_the_first_start_through_losses() -> None:
    job = Driver(defined(timeouts=Timeouts(total=100 * SECOND), retry=Exponential(max_retries=-1)))
    job.at(60)
    job.die(161)
    assert job.starts(161) == []
    (record,) = job.schedule.records
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
    (record,) = job.schedule.records
    assert (record.outcome, record.attempt) == (Outcome.FAILED, 5)
    assert "OwnerLost" in record.reason


def test_lost_attempts_use_up_no_retries_and_count_in_a_row_only() -> None:
    job = Driver(defined(retry=Fixed([1.0, 1.0, 1.0])))
    now = 60.0
    for _ in range(3):
        for _ in range(4):
            assert len(job.at(now).start) == 1
            assert job.end(now, End.LOST) is None
        assert len(job.at(now).start) == 1
        assert job.end(now, End.FAILED) is None
        now += 1
    (run,) = job.at(now).start
    assert (run.attempt, run.failed) == (16, 3)
    assert job.end(now, End.FAILED) is not None


def test_what_is_handed_back_before_it_began_keeps_its_attempt() -> None:
    job = Driver(defined())
    job.at(10)
    other = Schedule("s", "u", job.definition, job.schedule.slots, State.decode(job.state.encode()))
    (run,) = other.step(T + MINUTE).start
    assert run.attempt == 1


# ---------------------------------------------------------------- completion, overdue


def test_completed_by_its_job_never_runs_again() -> None:
    job = Driver(defined())
    record = job.run(60, End.COMPLETED)
    assert record is not None
    assert record.outcome is Outcome.SUCCEEDED
    assert job.state.completed is Completion.JOB
    assert job.schedule.done
    job.edit(70, triggers=(EveryTrigger(SECOND, T),))
    assert job.starts(1000) == []
    assert job.schedule.wake() is None


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


def test_skipped_slots_are_no_runs_of_max_runs() -> None:
    job = Driver(defined(max_runs=2))
    job.at(60)
    job.end(200)
    assert job.starts(240) == [240]


def test_no_further_slot_completes_until_an_edit_brings_one() -> None:
    job = Driver(defined(triggers=(AtTrigger(T + MINUTE),)))
    job.run(60)
    job.at(61)
    assert job.state.completed is Completion.NO_SLOT
    assert job.schedule.done
    job.edit(70, triggers=(AtTrigger(T + 2 * MINUTE),))
    assert job.starts(120) == [120]


def test_what_follows_another_waits_for_ever() -> None:
    job = Driver(defined(triggers=(FollowingTrigger("other"),)))
    job.at(1000)
    assert job.state.completed is None
    assert not job.schedule.done


def test_overdue_is_said_once_until_a_success() -> None:
    job = Driver(defined(expect_success_within=90 * SECOND, retry=Exponential(max_retries=0)))
    job.run(60, End.FAILED)
    assert job.schedule.wake() == T + 90 * SECOND
    assert job.at(90).became_overdue
    assert not job.at(91).became_overdue
    job.run(120)
    assert not job.state.overdue
    assert job.at(211).became_overdue


def test_a_new_schedule_is_looked_at_in_time_to_be_overdue() -> None:
    """Its first slot may be far away, and nobody else would come before it."""
    for within, looked_at in ((None, 3600), (60, 60), (7200, 3600)):
        more: dict[str, Any] = {} if within is None else {"expect_success_within": within * SECOND}
        definition = defined(triggers=(EveryTrigger(3600 * SECOND, T),), **more)
        state = first_state(definition, slots_of(Plan(definition), seed="s", created=T), "u", T)
        assert first_wake(definition, state, T) == T + looked_at * SECOND


def test_overdue_does_not_count_while_suspended_and_starts_anew_after() -> None:
    job = Driver(defined(expect_success_within=MINUTE, suspend=True))
    assert not job.at(500).became_overdue
    job.edit(500, suspend=False, triggers=(AtTrigger(T + 9000 * SECOND),))
    assert not job.at(559).became_overdue
    assert job.at(560).became_overdue


def test_an_edit_that_gives_more_time_ends_overdue_and_another_does_not_say_it_again() -> None:
    job = Driver(defined(expect_success_within=MINUTE, triggers=(AtTrigger(T + 9000 * SECOND),)))
    assert job.at(60).became_overdue
    job.edit(70, job={})
    assert not job.at(71).became_overdue
    job.edit(80, expect_success_within=2 * MINUTE)
    assert not job.state.overdue
    assert job.at(120).became_overdue


# ---------------------------------------------------------------- what is stored


def test_a_fresh_run_does_not_start_before_it_is_stored() -> None:
    job = Driver(defined())
    now = T + 150 * SECOND  # another slot than the planned one: the store knows nothing of it
    schedule = job.schedule
    assert schedule.step(now).start == ()
    assert schedule.blocked(now)
    schedule.snapshot()
    assert schedule.step(now).start == ()
    schedule.stored()
    assert len(schedule.step(now).start) == 1


def test_the_planned_slot_starts_without_another_write() -> None:
    job = Driver(defined())
    job.at(10)
    (run,) = job.schedule.step(T + MINUTE).start
    assert (run.slot, run.attempt) == (T + MINUTE, 1)
    job.die(100)
    assert [(run.slot, run.attempt, run.lost) for run in job.state.runs] == [(T + MINUTE, 2, 1)]


def test_a_slot_that_replaces_a_run_in_backoff_is_stored_first() -> None:
    """In the store the run in backoff stands before it: a successor would not know that it had begun."""
    job = Driver(defined(concurrency=Concurrency.REPLACE, retry=Fixed([500.0])))
    job.run(60, End.FAILED)
    job.at(61)
    assert job.schedule.step(T + 2 * MINUTE).start == ()
    assert job.schedule.blocked(T + 2 * MINUTE)


def test_jitter_is_stable_and_spread() -> None:
    puts = [jitter_of("u", T + n * MINUTE, 30 * SECOND) for n in range(2000)]
    assert puts == [jitter_of("u", T + n * MINUTE, 30 * SECOND) for n in range(2000)]
    assert min(puts) >= 0
    assert max(puts) <= 30 * SECOND
    for tenth in range(10):
        among = sum(tenth * 3 * SECOND <= put < (tenth + 1) * 3 * SECOND for put in puts)
        assert 140 < among < 260
    assert jitter_of("other", T, 30 * SECOND) != jitter_of("u", T, 30 * SECOND)


def test_a_manual_run_moves_no_count_of_max_runs() -> None:
    job = Driver(defined(concurrency=Concurrency.QUEUE))
    job.at(60)
    job.state.waiting.append(Run(slot=T + 61 * SECOND, due=T + 61 * SECOND, token="by hand"))
    job.edit(70, suspend=True)
    job.end(80)
    (run,) = job.at(80).start
    assert run.token == "by hand"
    assert job.state.started == 1


def test_under_an_edited_policy_a_slot_that_may_have_begun_waits_as_its_next_attempt() -> None:
    job = Driver(defined(concurrency=Concurrency.ALLOW))
    assert job.starts(60) == [60]
    stored = State.decode(job.state.encode())  # with the slot of the second minute planned beside the first
    edited = msgspec.structs.replace(job.definition, concurrency=Concurrency.FORBID)
    heir = Schedule("s", "u", edited, slots_of(Plan(edited), seed="s", created=T), stored, "other")
    heir.taken_over(T + 125 * SECOND, edited=True)
    assert [(run.slot - T, run.attempt) for run in heir.state.runs] == [(60 * SECOND, 2)]
    assert [(run.slot - T, run.attempt) for run in heir.state.waiting] == [(120 * SECOND, 2)]
