"""Manual requests: each counts once, and a manual run obeys the policy and decides no slot."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduledjob.domain.schedule import machine
from scheduledjob.domain.schedule.actions import AttemptEnd
from scheduledjob.domain.schedule.backoff import Exponential, Fixed
from scheduledjob.domain.schedule.definition import Concurrency, Timeouts
from scheduledjob.domain.schedule.machine import MAX_REMEMBERED_REQUESTS
from scheduledjob.domain.schedule.requests import MAX_EARLIER, MAX_PAYLOADS, MAX_TOKENS, Requests, merged
from scheduledjob.domain.schedule.state import Completion, Outcome, Run, RunRecord, State, run_id
from scheduledjob.domain.time.instants import MINUTE, SECOND
from scheduledjob.domain.triggers.manual import ManualTrigger
from scheduledjob.domain.triggers.once import AtTrigger

from .schedule_driver import Driver, T, defined


def ask(job: Driver, seconds: float, **requests: object) -> list[str]:
    """Make requests, and return the tokens (or slots) of the runs that start."""
    now = T + round(seconds * SECOND)
    machine.request(job.schedule, Requests(**requests), now)  # type: ignore[arg-type]
    return [run.token or str(run.slot - T) for run in job.at(seconds).start]


def paused(job: Driver) -> bool:
    return job.state.paused


def records(job: Driver) -> list[RunRecord]:
    """Return the records of the runs that ended since the last call."""
    job.write()
    records, job.written = job.written, []
    return records


# ---------------------------------------------------------------- run-now


def test_a_run_now_starts_at_once_and_once() -> None:
    job = Driver(defined())
    decided_until = job.state.decided_until
    assert ask(job, 10, run="a", payload=b"mine") == ["a"]
    (run,) = job.state.runs
    assert (run.slot, run.due, run.attempt, run.payload) == (T + 10 * SECOND, T + 10 * SECOND, 1, b"mine")
    assert job.state.handled == ("run-now/a",)
    record = job.end(11)
    assert record is not None
    assert (record.run_id, record.manual) == ("u-a", True)
    assert ask(job, 12, run="a", payload=b"mine") == []
    assert (job.state.decided_until, job.state.started, job.state.last_schedule) == (decided_until, 0, None)
    assert job.starts(60) == [60]


def test_a_run_now_starts_only_once_it_is_stored() -> None:
    job = Driver(defined())
    machine.request(job.schedule, Requests(run="a"), T)
    assert machine.wake_at(job.schedule) == T
    assert machine.step(job.schedule, T).start == ()
    assert machine.awaits_write(job.schedule, T)
    assert "run-now/a" in State.decode(job.schedule.writes.begin(job.schedule.state)[0]).handled
    job.schedule.writes.answered()
    assert len(machine.step(job.schedule, T).start) == 1


def test_a_request_is_not_lost_if_the_row_is_released_before_it_is_handled() -> None:
    job = Driver(defined(suspend=True))
    machine.request(job.schedule, Requests(run="a"), T + 5)
    machine.prepare_release(job.schedule, T + 9)
    assert machine.wake_at(job.schedule) == T + 5
    assert State.decode(job.schedule.writes.begin(job.schedule.state)[0]).handled == ()


@pytest.mark.parametrize("closed", ["suspend", "pause", "max runs", "no slot"])
def test_a_run_now_works_while_no_slot_may_start(closed: str) -> None:
    job = Driver(defined(pause_after_failures=1, retry=Exponential(max_retries=0)))
    if closed == "suspend":
        job.edit(1, suspend=True)
    elif closed == "pause":
        job.run(60, AttemptEnd.FAILED)
    elif closed == "max runs":
        job.edit(1, max_runs=1)
        job.run(60)
    else:
        job.edit(1, triggers=(AtTrigger(T + MINUTE),))
        job.run(60)
    job.at(62)
    assert not job.schedule.open
    assert ask(job, 70, run="a") == ["a"]
    assert job.end(71) is not None


@pytest.mark.parametrize("edited", [False, True])
def test_a_schedule_that_runs_only_by_hand_is_never_completed(edited: bool) -> None:
    job = Driver(defined(triggers=(AtTrigger(T + MINUTE),) if edited else (ManualTrigger(),), max_runs=2))
    if edited:
        job.run(60)
        job.at(62)
        assert job.state.completed is Completion.NO_SLOT
        job.edit(65, triggers=(ManualTrigger(),), max_runs=2)
    assert job.starts(66) == []
    for number in range(3):  # runs by hand don't count for maxRuns
        assert ask(job, 70 + 10 * number, run=str(number)) == [str(number)]
        job.end(71 + 10 * number)
        assert job.schedule.open
        assert job.state.next is None
        assert machine.wake_at(job.schedule) is None


def test_a_manual_trigger_keeps_a_schedule_whose_other_triggers_are_out_of_slots() -> None:
    job = Driver(defined(triggers=(AtTrigger(T + MINUTE), ManualTrigger())))
    job.run(60)
    assert job.starts(62) == []
    assert job.schedule.open
    assert ask(job, 70, run="a") == ["a"]
    job.end(71)
    job.edit(80, suspend=True, triggers=(ManualTrigger(),))
    assert ask(job, 90, run="b") == ["b"]


def test_a_manual_trigger_does_not_outlast_max_runs() -> None:
    job = Driver(defined(triggers=(AtTrigger(T + MINUTE), ManualTrigger()), max_runs=1))
    job.run(60)
    job.at(62)
    assert job.state.completed is Completion.MAX_RUNS


def test_a_run_now_on_a_schedule_that_its_job_completed_is_cancelled() -> None:
    job = Driver(defined())
    job.run(60, AttemptEnd.COMPLETED)
    assert len(records(job)) == 1
    machine.request(job.schedule, Requests(run="a"), T)
    assert machine.step(job.schedule, T + 70 * SECOND).start == ()
    (record,) = records(job)
    assert (record.run_id, record.outcome, record.reason) == ("u-a", Outcome.CANCELLED, "the schedule is completed")
    assert job.state.handled == ("run-now/a",)
    assert job.schedule.done


def test_a_manual_run_that_waits_when_the_job_completes_its_schedule_is_cancelled() -> None:
    job = Driver(defined(concurrency=Concurrency.QUEUE))
    job.at(60)
    assert ask(job, 61, run="a") == []
    job.end(62, AttemptEnd.COMPLETED)
    assert [one.reason for one in records(job) if one.manual] == ["the schedule is completed"]
    assert job.schedule.done


def test_under_forbid_a_run_now_beside_an_active_run_is_skipped_and_recorded() -> None:
    job = Driver(defined())
    job.at(60)
    assert ask(job, 61, run="a") == []
    (record,) = records(job)
    assert (record.run_id, record.outcome, record.manual) == ("u-a", Outcome.SKIPPED_OVERLAP, True)
    assert record.reason == "another run was active, and concurrencyPolicy is Forbid"
    assert (job.state.skipped, job.state.handled) == (1, ("run-now/a",))


def test_under_replace_a_run_now_cancels_what_is_active() -> None:
    job = Driver(defined(concurrency=Concurrency.REPLACE))
    job.at(60)
    machine.request(job.schedule, Requests(run="a"), T)
    actions = job.at(61)
    assert [(run.slot - T, run.cancel_reason) for run in actions.cancel] == [(MINUTE, "replaced by the manual run a")]
    record = job.end(62, AttemptEnd.CANCELLED)
    assert record is not None
    assert record.reason == "replaced by the manual run a"
    assert [run.token for run in job.at(62).start] == ["a"]


def test_a_slot_that_is_due_while_a_manual_run_is_active_is_skipped_once() -> None:
    job = Driver(defined())
    assert ask(job, 50, run="a") == ["a"]
    assert job.starts(60) == []
    job.end(61)
    assert job.state.skipped == 1
    job = Driver(defined())
    assert ask(job, 50, run="a") == ["a"]
    job.end(61)  # `step` was not called at 60
    assert (job.state.skipped, job.state.missed, job.state.decided_until) == (1, 0, T + MINUTE)
    assert job.starts(61) == []
    assert job.starts(120) == [120]


def test_a_manual_run_is_retried_and_its_failures_pause() -> None:
    job = Driver(defined(pause_after_failures=1, retry=Fixed([1.0])))
    ask(job, 10, run="a")
    assert job.end(11, AttemptEnd.FAILED) is None
    assert len(job.at(12).start) == 1
    assert job.end(13, AttemptEnd.FAILED) is not None
    assert paused(job)


# ---------------------------------------------------------------- cancel


def test_a_run_is_cancelled_by_its_id() -> None:
    job = Driver(defined(concurrency=Concurrency.ALLOW))
    job.at(60)
    job.at(120)
    machine.request(job.schedule, Requests(cancel=f"u-{T + MINUTE}"), T)
    (run,) = job.at(121).cancel
    assert (run.slot, run.cancel_reason) == (T + MINUTE, "cancelled by hand")
    record = job.end(122, AttemptEnd.FAILED)
    assert record is not None
    assert (record.outcome, record.reason) == (Outcome.CANCELLED, "cancelled by hand")
    assert len(job.state.runs) == 1


def test_a_run_in_backoff_and_a_waiting_run_are_cancelled_at_once() -> None:
    job = Driver(defined(concurrency=Concurrency.QUEUE, retry=Fixed([900.0])))
    job.run(60, AttemptEnd.FAILED)
    job.at(120)
    assert len(job.state.waiting) == 1
    assert records(job) == []
    ask(job, 121, cancel=f"u-{T + 2 * MINUTE}")
    assert job.state.waiting == []
    ask(job, 122, cancel=f"u-{T + MINUTE}")
    assert job.state.runs == []
    assert [record.outcome for record in records(job)] == [Outcome.CANCELLED] * 2


def test_a_cancel_of_an_unknown_run_is_handled() -> None:
    job = Driver(defined())
    ask(job, 10, cancel="u-17")
    assert job.state.handled == ("cancel/u-17",)
    assert records(job) == []


def test_a_cancel_is_remembered_when_its_owner_dies() -> None:
    job = Driver(defined())
    job.at(60)
    ask(job, 61, cancel=f"u-{T + MINUTE}")
    job.die(100)
    assert job.state.runs == []
    (record,) = records(job)
    assert (record.outcome, record.reason) == (Outcome.CANCELLED, "cancelled by hand")


# ---------------------------------------------------------------- resume


def test_a_resume_ends_a_pause_and_replays_nothing() -> None:
    job = Driver(defined(pause_after_failures=2, retry=Exponential(max_retries=0)))
    job.run(60, AttemptEnd.FAILED)
    job.run(120, AttemptEnd.FAILED)
    assert paused(job)
    assert ask(job, 330, resume="r") == []
    assert (paused(job), job.state.failures_in_row) == (False, 0)
    assert job.starts(360) == [360]
    job.end(361, AttemptEnd.FAILED)
    assert not paused(job)
    job.run(420, AttemptEnd.FAILED)
    assert paused(job)
    ask(job, 430, resume="r")
    assert paused(job)


@pytest.mark.parametrize("generation", [0, 3])
def test_only_an_edit_ends_a_pause_and_no_other_revision(generation: int) -> None:
    job = Driver(defined(pause_after_failures=1, retry=Exponential(max_retries=0)))
    job.schedule.definition_changed_at = job.state.decided_until
    job.state.generation = generation
    job.run(60, AttemptEnd.FAILED)
    edited_at = job.schedule.definition_changed_at if not generation else T + 70 * SECOND
    machine.apply_revision(job.schedule, 2, edited_at, None, generation)
    assert paused(job)
    machine.apply_revision(job.schedule, 3, T + 80 * SECOND, None, generation and generation + 1)
    assert not paused(job)
    assert job.state.failures_in_row == 0
    assert job.state.decided_until == T + 80 * SECOND


# ---------------------------------------------------------------- what is remembered


def test_a_bounded_number_of_requests_is_remembered_and_those_on_the_object_always() -> None:
    job = Driver(defined(suspend=True))
    for number in range(2 * MAX_REMEMBERED_REQUESTS):
        ask(job, 1, run="old", cancel=f"u-{number}")
    assert len(job.state.handled) == MAX_REMEMBERED_REQUESTS
    assert job.state.handled[0] == "run-now/old"
    assert job.state.handled[-1] == f"cancel/u-{2 * MAX_REMEMBERED_REQUESTS - 1}"


tokens = st.one_of(st.text(), st.from_regex(r"[A-Za-z0-9._-]{1,70}", fullmatch=True), st.from_regex(r"-?[0-9]{1,20}"))


@given(tokens.filter(bool), tokens.filter(bool), st.integers(-(10**17), 10**17))
def test_run_ids_are_safe_and_differ(token: str, other: str, slot: int) -> None:
    def named(token: str) -> str:
        return run_id("u", Run(slot=slot, due=slot, token=token))

    assert set(named(token)) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert named(token)[-1].isalnum()
    assert len(named(token)) <= len("u-") + 63
    assert named(token) != run_id("u", Run(slot=slot, due=slot))
    assert (named(token) == named(other)) == (token == other)


def test_tokens_that_look_like_slots_or_like_hashes_are_hashed() -> None:
    names = [
        run_id("u", Run(slot=1, due=1, token=token)) for token in ("17", "-17", "é", "a.", "token-0123456789abcdef")
    ]
    assert all(len(name) == len("u-token-0123456789abcdef") and name.startswith("u-token-") for name in names)
    assert names[-1] != "u-token-0123456789abcdef"
    assert run_id("u", Run(slot=1, due=1, token="2026-12-01.a_B")) == "u-2026-12-01.a_B"


def test_a_completed_state_keeps_its_handled_requests() -> None:
    state = State(decided_until=1, completed=Completion.JOB, handled=("run-now/a",), generation=4)
    assert State.decode(state.encode()) == state


def test_total_counts_for_manual_runs() -> None:
    job = Driver(defined(timeouts=Timeouts(total=5 * SECOND), retry=Fixed([10.0])))
    ask(job, 10, run="a")
    record = job.end(11, AttemptEnd.FAILED, reason="exit code 1")
    assert record is not None
    assert record.reason == "exit code 1; no time for a retry within timeouts.total"


# ---------------------------------------------------------------- requests that are replaced before they are handled


def piled_up(count: int, payload: bytes | None = None) -> Requests:
    """Return what a store keeps if so many runs are requested before a replica handles one."""
    stored = ""
    for number in range(count):
        stored = merged(stored, Requests(run=f"r{number}", payload=payload).encode(), State(decided_until=0).encode())
    return Requests.decode(stored)


@pytest.mark.parametrize("count", [1, 2, MAX_EARLIER + 1, MAX_EARLIER + 2, MAX_TOKENS, MAX_TOKENS + 1, MAX_TOKENS + 9])
def test_every_replaced_request_has_a_record_or_is_counted_in_one(count: int) -> None:
    wanted = piled_up(count)
    job = Driver(defined(concurrency=Concurrency.ALLOW))
    machine.request(job.schedule, wanted, T + SECOND)
    started = [run.token for run in job.at(1).start]
    assert started == [f"r{number}" for number in range(max(0, count - MAX_EARLIER - 1), count)]
    dropped = {record.run_id.removeprefix("u-"): record for record in records(job)}
    listed = [f"r{number}" for number in range(max(0, count - MAX_TOKENS - 1), count - len(started))]
    assert list(dropped) == listed
    assert {record.outcome for record in dropped.values()} <= {Outcome.CANCELLED}
    forgotten = max(0, count - MAX_TOKENS - 1)
    for token, record in dropped.items():
        assert f"{MAX_EARLIER} newer requests" in record.reason
        counted = f"; {forgotten} older ones are not listed" if forgotten and token == listed[0] else ""
        assert record.reason.endswith(f"no more than that wait{counted}")


def test_large_payloads_are_dropped_sooner() -> None:
    wanted = piled_up(7, bytes(MAX_PAYLOADS // 4))
    assert [earlier.dropped for earlier in wanted.earlier] == [1, 1, 0, 0, 0, 0]
    assert [earlier.payload is None for earlier in wanted.earlier] == [True, True, False, False, False, False]


def piled_on_large_ones(count: int) -> Driver:
    """A schedule with ``count`` requests at once, the first seven with large payloads."""
    stored = piled_up(7, bytes(MAX_PAYLOADS // 4)).encode()
    for number in range(7, count):
        stored = merged(stored, Requests(run=f"r{number}").encode(), State(decided_until=0).encode())
    job = Driver(defined(concurrency=Concurrency.ALLOW))
    machine.request(job.schedule, Requests.decode(stored), T + SECOND)
    job.at(1)
    return job


def test_a_run_that_is_dropped_for_its_size_says_so_also_after_more_requests_came() -> None:
    job = piled_on_large_ones(MAX_EARLIER + 3)
    assert {record.run_id: record.reason for record in records(job)} == {
        f"u-r{number}": "newer requests came before it could start, and the payloads of requests that wait may have "
        "256 KiB together; request it again after the newer runs have started, or with smaller payloads"
        for number in (0, 1, 2)
    }


def test_the_oldest_record_counts_what_was_forgotten_also_if_it_was_dropped_for_its_size() -> None:
    job = piled_on_large_ones(MAX_TOKENS + 2)
    reasons = [record.reason for record in records(job)]
    assert reasons[0].startswith("newer requests")
    assert reasons[0].endswith("; 1 older ones are not listed")
    assert not any("not listed" in reason for reason in reasons[1:])


def test_what_was_handled_is_not_kept() -> None:
    stored = Requests(run="b", cancel="x", earlier=(Requests(run="a", resume="r"),)).encode()
    state = State(decided_until=0, handled=("run-now/a", "cancel/x", "resume/r"))
    kept = Requests.decode(merged(stored, Requests(run="c", cancel="x").encode(), state.encode()))
    assert kept == Requests(run="c", cancel="x", earlier=(Requests(run="b"),))


def test_cancellations_and_resumptions_are_carried_out_however_many_follow() -> None:
    stored = Requests(cancel="x", resume="r").encode()
    for number in range(MAX_EARLIER + 5):
        stored = merged(stored, Requests(run=f"r{number}").encode(), State(decided_until=0).encode())
    assert Requests.decode(stored).earlier[0] == Requests(cancel="x", resume="r")
