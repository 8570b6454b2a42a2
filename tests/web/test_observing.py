"""The metrics of a real replica with a store in memory."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from scheduledjob.domain.schedule.backoff import Fixed
from scheduledjob.domain.schedule.definition import CatchUp, Misfire
from scheduledjob.domain.time.instants import HOUR, SECOND
from scheduledjob.domain.triggers.every import EveryTrigger
from scheduledjob.engine.executor import Attempt, Result
from scheduledjob.engine.store import SlugTaken, Store, StoreUnavailable
from scheduledjob.stores import open_store
from scheduledjob.stores.memory import MemoryStore
from scheduledjob.web.metrics import Metrics
from scheduledjob.web.observing import MetricsObserver, timed
from tests.engine.support import PATIENCE, Jobs, desired, for_ever, put, replica_of, running, single_slot

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scheduledjob.domain.schedule.state import Outcome, RunRecord


class NotifyingObserver(MetricsObserver):
    """Lets a test wait until something is counted."""

    def __init__(self, metrics: Metrics) -> None:
        super().__init__(metrics)
        self.counted = asyncio.Event()

    def recorded(self, records: Sequence[RunRecord]) -> None:
        super().recorded(records)
        self.counted.set()

    def passed_over(self, slug: str, outcome: Outcome, count: int) -> None:
        super().passed_over(slug, outcome, count)
        self.counted.set()

    def fenced(self, slug: str, why: str) -> None:
        super().fenced(slug, why)
        self.counted.set()

    async def until(self, enough: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not enough():
                self.counted.clear()
                await self.counted.wait()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


async def fails(attempt: Attempt) -> Result:
    return Result(False, "exit code 3", 3)


async def test_runs_attempts_and_retries_are_counted(metrics: Metrics) -> None:
    store, observer = MemoryStore(), NotifyingObserver(metrics)
    kinds = ("manifest.shell", "cluster.pod")
    await put(store, *[f"ns/good-{n}" for n in range(5)], kind="manifest.shell")

    async def behave(attempt: Attempt) -> Result:
        return Result(attempt.name.startswith("good"), "exit code 3")

    async with running(replica_of(store, Jobs(behave), observer=observer, kinds=kinds)):
        await put(store, "ns/bad", kind="cluster.pod", retry=Fixed([0.01, 0.01]))
        await observer.until(lambda: metrics.runs.value("Failed", "pod") == 1)
        await observer.until(lambda: metrics.runs.value("Succeeded", "shell") == 5)
    assert metrics.attempts_started.value("shell") == 5
    assert metrics.attempts_started.value("pod") == 3
    assert metrics.retries.value() == 2
    assert metrics.start_lateness.count() == 8
    assert metrics.lease_losses.value() == 0
    assert not observer._kinds, "schedules that are not owned are forgotten"


async def test_slots_that_did_not_run_are_counted_by_reason(metrics: Metrics) -> None:
    store, observer, jobs = MemoryStore(), NotifyingObserver(metrics), Jobs()
    skip = Misfire(catch_up=CatchUp.SKIP)
    await put(store, "ns/job", late=HOUR, triggers=(EveryTrigger(60 * SECOND),), misfire=skip)
    async with running(replica_of(store, jobs, observer=observer)):
        await observer.until(lambda: metrics.slots_passed_over.value("Missed") >= 58)
    assert metrics.slots_passed_over.value("Missed") <= 60
    assert metrics.slots_passed_over.value("Excluded") == 0


async def test_a_lost_schedule_is_counted(metrics: Metrics) -> None:
    store, observer, jobs = MemoryStore(), NotifyingObserver(metrics), Jobs(for_ever)
    await put(store, "ns/job")
    async with running(replica_of(store, jobs, observer=observer)) as replica:
        await jobs.begun.get()
        await store.delete(["ns/job"])
        replica.changed(["ns/job"])
        await observer.until(lambda: metrics.lease_losses.value() == 1)
    assert not observer._kinds


async def test_round_trips_of_the_store_are_timed_and_nothing_else_changes(metrics: Metrics) -> None:
    store, jobs = MemoryStore(), Jobs()
    timed_store = timed(store, metrics)
    assert (timed_store.polls, timed_store.poll_interval) == (store.polls, store.poll_interval)
    await put(timed_store, "ns/job")
    async with running(replica_of(timed_store, jobs)):
        await jobs.begun.get()
    for call in ("put", "claim", "settle", "now", "withdraw"):
        assert metrics.store_call_seconds.count(call) >= 1, call
    assert not any(metrics.store_errors.value(call) for call in vars(Store))
    assert (await timed_store.rows()) == (await store.rows())


@pytest.mark.parametrize("url", ["memory:", "postgresql://db/jobs", "firestore://project/jobs"])
def test_any_store_can_be_timed(url: str, metrics: Metrics) -> None:
    store = open_store(url)
    timed_store = timed(store, metrics)
    for name in ("claim", "settle", "reconcile", "present"):
        assert getattr(timed_store, name) != getattr(store, name)
    for name in ("polls", "listen"):
        assert getattr(timed_store, name) == getattr(store, name)
    assert hasattr(timed_store, "migrate") == hasattr(store, "migrate")


async def test_renewals_are_timed(metrics: Metrics) -> None:
    async with timed(MemoryStore(), metrics).renewer("me") as renewer:
        assert (await renewer.renew([], SECOND)).revisions == {}
    assert metrics.store_call_seconds.count("renew") == 1


class UnavailableStore(MemoryStore):
    async def prune(self, limit: int = 1000) -> int:
        raise StoreUnavailable("the store is unavailable")


async def test_errors_of_the_store_are_counted_but_refusals_are_not(metrics: Metrics) -> None:
    store = timed(UnavailableStore(), metrics)
    with pytest.raises(StoreUnavailable):
        await store.prune()
    await put(store, "ns/job")
    with pytest.raises(SlugTaken):
        await store.put([desired("ns/job", single_slot(0), 0)], replace=False)
    assert metrics.store_errors.value("prune") == 1
    assert metrics.store_errors.value("put") == 0
    assert metrics.store_call_seconds.count("prune") == 1
