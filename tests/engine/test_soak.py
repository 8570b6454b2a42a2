"""Many runs: what a replica and its store keep follows what is due, and not what was.

``SCHEDULEDJOB_SOAK_RUNS=100000`` makes it a hundred thousand; the default takes seconds.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from scheduledjob.domain.schedule.definition import Keep
from scheduledjob.domain.time.instants import HOUR, SECOND
from scheduledjob.domain.triggers.every import EveryTrigger
from scheduledjob.engine.stored_row import Origin
from scheduledjob.stores.memory import MemoryStore
from scheduledjob.stores.memory import history as history_module
from scheduledjob.stores.memory.history import RECORD_BYTES, History

from .support import Jobs, Watcher, desired, replica_of, single_slot

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest

from scheduledjob.domain.schedule.state import Outcome, RunRecord

CONTAINERS = (dict, list, set, tuple, deque)
SIZE = 500
ROUNDS = int(os.environ.get("SCHEDULEDJOB_SOAK_RUNS", "8000")) // SIZE
WARM = 4
SLACK = 200
"""What a structure may keep to spread the cost of cleaning up."""


def sizes(*roots: object) -> Counter[str]:
    """Return how many entries the containers of these objects have, by the class and the attribute."""
    found: Counter[str] = Counter()
    todo: list[object] = list(roots)
    seen: set[int] = set()
    while todo:
        value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        for name, attribute in attributes(value):
            if isinstance(attribute, CONTAINERS):
                found[f"{type(value).__name__}.{name}"] += len(attribute)
                todo += attribute.values() if isinstance(attribute, dict) else attribute
            todo.append(attribute)
    return found


def attributes(value: object) -> Iterable[tuple[str, Any]]:
    if not type(value).__module__.startswith("scheduledjob."):
        return []
    names = [*getattr(value, "__dict__", ())]
    for base in type(value).__mro__:
        names += getattr(base, "__slots__", ())
    names += getattr(value, "__struct_fields__", ())
    return [(name, getattr(value, name)) for name in names if hasattr(value, name)]


async def test_what_is_kept_returns_to_its_level_after_many_runs() -> None:
    store, watcher = MemoryStore(), Watcher()
    keep = Keep(1, 1, 0)
    levels: list[Counter[str]] = []
    replica = replica_of(store, Jobs(), observer=watcher)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(replica.run())
        await replica.ready.wait()
        now = await store.now()
        recurring = single_slot(
            now, triggers=(EveryTrigger(SECOND),), keep=keep, expect_success_within=24 * HOUR, jitter=SECOND
        )
        await store.put([desired("recurring/job", recurring, now)], replace=False)
        for number in range(ROUNDS):
            now = await store.now()
            definition = single_slot(now - 1, keep=keep, expect_success_within=24 * HOUR)
            slugs = [f"ns-{number}/job-{place}" for place in range(SIZE)]
            rows = [desired(slug, definition, now - 2) for slug in slugs]
            await store.put(rows, replace=False)
            replica.due(now)
            await watcher.until_recorded((number + 1) * SIZE)
            await watcher.until(lambda: replica.stats().owned <= 1)
            await store.delete(slugs)
            while await store.prune():
                pass
            assert {row.slug for row in await store.rows(origin=Origin.MANIFEST)} == {"recurring/job"}
            watcher.events.clear()
            watcher.states.clear()
            levels.append(sizes(replica, store))
        replica.stop()
    grown = {name: (levels[WARM][name], size) for name, size in levels[-1].items() if size > levels[WARM][name] + SLACK}
    assert grown == {}


def record(number: int, **fields: Any) -> RunRecord:
    given: dict[str, Any] = {
        "run_id": f"run-{number}",
        "uid": f"uid-{number}",
        "slug": f"one-shot-{number}",
        "slot": number,
        "started": number,
        "finished": number,
        "attempt": 1,
        "outcome": Outcome.SUCCEEDED,
        "expires": 10**9,
    }
    return RunRecord(**given | fields)


def test_the_history_of_one_shots_has_a_limit_and_the_newest_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "MAX_BYTES", 100 * RECORD_BYTES)
    history = History()
    for number in range(10_000):
        history.add([record(number)])
        assert len(history) <= 100
    assert len(history) >= 95
    assert history.newest(None, None, None, 1)[0].run_id == "run-9999"
    assert sizes(history).total() < 10 * 100 + 10 * SLACK
    history.add([record(number, output=b"x" * RECORD_BYTES) for number in range(10_000, 10_100)])
    assert len(history) <= 50


def test_records_that_are_dropped_free_their_space() -> None:
    history = History()
    for number in range(1000):
        history.add([record(number, slug="one", keep=1, output=b"x" * 4096)])
    history.prune(10**9 + 1, 10**6)
    assert (len(history), history._bytes) == (0, 0)
