"""Hooks are called at least once, whatever ended the run, and whichever replica calls them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from scheduledjob.domain.schedule.backoff import Exponential, Fixed
from scheduledjob.domain.schedule.definition import Timeouts
from scheduledjob.domain.schedule.state import Outcome, Run, State, record_of
from scheduledjob.domain.time.instants import HOUR, SECOND
from scheduledjob.domain.triggers.every import EveryTrigger
from scheduledjob.engine import hook_delivery, timing
from scheduledjob.engine.executor import Attempt, Result
from scheduledjob.engine.hook_delivery import MAX_ATTEMPTS
from scheduledjob.stores.memory import MemoryStore

from .support import PATIENCE, Jobs, Watcher, desired, for_ever, ok, put, replica_of, row_of, running, single_slot

if TYPE_CHECKING:
    from collections.abc import Callable

    from scheduledjob.domain.schedule.state import RunRecord

FAILURE: dict[str, Any] = {"on_failure": ({"url": "f"},)}


class Hooks:
    """Records the calls of hooks; ``fails`` says which of them fail."""

    def __init__(self, fails: Callable[[int], bool] = lambda number: False) -> None:
        self.calls: asyncio.Queue[tuple[Any, Attempt, RunRecord]] = asyncio.Queue()
        self._fails = fails
        self._count = 0

    async def __call__(self, hook: Any, attempt: Attempt, record: RunRecord) -> Result:
        self._count += 1
        self.calls.put_nowait((hook, attempt, record))
        return Result(not self._fails(self._count), "HTTP 500")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook_delivery, "HOOK_FIRST_RETRY_DELAY", 0.001)
    monkeypatch.setattr(hook_delivery, "HOOK_LAST_RETRY_DELAY", 0.001)


async def nothing_is_left(store: MemoryStore) -> bool:
    return not store._tables.hook_calls._calls


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.SUCCEEDED])
async def test_hooks_are_called_once_after_the_last_retry(store: MemoryStore, outcome: Outcome) -> None:
    async def fails_once_or_for_ever(attempt: Attempt) -> Result:
        return Result(outcome is Outcome.SUCCEEDED and attempt.attempt == 3, "exit code 3")

    hooks = Hooks()
    defined: dict[str, Any] = {"on_failure": ({"url": "f"},), "on_success": ({"url": "s"}, {"url": "s2"})}
    await put(store, "ns/a", retry=Fixed([0.01, 0.01]), **defined)
    async with running(replica_of(store, Jobs(fails_once_or_for_ever), hook=hooks)):
        wanted = defined[f"on_{['failure', 'success'][outcome == 'Succeeded']}"]
        called = [await hooks.calls.get() for _ in wanted]
    assert hooks.calls.empty()
    assert sorted(hook["url"] for hook, _, _ in called) == sorted(hook["url"] for hook in wanted)
    for _, attempt, record in called:
        assert (attempt.attempt, record.outcome, record.attempt) == (3, outcome, 3)
        assert (attempt.namespace, attempt.name, attempt.run_id) == ("ns", "a", record.run_id)
        assert await store.recorded([record.run_id]) == {record.run_id}
    assert await nothing_is_left(store)


@pytest.mark.parametrize("ended_by", ["owner lost", "total"])
async def test_a_run_that_fails_without_an_end_of_its_attempt_calls_its_hook(store: MemoryStore, ended_by: str) -> None:
    now = await store.now()
    begun = now - 50 * SECOND
    lost = ended_by == "owner lost"
    timeouts = Timeouts() if lost else Timeouts(total=30 * SECOND)
    definition = single_slot(begun, timeouts=timeouts, retry=Exponential(), triggers=(EveryTrigger(HOUR),), **FAILURE)
    row = desired("ns/a", definition, begun)
    run = Run(slot=begun, due=begun, attempt=5, lost=4, begun=begun)
    row.state = State(decided_until=begun, when=definition.when_digest, runs=[run]).encode()
    row.wake_at = begun
    await store.put([row], replace=False)
    if lost:
        await store.claim("a-replica-that-dies", ["job"], limit=1, ahead=0, lease=1)
    hooks, jobs = Hooks(), Jobs()
    async with running(replica_of(store, jobs, hook=hooks)):
        _, attempt, record = await hooks.calls.get()
    assert (record.outcome, attempt.attempt) == (Outcome.FAILED, 5)
    assert ("OwnerLost" if lost else "timeouts.total") in record.reason
    assert jobs.begun.empty()


async def test_a_run_that_failed_when_its_row_was_made_from_status_is_recorded_and_calls_its_hook(
    store: MemoryStore,
) -> None:
    now = await store.now()
    definition = single_slot(now, triggers=(EveryTrigger(HOUR),), **FAILURE)
    row = desired("ns/a", definition, now)
    run = Run(slot=now, due=now, attempt=5, begun=now)
    ended = record_of(run, Outcome.FAILED, now - HOUR, uid=row.uid, slug="", keep=definition.keep, reason="OwnerLost")
    row.state = State(decided_until=now, when=definition.when_digest, unrecorded=(ended,)).encode()
    row.wake_at = now
    await store.put([row], replace=False)
    hooks = Hooks()
    async with running(replica_of(store, Jobs(), hook=hooks)):
        await hooks.calls.get()
    (record,) = await store.history("ns/a")
    assert (record.run_id, record.outcome, record.attempt) == (ended.run_id, Outcome.FAILED, 5)
    assert record.finished >= now
    assert not State.decode((await row_of(store, "ns/a")).state).unrecorded


async def test_a_cancelled_run_calls_no_hook(store: MemoryStore) -> None:
    hooks, jobs, watcher = Hooks(), Jobs(for_ever), Watcher()
    await put(store, "ns/a", on_success=({"url": "s"},), **FAILURE)
    async with running(replica_of(store, jobs, hook=hooks, observer=watcher)):
        await jobs.begun.get()
        await store.delete(["ns/a"])
        await watcher.until_event("fenced")
    assert [record.outcome for record in await store.history("ns/a")] == [Outcome.CANCELLED]
    assert hooks.calls.empty()
    assert await nothing_is_left(store)


@pytest.mark.usefixtures("quick")
async def test_a_hook_that_fails_is_called_again_with_the_same_run(store: MemoryStore) -> None:
    hooks = Hooks(lambda number: number < 3)
    await put(store, "ns/a", on_success=({"url": "s"},))
    async with running(replica_of(store, Jobs(ok), hook=hooks)):
        run_ids = [(await hooks.calls.get())[1].run_id for _ in range(3)]
    assert len(set(run_ids)) == 1
    assert hooks.calls.empty()
    assert await nothing_is_left(store)


@pytest.mark.usefixtures("quick")
async def test_a_hook_that_always_fails_is_given_up_and_reported(store: MemoryStore) -> None:
    given_up: asyncio.Queue[tuple[str, str, int, str]] = asyncio.Queue()

    class Reported(Watcher):
        def hook_given_up(self, slug: str, uid: str, attempts: int, reason: str) -> None:
            given_up.put_nowait((slug, uid, attempts, reason))

    hooks = Hooks(lambda number: True)
    await put(store, "ns/a", on_success=({"url": "s"},))
    async with running(replica_of(store, Jobs(ok), hook=hooks, observer=Reported())):
        assert await given_up.get() == ("ns/a", "uid-of-ns/a", MAX_ATTEMPTS, "HTTP 500")
    assert hooks.calls.qsize() == MAX_ATTEMPTS
    assert await nothing_is_left(store)


async def test_another_replica_calls_the_hooks_of_one_that_died(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung = asyncio.Event()

    async def hangs(hook: Any, attempt: Attempt, record: RunRecord) -> Result:
        hung.set()
        return await asyncio.Event().wait() and Result(True)

    await put(store, "ns/a", on_success=({"url": "s"},))
    monkeypatch.setattr(hook_delivery, "HOOK_CLAIM", 0.01)
    dies = asyncio.create_task(replica_of(store, Jobs(ok), hook=hangs).run())
    await asyncio.wait_for(hung.wait(), PATIENCE)
    dies.cancel()
    await asyncio.wait([dies])
    monkeypatch.setattr(hook_delivery, "HOOK_POLL_INTERVAL", 0.01)
    hooks = Hooks()
    async with running(replica_of(store, Jobs(ok), hook=hooks)):
        _, _, record = await hooks.calls.get()
    assert record.outcome is Outcome.SUCCEEDED


async def test_the_hook_of_the_last_run_is_called_before_the_replica_ends(store: MemoryStore) -> None:
    stopped: list[bool] = []
    hooks = Hooks()

    async def ends_at_the_stop(attempt: Attempt) -> Result:
        replica.stop()
        return Result(True)

    await put(store, "ns/a", on_success=({"url": "s"},))
    replica = replica_of(store, Jobs(ends_at_the_stop), hook=hooks, grace=PATIENCE)
    await asyncio.wait_for(replica.run(), PATIENCE)
    stopped.append(True)
    assert hooks.calls.qsize() == 1
    assert await nothing_is_left(store)


async def test_hooks_that_hang_in_one_namespace_leave_room_for_others(store: MemoryStore) -> None:
    calls: asyncio.Queue[str] = asyncio.Queue()

    async def hangs_in_one(hook: Any, attempt: Attempt, record: RunRecord) -> Result:
        calls.put_nowait(attempt.namespace)
        return Result(True) if attempt.namespace == "quiet" else await asyncio.Event().wait() and Result(True)

    await put(store, *(f"busy/{number}" for number in range(200)), on_success=({"url": "s"},))
    watcher = Watcher()
    async with running(replica_of(store, Jobs(ok), hook=hangs_in_one, observer=watcher, grace=0.0)):
        await watcher.until_recorded(200)
        await put(store, "quiet/a", on_success=({"url": "s"},))
        while await calls.get() != "quiet":
            pass
        assert calls.empty()


def test_a_claim_outlasts_the_call_and_a_hook_is_tried_for_more_than_an_hour() -> None:
    assert timing.HOOK_CLAIM > timing.HOOK_LIMIT
    delays = [min(timing.HOOK_FIRST_RETRY_DELAY * 2**n, timing.HOOK_LAST_RETRY_DELAY) for n in range(MAX_ATTEMPTS - 1)]
    assert 3600 < sum(delays) < 7200, "an endpoint may be away for an hour"


async def test_an_overdue_schedule_calls_its_failure_hook_once(store: MemoryStore) -> None:
    hooks = Hooks()
    await put(store, "ns/a", expect_success_within=SECOND // 10, on_failure=({"url": "f"},))
    watcher = Watcher()
    async with running(replica_of(store, Jobs(for_ever), observer=watcher, hook=hooks, grace=0.0)):
        _, _, record = await hooks.calls.get()
    assert (record.slug, record.outcome, record.reason) == ("ns/a", Outcome.FAILED, "Overdue: no success for 0.1s")
    assert hooks.calls.empty()
    assert State.decode((await row_of(store, "ns/a")).state).overdue
    assert await store.history() == []
