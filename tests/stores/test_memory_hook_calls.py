"""The memory store: what a claim of hooks costs beside a backlog that it leaves out."""

from __future__ import annotations

import heapq
import random

import pytest

from scheduledjob.engine.stored_row import HookCall, HookEnd
from scheduledjob.stores.memory import hook_calls
from scheduledjob.stores.memory.hook_calls import HookCalls


def call(number: int, namespace: str) -> HookCall:
    return HookCall(f"run-{number}", 0, f"{namespace}/job", "uid", b"")


def test_a_claim_does_not_walk_over_the_calls_that_it_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = HookCalls()
    calls.add((call(number, "busy") for number in range(10_000)), 1)
    calls.add([call(10_000, "other")], 2)
    steps = 0

    def counted(heap: list[tuple[int, str]]) -> tuple[int, str]:
        nonlocal steps
        steps += 1
        return heapq.heappop(heap)

    monkeypatch.setattr(hook_calls, "heappop", counted)
    assert [found.run_id for found in calls.claim(5, 4, 10, ["busy"])] == ["run-10000"]
    assert calls.claim(5, 4, 10, ["busy"]) == []
    assert steps < 20


@pytest.mark.parametrize("seed", range(20))
def test_calls_are_claimed_in_the_order_in_which_they_are_due(seed: int) -> None:
    rng = random.Random(seed)
    calls = HookCalls()
    due: dict[str, tuple[int, HookCall]] = {}
    now = 0
    for step in range(300):
        now += rng.randrange(3)
        if rng.random() < 0.5:
            added = call(step, rng.choice("abc"))
            calls.add([added], now)
            due[added.run_id] = now, added
            continue
        without = rng.sample("abc", rng.randrange(3))
        ready = sorted(at for at, found in due.values() if at <= now and found.group not in without)
        limit = rng.randrange(1, 5)
        claimed = calls.claim(now, limit, 7, without)
        assert sorted(due[found.run_id][0] for found in claimed) == ready[:limit]
        for found in claimed:
            assert found.group not in without
            if rng.random() < 0.25:  # it is lost: nobody settles it
                due[found.run_id] = now + 7, found
                continue
            end = rng.choice([None, 0, 5])
            calls.settle([HookEnd(found.run_id, 0, found.attempt, end)], now)
            if end is None:
                del due[found.run_id]
            else:
                due[found.run_id] = now + end, found
