"""Detached attempts survive their replica: the next owner adopts them, and a cancellation waits for their end."""

from __future__ import annotations

from scheduledjob.domain.schedule import machine
from scheduledjob.domain.schedule.actions import AttemptEnd
from scheduledjob.domain.schedule.backoff import Fixed
from scheduledjob.domain.schedule.definition import Concurrency, Timeouts
from scheduledjob.domain.schedule.machine import first_state
from scheduledjob.domain.schedule.plan import Plan, slots_of
from scheduledjob.domain.schedule.requests import Requests
from scheduledjob.domain.schedule.runs import MAX_LOST_IN_ROW
from scheduledjob.domain.schedule.schedule import Schedule
from scheduledjob.domain.schedule.state import Outcome, Run, State
from scheduledjob.domain.time.instants import MINUTE, SECOND

from .schedule_driver import Driver, T, defined
from .test_requests import records


class PodDriver(Driver):
    """A schedule whose attempts are Pods."""

    def __post_init__(self) -> None:
        slots = slots_of(Plan(self.definition), seed="s", created=T)
        state = first_state(self.definition, slots, "u", T, detached=True)
        self.schedule = Schedule("s", "u", self.definition, slots, state, "me", detached=True)

    def die(self, seconds: float, *, detached: bool = True) -> None:
        old = self.schedule
        state = State.decode(old.state.encode())
        self.schedule = Schedule("s", "u", old.definition, old.slots, state, "other", detached=detached)
        machine.recover(self.schedule, T + round(seconds * SECOND))


def now_at(seconds: float) -> int:
    return T + round(seconds * SECOND)


def seen(run: Run) -> tuple[float, int, int, bool]:
    return (run.slot - T) / SECOND, run.attempt, run.lost, run.adoptable


def test_a_planned_slot_that_was_due_under_a_dead_owner_is_adopted_at_once() -> None:
    job = PodDriver(defined())
    job.at(10)
    stored = job.state.encode()
    assert job.starts(60) == [60]
    for seconds in range(100, 100 + 2 * MAX_LOST_IN_ROW):
        job.schedule.state = State.decode(stored)
        job.die(seconds)
        # Without a write between: the next owner would do the same with what is stored.
        (run,) = machine.step(job.schedule, now_at(seconds)).start
        assert seen(run) == (60, 1, 0, True)
        assert run.begun == T + MINUTE


def test_an_active_run_keeps_its_attempt_however_often_its_owner_dies() -> None:
    job = PodDriver(defined(retry=Fixed([5.0])))
    job.run(60, AttemptEnd.FAILED)
    assert len(job.at(70).start) == 1
    for seconds in range(100, 100 + 2 * MAX_LOST_IN_ROW):
        job.die(seconds)
        assert [seen(run) for run in job.at(seconds).start] == [(60, 2, 0, True)]
    record = job.end(200, where="a-pod")
    assert record is not None
    assert (record.attempt, record.replica, record.started) == (2, "a-pod", T + MINUTE)


def test_a_run_that_has_not_started_is_not_adoptable() -> None:
    job = PodDriver(defined(retry=Fixed([500.0])))
    job.run(60, AttemptEnd.FAILED)
    job.at(70)
    job.die(100)
    assert [seen(run) for run in job.state.runs] == [(60, 2, 0, False)]


def test_a_replica_that_shuts_down_releases_its_attempts_due_at_once() -> None:
    job = PodDriver(defined())
    job.at(60)
    assert job.end(70, AttemptEnd.LOST) is None
    machine.prepare_release(job.schedule, now_at(70))
    assert machine.wake_at(job.schedule) == T + MINUTE
    state = State.decode(job.schedule.writes.begin(job.schedule.state)[0])
    heir = Schedule("s", "u", job.definition, job.schedule.slots, state, "other", detached=True)
    assert [seen(run) for run in machine.step(heir, now_at(71)).start] == [(60, 1, 0, True)]


def test_the_next_attempt_is_a_new_one() -> None:
    job = PodDriver(defined(retry=Fixed([5.0])))
    job.at(60)
    job.die(80)
    job.at(80)
    assert job.end(90, AttemptEnd.FAILED) is None
    assert [seen(run) for run in job.state.runs] == [(60, 2, 0, False)]


def test_an_edit_to_a_job_inside_the_replica_and_back() -> None:
    job = PodDriver(defined())
    job.at(60)
    job.die(100, detached=False)
    assert [(*seen(run), run.detached) for run in job.state.runs] == [(60, 2, 1, False, False)]
    job.at(100)
    job.die(120, detached=True)
    assert [(*seen(run), run.detached) for run in job.state.runs] == [(60, 3, 2, False, True)]


def test_an_attempt_that_has_not_started_follows_an_edit_of_the_kind_once_that_is_stored() -> None:
    job = PodDriver(defined())
    job.at(10)
    job.schedule.detached = False
    assert machine.step(job.schedule, now_at(60)).start == ()
    assert machine.awaits_write(job.schedule, now_at(60))
    job.schedule.writes.begin(job.schedule.state)
    job.schedule.writes.answered()
    (run,) = machine.step(job.schedule, now_at(60)).start
    assert (run.attempt, run.detached) == (1, False)


def test_an_adoptable_attempt_is_lost_if_the_job_is_no_longer_detached() -> None:
    job = PodDriver(defined())
    job.at(60)
    job.end(70, AttemptEnd.LOST)
    job.schedule.detached = False
    job.at(71)
    assert [(run.attempt, run.lost, run.detached) for run in job.state.runs] == [(2, 1, False)]


# ---------------------------------------------------------------- timeouts.total


def test_total_ends_a_retry_that_has_not_started_but_not_one_that_has() -> None:
    job = PodDriver(defined(timeouts=Timeouts(total=30 * SECOND)))
    job.at(60)
    job.die(100)
    (run,) = job.at(100).start  # its executor gets no time, and ends the Pod
    assert (run.attempt, run.begun) == (1, T + MINUTE)
    record = job.end(101, AttemptEnd.FAILED, reason="timed out")
    assert record is not None
    assert record.outcome is Outcome.FAILED


# ---------------------------------------------------------------- cancelling


def test_a_cancelled_run_stays_until_its_end_is_confirmed() -> None:
    job = PodDriver(defined(concurrency=Concurrency.REPLACE))
    job.at(60)
    actions = job.at(120)
    assert [run.cancel_reason for run in actions.cancel] == ["replaced by the slot 2026-09-21T14:15:20Z"]
    job.die(150)
    (again,) = job.at(150).start
    assert (again.attempt, again.cancel_reason) == (1, "replaced by the slot 2026-09-21T14:15:20Z")
    assert [run.slot - T for run in job.state.waiting] == [2 * MINUTE]
    assert job.end(151, AttemptEnd.LOST) is None  # its executor could not say
    (again,) = job.at(152).start
    assert again.cancel_reason
    record = job.end(153, AttemptEnd.CANCELLED)
    assert record is not None
    assert (record.outcome, record.reason) == (Outcome.CANCELLED, "replaced by the slot 2026-09-21T14:15:20Z")
    assert job.starts(153) == [120]


def test_a_cancelled_adoptable_attempt_is_returned_so_that_it_is_stopped() -> None:
    job = PodDriver(defined())
    job.at(60)
    job.die(100)
    machine.request(job.schedule, Requests(cancel=f"u-{T + MINUTE}"), T)
    actions = machine.step(job.schedule, now_at(100))
    assert actions.cancel == ()
    assert [run.cancel_reason for run in actions.start] == ["cancelled by hand"]
    assert records(job) == []


def test_a_run_that_may_have_started_under_an_edited_policy_waits_and_is_never_dropped() -> None:
    job = PodDriver(defined(concurrency=Concurrency.ALLOW))
    job.at(60)
    stored = State.decode(job.state.encode())
    forbids = defined()
    heir = Schedule("s", "u", forbids, slots_of(Plan(forbids), seed="s", created=T), stored, "other", detached=True)
    machine.recover(heir, now_at(125), edited=True)
    assert [seen(run) for run in heir.state.runs] == [(60, 1, 0, True)]
    assert [seen(run) for run in heir.state.waiting] == [(120, 1, 0, True)]
    machine.replace_definition(heir, defined(suspend=True), heir.slots, detached=True)
    machine.apply_revision(heir, 2, now_at(125), None)
    assert len(heir.state.waiting) == 1
    machine.request(heir, Requests(cancel=f"u-{T + 2 * MINUTE}"), T)
    given = machine.step(heir, now_at(126)).start
    assert [(run.slot - T, run.cancel_reason) for run in given] == [(MINUTE, ""), (2 * MINUTE, "cancelled by hand")]
