"""What metrics tell of a real replica on a real store in memory."""

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
from tests.engine.support import PATIENCE, Jobs, at_once, desired, for_ever, put, replica_of, running

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scheduledjob.domain.schedule.state import Outcome, RunRecord


class Counted(MetricsObserver):
    """Lets a test wait until something was counted."""

    def __init__(self, metrics: Metrics) -> None:
        super().__init__(metrics)
        self.news = asyncio.Event()

    def recorded(self, records: Sequence[RunRecord]) -> None:
        super().recorded(records)
        self.news.set()

    def passed_over(self, slug: str, outcome: Outcome, count: int) -> None:
        super().passed_over(slug, outcome, count)
        self.news.set()

    def fenced(self, slug: str, why: str) -> None:
        super().fenced(slug, why)
        self.news.set()

    async def until(self, enough: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not enough():
                self.news.clear()
                await self.news.wait()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


async def fails(attempt: Attempt) -> Result:
    return Result(False, "exit code 3", 3)


async def test_runs_attempts_and_retries_are_counted(metrics: Metrics) -> None:
    store, observer = MemoryStore(), Counted(metrics)
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
    assert not observer._kinds, "what is not held is forgotten"


async def test_slots_that_did_not_run_are_counted_by_reason(metrics: Metrics) -> None:
    store, observer, jobs = MemoryStore(), Counted(metrics), Jobs()
    skip = Misfire(catch_up=CatchUp.SKIP)
    await put(store, "ns/job", late=HOUR, triggers=(EveryTrigger(60 * SECOND),), misfire=skip)
    async with running(replica_of(store, jobs, observer=observer)):
        await observer.until(lambda: metrics.slots_passed_over.value("Missed") >= 58)
    assert metrics.slots_passed_over.value("Missed") <= 60
    assert metrics.slots_passed_over.value("Excluded") == 0


async def test_losing_a_schedule_is_counted(metrics: Metrics) -> None:
    store, observer, jobs = MemoryStore(), Counted(metrics), Jobs(for_ever)
    await put(store, "ns/job")
    async with running(replica_of(store, jobs, observer=observer)) as replica:
        await jobs.begun.get()
        await store.delete(["ns/job"])
        replica.changed(["ns/job"])
        await observer.until(lambda: metrics.lease_losses.value() == 1)
    assert not observer._kinds


async def test_the_stores_calls_are_timed_and_everything_else_is_its_own(metrics: Metrics) -> None:
    store, jobs = MemoryStore(), Jobs()
    under_watch = timed(store, metrics)
    assert (under_watch.polls, under_watch.poll_interval) == (store.polls, store.poll_interval)
    await put(under_watch, "ns/job")
    async with running(replica_of(under_watch, jobs)):
        await jobs.begun.get()
    for call in ("put", "claim", "settle", "now", "withdraw"):
        assert metrics.store_call_seconds.count(call) >= 1, call
    assert not any(metrics.store_errors.value(call) for call in vars(Store))
    assert (await under_watch.rows()) == (await store.rows())


@pytest.mark.parametrize("url", ["memory:", "postgresql://db/jobs", "firestore://project/jobs"])
def test_any_store_can_be_timed(url: str, metrics: Metrics) -> None:
    store = open_store(url)
    under_watch = timed(store, metrics)
    for name in ("claim", "settle", "reconcile", "present"):
        assert getattr(under_watch, name) != getattr(store, name)
    for name in ("polls", "listen"):
        assert getattr(under_watch, name) == getattr(store, name)
    assert hasattr(under_watch, "migrate") == hasattr(store, "migrate")


async def test_renewals_are_timed(metrics: Metrics) -> None:
    async with timed(MemoryStore(), metrics).renewer("me") as renewer:
        assert (await renewer.renew([], SECOND)).revisions == {}
    assert metrics.store_call_seconds.count("renew") == 1


class Away(MemoryStore):
    async def prune(self, limit: int = 1000) -> int:
        raise StoreUnavailable("the store is away")


async def test_errors_of_the_store_are_counted_and_answers_are_none(metrics: Metrics) -> None:
    store = timed(Away(), metrics)
    with pytest.raises(StoreUnavailable):
        await store.prune()
    await put(store, "ns/job")
    with pytest.raises(SlugTaken):
        await store.put([desired("ns/job", at_once(0), 0)], replace=False)
    assert metrics.store_errors.value("prune") == 1
    assert metrics.store_errors.value("put") == 0
    assert metrics.store_call_seconds.count("prune") == 1
