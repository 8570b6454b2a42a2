"""The policy of overlap, case by case: what happens to a run that comes due beside others."""

from __future__ import annotations

import pytest

from scheduledjob.domain.schedule.concurrency import Admission, decide, has_room, lacks_capacity
from scheduledjob.domain.schedule.definition import Concurrency, Definition
from scheduledjob.domain.schedule.state import Run, State

F, Q, R, A = Concurrency.FORBID, Concurrency.QUEUE, Concurrency.REPLACE, Concurrency.ALLOW
START, WAIT, SKIP, REPLACE_ACTIVE = Admission.START, Admission.WAIT, Admission.SKIP, Admission.REPLACE_ACTIVE


def state(active: int, waiting: int, catch_up: bool = False) -> State:
    runs = [Run(slot=n, due=n, catch_up=catch_up) for n in range(active + waiting)]
    return State(decided_until=0, runs=runs[:active], waiting=runs[active:])


@pytest.mark.parametrize("token", ["", "by-hand"])
@pytest.mark.parametrize(
    ("policy", "limit", "depth", "active", "waiting", "room", "admission"),
    [
        (F, None, 1, 0, 0, True, START),
        (F, None, 1, 1, 0, False, SKIP),
        (F, None, 1, 0, 1, True, SKIP),
        (F, None, 1, 1, 1, False, SKIP),
        (Q, None, 1, 0, 0, True, START),
        (Q, None, 1, 1, 0, False, WAIT),
        (Q, None, 1, 0, 1, True, SKIP),
        (Q, None, 2, 0, 1, True, WAIT),
        (Q, None, 1, 1, 1, False, SKIP),
        (Q, None, 0, 1, 0, False, SKIP),
        (Q, 2, 0, 1, 0, True, START),
        (Q, 2, 0, 2, 0, False, SKIP),
        (Q, 2, 3, 2, 2, False, WAIT),
        (Q, 2, 3, 2, 3, False, SKIP),
        (R, None, 1, 0, 0, True, START),
        (R, None, 1, 1, 0, False, REPLACE_ACTIVE),
        (R, None, 1, 0, 1, True, REPLACE_ACTIVE),
        (R, None, 1, 1, 1, False, REPLACE_ACTIVE),
        (A, None, 1, 0, 0, True, START),
        (A, None, 1, 99, 0, True, START),
        (A, None, 1, 1, 1, True, WAIT),
        (A, 2, 1, 1, 0, True, START),
        (A, 2, 1, 2, 0, False, SKIP),
        (A, 2, 1, 1, 1, True, SKIP),
        (A, 3, 1, 1, 1, True, WAIT),
    ],
)
def test_the_policy_decides_what_happens_to_a_due_run(
    policy: Concurrency,
    limit: int | None,
    depth: int,
    active: int,
    waiting: int,
    room: bool,
    admission: Admission,
    token: str,
) -> None:
    definition = Definition(kind="k", concurrency=policy, max_concurrent=limit, queue_depth=depth)
    run = Run(slot=100, due=100, token=token)
    assert has_room(definition, state(active, waiting), run) == room
    assert decide(definition, state(active, waiting), run) is admission


@pytest.mark.parametrize("policy", [F, Q, A])
def test_slots_caught_up_together_wait_for_each_other(policy: Concurrency) -> None:
    definition = Definition(kind="k", concurrency=policy, max_concurrent=5)
    run = Run(slot=100, due=100, catch_up=True)
    assert decide(definition, state(0, 0), run) is START
    assert decide(definition, state(1, 0, catch_up=True), run) is WAIT
    assert decide(definition, state(1, 3, catch_up=True), run) is WAIT
    assert decide(definition, state(0, 3, catch_up=True), run) is WAIT
    assert not has_room(definition, state(1, 3, catch_up=True), run)
    assert has_room(definition, state(0, 3, catch_up=True), run)
    assert decide(definition, state(1, 0), run) is (WAIT if policy is F else START)


def test_a_slot_caught_up_replaces_the_active_run_under_replace() -> None:
    definition = Definition(kind="k", concurrency=R)
    assert decide(definition, state(1, 0), Run(slot=100, due=100, catch_up=True)) is REPLACE_ACTIVE


@pytest.mark.parametrize(
    ("policy", "limit", "active", "waiting", "lacks"),
    [(A, None, 2, 0, False), (A, None, 3, 0, True), (A, None, 2, 1, True), (A, 3, 2, 1, False), (A, 4, 2, 1, True)]
    + [(policy, None, 3, 0, False) for policy in (F, Q, R)],
)
def test_only_capacity_keeps_a_slot_of_allow_from_starting(
    policy: Concurrency, limit: int | None, active: int, waiting: int, lacks: bool
) -> None:
    definition = Definition(kind="k", concurrency=policy, max_concurrent=limit)
    assert lacks_capacity(definition, state(active, waiting), 3) is lacks
    assert not lacks_capacity(definition, state(active, waiting), None), "a replica without a limit has capacity"
