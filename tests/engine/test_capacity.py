"""The capacity of a replica counts attempts, and no tenant or schedule takes all of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from scheduledjob.domain.schedule.definition import Concurrency, Definition
from scheduledjob.domain.schedule.state import State
from scheduledjob.domain.time.instants import SECOND
from scheduledjob.domain.triggers.every import EveryTrigger
from scheduledjob.engine.capacity import Capacity
from scheduledjob.engine.observer import Observer
from scheduledjob.engine.replica_settings import ReplicaSettings
from scheduledjob.stores.memory import MemoryStore

from .support import Jobs, desired, for_ever, put, replica_of, row_of, running

if TYPE_CHECKING:
    from scheduledjob.domain.time.instants import Instant, Micros
    from scheduledjob.engine.executor import Attempt


class CapacityWatcher(Observer):
    """Counts what runs, and waits until slots are skipped."""

    def __init__(self) -> None:
        self.active: dict[str, int] = {}
        self.starts: asyncio.Queue[str] = asyncio.Queue()
        self.skipped: asyncio.Queue[tuple[str, int]] = asyncio.Queue()

    def started(self, attempt: Attempt, due: Instant, late: Micros) -> None:
        self.active[attempt.namespace] = self.active.get(attempt.namespace, 0) + 1
        self.starts.put_nowait(attempt.namespace)

    def lacked_capacity(self, slug: str, active: int) -> None:
        self.skipped.put_nowait((slug, active))


def test_places_of_tenants_are_counted() -> None:
    capacity = Capacity(16, 0.875)
    assert capacity.room("a") == 14
    capacity.take("a", 14)
    assert capacity.room("a") == 0
    assert capacity.room("b") == 1
    capacity.take("b", 1)
    assert (capacity.used, capacity.free, set(capacity.tenants())) == (15, 1, {"a", "b"})
    capacity.take("a", -14)
    assert set(capacity.tenants()) == {"b"}
    assert capacity.room("a") == 13


@pytest.mark.parametrize("places", [1, 2, 3, 7])
def test_a_lone_tenant_has_all_of_a_small_capacity(places: int) -> None:
    capacity = Capacity(places, 0.875)
    for _ in range(places):
        assert capacity.room("a") >= 1
        capacity.take("a", 1)
    assert capacity.room("a") == 0


def test_a_tenant_without_a_name_is_bounded_once_there_are_others() -> None:
    capacity = Capacity(16, 0.875)
    assert capacity.room("") == 16
    assert capacity.room("", others=True) == 14
    capacity.take("a", 1)
    assert capacity.room("") == 13


async def test_runs_of_one_schedule_stop_at_its_share() -> None:
    """Its policy is Allow and its job hangs, so that each slot would add a run for ever."""
    store, watcher = MemoryStore(), CapacityWatcher()
    now = await store.now()
    hanging = Definition(kind="job", triggers=(EveryTrigger(SECOND),), concurrency=Concurrency.ALLOW)
    async with running(replica_of(store, Jobs(for_ever), observer=watcher, capacity=4, grace=0)):
        await store.put([desired("hog/job", hanging, now)], replace=False)
        slug, active = await watcher.skipped.get()
        assert (slug, active) == ("hog/job", 2)
        await put(store, "hog/other", "lone/job")
        while await watcher.starts.get() != "lone":
            pass
        await watcher.skipped.get()
        assert watcher.active["hog"] == 3
        state = State.decode((await row_of(store, "hog/job")).state)
        assert len(state.runs) == 2


async def test_many_schedules_that_hang_do_not_exceed_the_capacity() -> None:
    store, watcher = MemoryStore(), CapacityWatcher()
    now = await store.now()
    hanging = Definition(kind="job", triggers=(EveryTrigger(SECOND),), concurrency=Concurrency.ALLOW)
    async with running(replica_of(store, Jobs(for_ever), observer=watcher, capacity=2, grace=0)):
        await store.put([desired(f"s-{n}/job", hanging, now) for n in range(20)], replace=False)
        for _ in range(3):
            await watcher.skipped.get()
        assert sum(watcher.active.values()) <= 2


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("tenant_share", 1.5, "at most 1"),
        ("tenant_share", 0, "at least"),
        ("weights", {"a": 0}, "from 0.01 to 100"),
        ("weights", {"a": True}, "from 0.01 to 100"),
    ],
)
def test_a_share_or_weight_that_is_not_allowed_is_refused_with_words(setting: str, value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ReplicaSettings(**{setting: value})
