"""Leases: ``Leases`` itself, the thread that renews them, and an event loop that a job blocks."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from scheduledjob.domain.schedule.definition import Definition
from scheduledjob.domain.schedule.state import Outcome, State
from scheduledjob.domain.time.instants import SECOND
from scheduledjob.domain.triggers.every import EveryTrigger
from scheduledjob.engine import leases as leases_module
from scheduledjob.engine.executor import Attempt, Result
from scheduledjob.engine.lease_thread import LeaseCallbacks, LeaseThread
from scheduledjob.engine.leases import Leases, Renewed
from scheduledjob.engine.store import Renewal, Renewer, StoreUnavailable
from scheduledjob.engine.timing import FENCE_LIMIT
from scheduledjob.stores.memory import MemoryDatabase, MemoryStore

from .support import (
    KEEP_ALL,
    PATIENCE,
    Jobs,
    Watcher,
    desired,
    for_ever,
    ok,
    put,
    replica_of,
    row_of,
    running,
    single_slot,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from scheduledjob.engine.stored_row import Key, Row, Settlement

# ---------------------------------------------------------------- Leases


def beating(length: float = 15.0) -> Leases:
    leases = Leases(length)
    leases.beat(100.0)
    return leases


def is_wedged(leases: Leases) -> bool:
    return leases.wedged


def test_a_lease_is_renewed_after_a_third_of_its_length() -> None:
    leases = beating()
    leases.add(1, 7, 115.0)
    assert leases.to_renew(104.9) == []
    assert leases.to_renew(105.0) == [(1, 7)]


def test_all_leases_are_renewed_once_after_the_clock_of_the_store_was_set() -> None:
    leases = beating()
    leases.add(1, 7, 115.0)
    leases.clock_jumped()
    assert leases.to_renew(100.0) == [(1, 7)]
    assert leases.to_renew(100.0) == []


def test_a_renewal_counts_from_when_it_was_sent() -> None:
    leases = beating()
    lease = leases.add(1, 7, 115.0)
    lease.run_ids = ("run",)
    renewed = leases.renewed([(1, 7)], Renewal({1: 3}), sent=106.0)
    assert (renewed.deadline, lease.deadline) == (121.0, 121.0)
    assert (renewed.extended, renewed.revisions, renewed.lost) == (["run"], [(1, 3)], [])


def test_a_row_that_is_missing_from_the_answer_is_lost() -> None:
    leases = beating()
    leases.add(1, 7, 115.0)
    assert leases.renewed([(1, 7)], Renewal({}), 106.0).lost == [1]
    assert list(leases.keys()) == []
    assert leases.renewed([(1, 7)], Renewal({}), 106.0).lost == []


def test_a_row_with_a_settlement_in_flight_is_not_lost() -> None:
    leases = beating()
    lease = leases.add(1, 7, 115.0)
    leases.settling(lease)
    assert leases.renewed([(1, 7)], Renewal({}), 106.0).lost == []
    leases.settled(lease, 8)
    assert leases.renewed([(1, 7)], Renewal({}), 106.0).lost == []  # asked before, answered after
    assert leases.renewed([(1, 8)], Renewal({}), 106.0).lost == [1]


@pytest.mark.parametrize(("length", "margin"), [(1.0, 0.2), (15.0, 3.0), (100.0, 3.0)])
def test_a_lease_expires_here_before_it_expires_in_the_store(length: float, margin: float) -> None:
    leases = beating(length)
    leases.add(1, 7, 100.0 + length)
    just = 100.0 + length - margin
    assert leases.expired(just - 0.001) == []
    assert leases.expired(just) == [1]
    assert leases.expired(just + 0.001) == []


def test_a_blocked_event_loop_keeps_the_leases_of_what_runs_and_gives_up_the_others_after_a_minute() -> None:
    leases = beating()
    running = leases.add(1, 7, 115.0)
    running.run_ids = ("run",)
    leases.add(2, 7, 115.0)
    assert leases.to_renew(159.0) == [(1, 7), (2, 7)]
    assert not is_wedged(leases)
    assert leases.to_renew(160.1) == [(1, 7)]
    assert is_wedged(leases)
    assert leases.to_renew(16_000.0) == [(1, 7)]
    leases.beat(16_001.0)
    assert leases.to_renew(16_001.0) == [(1, 7), (2, 7)]
    assert not is_wedged(leases)


def test_another_lease_on_the_same_row_is_not_dropped_with_the_old_one() -> None:
    leases = beating()
    old = leases.add(1, 7, 115.0)
    new = leases.add(1, 8, 120.0)
    leases.drop(old)
    assert list(leases.keys()) == [1]
    leases.drop(new)
    assert list(leases.keys()) == []


# ---------------------------------------------------------------- the thread


def no_attempt() -> None:
    """No job executes."""


class Kept:
    """A lease thread on a store, and what it reports."""

    def __init__(self, store: MemoryStore, length: float) -> None:
        self.leases = Leases(length)
        self.news: asyncio.Queue[Renewed | list[Key]] = asyncio.Queue()
        self.extended: list[tuple[tuple[str, ...], float, int]] = []
        self.failures: list[BaseException] = []
        calls = LeaseCallbacks(
            self._extend,
            self.news.put_nowait,
            lambda keys: self.news.put_nowait(list(keys)),
            self.failures.append,
            no_attempt,
        )
        self.thread = LeaseThread(store, "me", self.leases, time.monotonic, calls)

    def _extend(self, run_ids: Sequence[str], deadline: float) -> None:
        self.extended.append((tuple(run_ids), deadline, threading.get_ident()))

    async def until(self, wanted: Callable[[Any], bool]) -> Any:
        async with asyncio.timeout(PATIENCE):
            while not wanted(news := await self.news.get()):
                pass
        return news


async def test_the_thread_counts_a_renewal_from_when_it_was_sent() -> None:
    clock = [100.0]
    news: asyncio.Queue[Renewed] = asyncio.Queue()

    class SlowRenewer:
        async def renew(self, owned: Sequence[tuple[Key, int]], lease: int) -> Renewal:
            clock[0] += 1.5
            return Renewal({key: 1 for key, _ in owned})

    class SlowStore(MemoryStore):
        @asynccontextmanager
        async def renewer(self, replica: str) -> AsyncIterator[Renewer]:
            yield SlowRenewer()

    leases = Leases(3.0)
    leases.beat(clock[0])
    lease = leases.add(1, 7, clock[0] + 1.0)
    calls = LeaseCallbacks(
        lambda run_ids, deadline: None, news.put_nowait, lambda keys: None, lambda error: None, no_attempt
    )
    thread = LeaseThread(SlowStore(), "me", leases, lambda: clock[0], calls)
    thread.start()
    try:
        async with asyncio.timeout(PATIENCE):
            renewed = await news.get()
    finally:
        await thread.stop()
    assert (renewed.revisions, renewed.deadline) == ([(1, 1)], 103.0)
    assert lease.deadline >= 103.0


@asynccontextmanager
async def keeping(store: MemoryStore, length: float = 0.6) -> AsyncIterator[Kept]:
    kept = Kept(store, length)
    kept.leases.beat(time.monotonic())
    kept.thread.start()
    try:
        yield kept
    finally:
        await kept.thread.stop()


async def claimed(store: MemoryStore, length: float = 0.6) -> Row:
    await put(store, "ns/a")
    batch = await store.claim("me", ["job"], limit=1, ahead=0, lease=round(length * SECOND))
    return batch.rows[0]


async def test_the_thread_renews_as_long_as_the_row_is_owned() -> None:
    store = MemoryStore()
    async with keeping(store) as kept:
        row = await claimed(store)
        first = row.wake_at
        lease = kept.leases.add(row.key, row.version, time.monotonic() + 0.6)
        lease.run_ids = ("run",)
        for _ in range(3):
            await kept.until(lambda news: isinstance(news, Renewed) and news.revisions == [(row.key, 1)])
        after = (await row_of(store, "ns/a")).wake_at
        assert first is not None
        assert after is not None
        assert after > first
        assert {runs for runs, _, _ in kept.extended} == {("run",)}
        assert all(thread != threading.get_ident() for _, _, thread in kept.extended)
        kept.leases.drop(lease)


async def test_the_thread_stops_while_jobs_block_every_thread_of_the_default_pool() -> None:
    loop, free = asyncio.get_running_loop(), threading.Event()
    loop.set_default_executor(ThreadPoolExecutor(1))
    blocked = loop.run_in_executor(None, free.wait)
    try:
        async with asyncio.timeout(PATIENCE), keeping(MemoryStore()) as kept:
            pass
        assert not kept.thread._thread.is_alive()
        assert not blocked.done()
    finally:
        free.set()
        await blocked


async def test_the_thread_reports_lost_and_edited_rows() -> None:
    store = MemoryStore()
    async with keeping(store) as kept:
        row = await claimed(store)
        kept.leases.add(row.key, row.version, time.monotonic() + 0.6)
        await put(store, "ns/a", payload=b"other")
        await kept.until(lambda news: isinstance(news, Renewed) and news.revisions == [(row.key, 2)])
        await store.delete(["ns/a"])
        await kept.until(lambda news: isinstance(news, Renewed) and news.lost == [row.key])


class Failing(MemoryStore):
    """Its renewers fail with errors that no store should raise."""

    def __init__(self, database: MemoryDatabase | None = None, *, errors: Sequence[BaseException]) -> None:
        super().__init__(database)
        self.errors = list(errors)

    @asynccontextmanager
    async def renewer(self, replica: str) -> AsyncIterator[Renewer]:
        if self.errors:
            raise self.errors.pop(0)
        async with super().renewer(replica) as renewer:
            yield renewer


@pytest.mark.parametrize(
    "error", [ssl.SSLCertVerificationError("certificate has expired"), KeyError("a bug"), SystemExit(1)], ids=repr
)
async def test_a_failure_of_the_thread_is_reported_and_renewals_go_on(error: BaseException) -> None:
    store = Failing(errors=[error])
    with capture_logs() as logs:
        async with keeping(store, 3.0) as kept:
            row = await claimed(store, 60.0)
            kept.leases.add(row.key, row.version, time.monotonic() + 1.9)
            await kept.until(lambda news: isinstance(news, Renewed) and news.revisions == [(row.key, 1)])
    assert [type(failure) for failure in kept.failures] == [type(error)]
    assert [entry["log_level"] for entry in logs if "lease thread failed" in entry["event"]] == ["error"]


@pytest.mark.parametrize("error", [KeyError("a bug"), SystemExit(1)], ids=repr)
async def test_a_thread_that_always_fails_still_gives_its_leases_up_in_time(error: BaseException) -> None:
    store = Failing(errors=[error] * 1000)
    async with keeping(store) as kept:
        row = await claimed(store)
        deadline = time.monotonic() + 0.6
        kept.leases.add(row.key, row.version, deadline)
        assert await kept.until(lambda news: isinstance(news, list)) == [row.key]


async def test_a_thread_that_ended_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(thread: LeaseThread, error: BaseException) -> None:
        raise error

    monkeypatch.setattr(LeaseThread, "_report_failure", fail)
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    store = Failing(errors=[KeyError("a bug")])
    with capture_logs() as logs:
        async with keeping(store, 3.0) as kept:
            row = await claimed(store, 60.0)
            kept.leases.add(row.key, row.version, time.monotonic() + 1.9)
            await kept.until(lambda news: isinstance(news, Renewed) and news.revisions == [(row.key, 1)])
    assert [entry["log_level"] for entry in logs if "lease thread has ended" in entry["event"]] == ["error"]


async def test_leases_are_given_up_even_if_the_thread_hangs() -> None:
    """An executor blocks the thread in ``extend``, for example."""
    store = MemoryStore()
    release = threading.Event()
    async with keeping(store) as kept:
        try:
            row = await claimed(store, 60.0)
            assert kept.thread._running is not None
            kept.thread._running.call_soon_threadsafe(release.wait)
            kept.leases.add(row.key, row.version, time.monotonic() + 0.3)
            assert await kept.until(lambda news: isinstance(news, list)) == [row.key]
        finally:
            release.set()


async def test_a_failing_executor_does_not_hide_that_rows_were_lost() -> None:
    store = MemoryStore()
    async with keeping(store) as kept:

        def fail(run_ids: Sequence[str], deadline: float) -> None:
            raise KeyError("a bug of an executor")

        kept.thread._calls.extend = fail
        row = await claimed(store)
        kept.leases.add(row.key, row.version, time.monotonic() + 0.6).run_ids = ("run",)
        kept.leases.add("deleted", 1, time.monotonic() + 0.6)
        await kept.until(lambda news: isinstance(news, Renewed) and news.lost == ["deleted"])


async def test_a_lost_row_is_claimed_again_when_its_lease_ends() -> None:
    """And not at the heartbeat, which is an hour away here. No other replica would claim it."""

    class FirstAttemptHangs(Jobs):
        async def run(self, attempt: Attempt) -> Result:
            self.behave = for_ever if attempt.attempt == 1 else ok
            return await super().run(attempt)

    jobs = FirstAttemptHangs()
    store = Unreachable(MemoryDatabase())
    await put(store, "ns/a")
    async with running(replica_of(store, jobs, lease=0.6, heartbeat=3600.0)):
        assert (await jobs.begun.get()).attempt == 1
        await jobs.cancelled.get()
        assert (await jobs.begun.get()).attempt == 2


async def test_a_release_without_an_answer_is_followed_by_a_claim_when_the_row_is_due() -> None:
    class LosesFirstRelease(MemoryStore):
        lost = 0

        async def settle(self, replica: str, settlements: Sequence[Settlement]) -> list[bool]:
            answer = await super().settle(replica, settlements)
            if not self.lost:
                self.lost += 1
                raise StoreUnavailable("the answer was lost")
            return [False] * len(answer)  # as if another answer of the store had been lost, too

    now = await (store := LosesFirstRelease()).now()
    definition = Definition(kind="job", triggers=(EveryTrigger(SECOND),), keep=KEEP_ALL)
    await store.put([desired("ns/a", definition, now)], replace=False)
    jobs = Jobs()
    async with running(replica_of(store, jobs, lease=600.0, heartbeat=3600.0, ahead=0.1)):
        await jobs.begun.get()
        await jobs.begun.get()


class Unreachable(MemoryStore):
    """No lease can be renewed here."""

    away = True

    @asynccontextmanager
    async def renewer(self, replica: str) -> AsyncIterator[Renewer]:
        if self.away:
            raise StoreUnavailable("the store is away")
        async with super().renewer(replica) as renewer:
            yield renewer


async def test_the_thread_reports_leases_that_it_can_not_renew_in_time() -> None:
    store = Unreachable()
    async with keeping(store) as kept:
        row = await claimed(store)
        kept.leases.add(row.key, row.version, time.monotonic() + 0.6)
        assert await kept.until(lambda news: isinstance(news, list)) == [row.key]


async def test_a_replica_that_can_not_renew_stops_its_job() -> None:
    async def endless(attempt: Attempt) -> Result:
        return await asyncio.Event().wait() and Result(True)

    database = MemoryDatabase()
    jobs, watcher = Jobs(endless), Watcher()
    store = Unreachable(database)
    await put(store, "ns/a")
    async with running(replica_of(store, jobs, observer=watcher, lease=0.6, name="cut off")):
        await jobs.begun.get()
        await jobs.cancelled.get()
        await watcher.until_event("fenced")
    assert watcher.records == []
    other = Jobs()
    async with running(replica_of(MemoryStore(database), other)):
        assert (await other.begun.get()).attempt >= 2


# ---------------------------------------------------------------- a job that blocks the event loop


def in_a_thread(main: Callable[[], Any]) -> threading.Thread:
    """A replica with its own event loop, which its job will block."""
    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    return thread


async def test_a_blocked_event_loop_keeps_its_lease() -> None:
    database = MemoryDatabase()
    begun, watcher, rival = threading.Event(), Watcher(), Jobs()

    async def blocks(attempt: Attempt) -> Result:
        begun.set()
        time.sleep(2.5)  # noqa: ASYNC251  # what a job in Python may do
        return Result(True)

    async def blocked() -> None:
        async with running(replica_of(MemoryStore(database), Jobs(blocks), observer=watcher, lease=0.6, name="busy")):
            await watcher.until_recorded()

    await put(MemoryStore(database), "ns/a")
    thread = in_a_thread(blocked)
    await asyncio.to_thread(begun.wait, PATIENCE)
    async with running(replica_of(MemoryStore(database), rival, lease=0.6, heartbeat=0.05)):
        await asyncio.to_thread(thread.join)
    assert rival.begun.empty()
    assert [(record.outcome, record.attempt, record.replica) for record in watcher.records] == [
        (Outcome.SUCCEEDED, 1, "busy")
    ]


async def test_a_job_that_blocks_for_longer_than_a_minute_does_not_run_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row that waits beside it is given up, and the log says which job blocks the event loop."""
    monkeypatch.setattr(leases_module, "WEDGED_AFTER", 1.5)
    database = MemoryDatabase()
    begun, unblocked, rival, blocker = threading.Event(), threading.Event(), Watcher(), Watcher()
    jobs = Jobs()

    async def blocks(attempt: Attempt) -> Result:
        begun.set()
        unblocked.wait(PATIENCE)
        return Result(True)

    async def blocked() -> None:
        store = MemoryStore(database)
        async with running(replica_of(store, Jobs(blocks), observer=blocker, lease=0.6, ahead=PATIENCE, name="busy")):
            await blocker.until_recorded()

    store = MemoryStore(database)
    now = await store.now()
    waits = single_slot(now + 3 * SECOND // 2)
    await store.put([desired("ns/waits", waits, now)], replace=False)
    await put(store, "ns/blocks")
    with capture_logs() as logs:
        thread = in_a_thread(blocked)
        await asyncio.to_thread(begun.wait, PATIENCE)
        async with running(replica_of(MemoryStore(database), jobs, observer=rival, lease=0.6, heartbeat=0.05)):
            attempt = await jobs.begun.get()
            assert attempt.name == "waits"
            await rival.until_recorded()
            unblocked.set()
            await asyncio.to_thread(thread.join)
        assert jobs.begun.empty()
    assert [(record.slug, record.outcome, record.attempt) for record in blocker.records] == [
        ("ns/blocks", Outcome.SUCCEEDED, 1)
    ]
    (line,) = [line for line in logs if "event loop has been blocked" in line["event"]]
    assert line["blocked_by"] == "ns/blocks"
    assert "threading.py" in line["at"]


def test_an_attempt_has_outlived_its_lease_if_the_event_loop_has_not_run_since_to_stop_it() -> None:
    leases = beating()
    lease = leases.add(1, 7, 115.0)
    lease.run_ids = ("run",)
    assert leases.expired(112.5) == [1]
    assert not leases.outlived("run", 114.9)
    assert not leases.outlived("another", 115.1)
    assert leases.outlived("run", 115.1)
    assert not leases.outlived("run", 115.2), "it is reported once"
    leases.add(2, 7, 115.0).run_ids = ("late",)
    assert leases.expired(300.0) == [2]
    assert not leases.outlived("late", 300.0 + FENCE_LIMIT / 2), "this process was suspended, and may stop it yet"
    leases.beat(300.5)
    assert not leases.outlived("late", 400.0), "the event loop runs, and has stopped it"


async def test_a_job_that_blocks_while_its_lease_can_not_be_renewed_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A program that runs nothing else ends itself then: another replica may start the run."""
    monkeypatch.setattr(leases_module, "FENCE_LIMIT", 0.1)
    database = MemoryDatabase()
    begun, outlived = threading.Event(), threading.Event()
    reported: list[str] = []

    async def blocks(attempt: Attempt) -> Result:
        begun.set()
        outlived.wait(PATIENCE)
        return Result(True)

    def report(slug: str) -> None:
        reported.append(slug)
        outlived.set()

    async def blocked() -> None:
        watcher, store = Watcher(), Unreachable(database)
        async with running(replica_of(store, Jobs(blocks), observer=watcher, lease=0.6, on_outlived=report)):
            await watcher.until_recorded()

    await put(MemoryStore(database), "ns/blocks")
    with capture_logs() as logs:
        await asyncio.to_thread(in_a_thread(blocked).join)
    assert begun.is_set()
    assert reported == ["ns/blocks"]
    (line,) = [line for line in logs if "its lease has ended" in line["event"]]
    assert (line["slug"], line["log_level"]) == ("ns/blocks", "error")


async def test_a_takeover_counts_as_a_lost_attempt() -> None:
    """If an owner dies, its lease expires, and every run that it could have started counts as started."""
    database = MemoryDatabase()
    store, jobs = MemoryStore(database), Jobs()
    await put(store, "ns/a")
    await store.claim("vanished", ["job"], limit=1, ahead=0, lease=SECOND // 5)

    async def should_poll(attempt: Attempt) -> Result:
        (run,) = State.decode((await row_of(store, "ns/a")).state).runs
        assert (run.attempt, run.lost) == (2, 1)
        return Result(True)

    jobs.behave = should_poll
    watcher = Watcher()
    async with running(replica_of(MemoryStore(database), jobs, observer=watcher)):
        assert (await jobs.begun.get()).attempt == 2
        await watcher.until_recorded()
    assert watcher.records[0].outcome is Outcome.SUCCEEDED
