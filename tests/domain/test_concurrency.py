"""Room and places to wait, policy by policy: who may start beside whom."""

from __future__ import annotations

import pytest

from scheduledjob.domain.schedule.concurrency import has_room, is_skipped
from scheduledjob.domain.schedule.definition import Concurrency, Definition
from scheduledjob.domain.schedule.state import Run, State

F, Q, R, A = Concurrency.FORBID, Concurrency.QUEUE, Concurrency.REPLACE, Concurrency.ALLOW


def state(active: int, waiting: int, catch_up: bool = False) -> State:
    runs = [Run(slot=n, due=n, catch_up=catch_up) for n in range(active + waiting)]
    return State(decided_until=0, runs=runs[:active], waiting=runs[active:])


@pytest.mark.parametrize(
    ("policy", "limit", "depth", "active", "waiting", "room", "skipped"),
    [
        (F, None, 1, 0, 0, True, False),
        (F, None, 1, 1, 0, False, True),
        (F, None, 1, 0, 1, True, True),
        (Q, None, 1, 0, 0, True, False),
        (Q, None, 1, 1, 0, False, False),
        (Q, None, 1, 1, 1, False, True),
        (Q, None, 0, 1, 0, False, True),
        (Q, 2, 0, 1, 0, True, False),
        (Q, 2, 0, 2, 0, False, True),
        (Q, 2, 3, 2, 2, False, False),
        (Q, 2, 3, 2, 3, False, True),
        (R, None, 1, 0, 0, True, False),
        (R, None, 1, 1, 0, False, False),
        (R, None, 1, 1, 1, False, False),
        (A, None, 1, 99, 0, True, False),
        (A, 2, 1, 1, 0, True, False),
        (A, 2, 1, 2, 0, False, True),
        (A, 2, 1, 1, 1, True, True),
    ],
)
def test_room_and_skipping(
    policy: Concurrency, limit: int | None, depth: int, active: int, waiting: int, room: bool, skipped: bool
) -> None:
    definition = Definition(kind="k", concurrency=policy, max_concurrent=limit, queue_depth=depth)
    run = Run(slot=100, due=100)
    assert has_room(definition, state(active, waiting), run) == room
    assert is_skipped(definition, state(active, waiting), run) == skipped


@pytest.mark.parametrize("policy", [F, Q, A])
def test_slots_caught_up_together_wait_for_each_other(policy: Concurrency) -> None:
    definition = Definition(kind="k", concurrency=policy, max_concurrent=5)
    run = Run(slot=100, due=100, catch_up=True)
    assert not is_skipped(definition, state(1, 3, catch_up=True), run)
    assert not has_room(definition, state(1, 3, catch_up=True), run)
    assert has_room(definition, state(0, 3, catch_up=True), run)
    assert has_room(definition, state(1, 0), run) == (policy is not F)
