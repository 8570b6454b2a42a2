"""A replica and the rows of a cluster: manual requests, detached attempts, schedules that follow others, health."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from scheduledjob.domain.schedule.definition import Concurrency, Definition
from scheduledjob.domain.schedule.requests import NO_REQUESTS, Requests
from scheduledjob.domain.schedule.state import Outcome, State
from scheduledjob.domain.time.instants import DAY, SECOND
from scheduledjob.domain.triggers.every import EveryTrigger
from scheduledjob.domain.triggers.following import FollowingTrigger
from scheduledjob.domain.triggers.manual import ManualTrigger
from scheduledjob.engine.executor import CANCELLED, RELEASED, Attempt, Result
from scheduledjob.engine.observer import Stats
from scheduledjob.engine.replica import Replica
from scheduledjob.engine.store import StoreUnavailable
from scheduledjob.engine.stored_row import NewRow, Origin
from scheduledjob.stores.memory import MemoryDatabase, MemoryStore

from .support import PATIENCE, Jobs, Watcher, desired, for_ever, ok, put, replica_of, row_of, running, single_slot

if TYPE_CHECKING:
    from scheduledjob.domain.time.instants import Instant


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def seen(
    slug: str, definition: Definition, created: Instant, requests: Requests = NO_REQUESTS, generation: int = 1
) -> NewRow:
    """The row of an object in a cluster, as the reconciler writes it."""
    row = desired(slug, definition, created, payload=b"the spec's")
    due = created if row.wake_at is None else row.wake_at  # a follower polls for the first time
    return replace(row, origin=Origin.CLUSTER, generation=generation, requests=requests.encode(), wake_at=due)


def far_away(**fields: Any) -> Definition:
    """A definition that does nothing by itself for a day."""
    return single_slot(0, **{"triggers": (EveryTrigger(DAY),)} | fields)


# ---------------------------------------------------------------- manual requests


async def test_a_manual_run_of_a_row_that_nobody_owns(store: MemoryStore) -> None:
    now = await store.now()
    jobs, watcher = Jobs(), Watcher()
    async with running(replica_of(store, jobs, observer=watcher)):
        await store.reconcile([seen("ns/a", far_away(), now)])
        for _ in range(3):
            await store.reconcile([seen("ns/a", far_away(), now, Requests(run="t", payload=b"mine"))])
        attempt = await jobs.begun.get()
        await watcher.until(lambda: "ns/a" in watcher.states and watcher.states["ns/a"].succeeded == 1)
        await store.reconcile([seen("ns/a", far_away(suspend=True), now, Requests(run="t", payload=b"mine"), 2)])
        await watcher.until(lambda: watcher.states["ns/a"].generation == 2)
    assert (attempt.run_id, attempt.payload) == ("uid-of-ns/a-t", b"mine")
    assert [(record.run_id, record.manual) for record in watcher.records] == [("uid-of-ns/a-t", True)]
    assert State.decode((await row_of(store, "ns/a")).state).handled == ("run-now/t",)
    assert jobs.begun.empty()


async def test_a_schedule_with_only_a_manual_trigger_runs_on_request(store: MemoryStore) -> None:
    now = await store.now()
    by_hand = single_slot(0, triggers=(ManualTrigger(),))
    jobs, watcher = Jobs(), Watcher()
    async with running(replica_of(store, jobs, observer=watcher)):
        await store.reconcile([seen("ns/a", by_hand, now)])
        await store.reconcile([seen("ns/a", by_hand, now, Requests(run="t1"))])
        assert (await jobs.begun.get()).run_id == "uid-of-ns/a-t1"
        await watcher.until(lambda: "ns/a" in watcher.states and watcher.states["ns/a"].succeeded == 1)
        await store.reconcile([seen("ns/a", by_hand, now, Requests(run="t2"))])
        assert (await jobs.begun.get()).run_id == "uid-of-ns/a-t2"
        await watcher.until(lambda: watcher.states["ns/a"].succeeded == 2)
    state = State.decode((await row_of(store, "ns/a")).state)
    assert (state.completed, state.next, state.handled) == (None, None, ("run-now/t1", "run-now/t2"))


async def test_a_manual_run_does_not_change_the_payload_of_its_schedule(store: MemoryStore) -> None:
    async def changes(attempt: Attempt) -> Result:
        return Result(True, payload=b"changed")

    now = await store.now()
    watcher = Watcher()
    await store.reconcile([seen("ns/a", far_away(), now)])
    async with running(replica_of(store, Jobs(changes), observer=watcher)):
        await store.reconcile([seen("ns/a", far_away(), now, Requests(run="t", payload=b"mine"))])
        await watcher.until_recorded()
    assert (await row_of(store, "ns/a")).payload == b"the spec's"


async def test_a_cancel_request_reaches_the_active_run(store: MemoryStore) -> None:
    now = await store.now()
    definition = single_slot(now - SECOND // 2)
    jobs, watcher = Jobs(for_ever), Watcher()
    async with running(replica_of(store, jobs, observer=watcher)):
        await store.reconcile([seen("ns/a", definition, now - SECOND)])
        attempt = await jobs.begun.get()
        await store.reconcile([seen("ns/a", definition, now - SECOND, Requests(cancel=attempt.run_id))])
        assert (await jobs.cancelled.get()).ending == CANCELLED
        await watcher.until_recorded()
    (record,) = watcher.records
    assert (record.outcome, record.reason) == (Outcome.CANCELLED, "cancelled by hand")


async def test_unreadable_requests_are_ignored(store: MemoryStore) -> None:
    now = await store.now()
    row = replace(
        seen("ns/a", single_slot(now - SECOND // 2), now - SECOND), requests='{"run":["from a later version"]}'
    )
    row.state = replace_revision(row.state)
    watcher = Watcher()
    with capture_logs() as logs:
        async with running(replica_of(store, Jobs(), observer=watcher)):
            await store.reconcile([row])
            await watcher.until_recorded()
    assert any("can't read the manual requests" in entry["event"] for entry in logs)


def replace_revision(state: bytes) -> bytes:
    decoded = State.decode(state)
    decoded.revision = 0
    return decoded.encode()


async def test_slots_that_did_not_run_are_reported_once_they_are_stored(store: MemoryStore) -> None:
    now = await store.now()
    definition = far_away(triggers=(EveryTrigger(SECOND),))
    watcher = Watcher()
    async with running(replica_of(store, Jobs(), observer=watcher)):
        await store.reconcile([seen("ns/a", definition, now - 10 * SECOND)])
        await watcher.until_event("passed over")
    (passed_over,) = [detail for what, detail in watcher.events if what == "passed over"]
    assert passed_over[:2] == ("ns/a", "Missed")
    assert passed_over[2] in {9, 10}  # depends on where in a second the test begins


# ---------------------------------------------------------------- detached attempts


class Pods(Jobs):
    """An executor of Pods that live until the test ends them. ``gone`` confirms the end of cancelled ones."""

    def __init__(self) -> None:
        super().__init__(self.watch)
        self.done = asyncio.Event()
        self.gone = asyncio.Event()

    async def watch(self, attempt: Attempt) -> Result:
        if attempt.ending == CANCELLED:
            await self.gone.wait()
            return Result(False, "deleted", where="the-pod")
        try:
            await self.done.wait()
        except asyncio.CancelledError:
            if attempt.ending == CANCELLED:
                await self.gone.wait()
            raise
        return Result(True, where="the-pod")


async def test_a_shutdown_releases_detached_attempts_and_another_replica_adopts_them(store: MemoryStore) -> None:
    pods, others, watcher = Pods(), Pods(), Watcher()
    others.done.set()
    await put(store, "ns/a", *[f"ns/more-{n}" for n in range(5)])
    async with running(replica_of(store, pods, detached=True, grace=PATIENCE)):
        first = [await pods.begun.get() for _ in range(6)]
    assert {attempt.ending for attempt in first} == {RELEASED}
    (run,) = State.decode((await row_of(store, "ns/a")).state).runs
    assert (run.attempt, run.lost, run.detached, run.adoptable) == (1, 0, True, True)
    async with running(replica_of(store, others, detached=True, observer=watcher)):
        await watcher.until_recorded(6)
    assert {(record.attempt, record.replica) for record in watcher.records} == {(1, "the-pod")}
    assert {what for what, _ in watcher.events} >= {"adopted"}
    assert "started" not in {what for what, _ in watcher.events}


async def test_a_fenced_replica_releases_its_detached_attempts(store: MemoryStore) -> None:
    pods = Pods()
    await put(store, "ns/a")
    async with running(replica_of(store, pods, detached=True)):
        attempt = await pods.begun.get()
        await store.delete(["ns/a"])
        await pods.cancelled.get()
    assert attempt.ending == RELEASED


async def test_a_cancelled_run_stays_active_until_its_end_is_confirmed(store: MemoryStore) -> None:
    now = await store.now()
    definition = single_slot(now - SECOND // 2, concurrency=Concurrency.REPLACE)
    pods, watcher = Pods(), Watcher()
    async with running(replica_of(store, pods, detached=True, observer=watcher)):
        await store.reconcile([seen("ns/a", definition, now - SECOND)])
        attempt = await pods.begun.get()
        await store.reconcile([seen("ns/a", definition, now - SECOND, Requests(run="t"))])
        await watcher.until(lambda: bool(watcher.states and watcher.states["ns/a"].waiting))
        (run,) = watcher.states["ns/a"].runs
        assert (attempt.ending, run.cancel_reason) == (CANCELLED, "replaced by the manual run t")
        assert pods.begun.empty()
        pods.gone.set()
        assert (await pods.begun.get()).run_id == "uid-of-ns/a-t"
        pods.done.set()
        await watcher.until_recorded(2)
    assert [record.outcome for record in watcher.records] == [Outcome.CANCELLED, Outcome.SUCCEEDED]


async def test_the_next_replica_continues_a_cancellation(store: MemoryStore) -> None:
    now = await store.now()
    definition = single_slot(now - SECOND // 2)
    pods, others, watcher, later = Pods(), Pods(), Watcher(), Watcher()
    async with running(replica_of(store, pods, detached=True, observer=watcher, grace=PATIENCE)):
        await store.reconcile([seen("ns/a", definition, now - SECOND)])
        attempt = await pods.begun.get()
        await store.reconcile([seen("ns/a", definition, now - SECOND, Requests(cancel=attempt.run_id))])
        await watcher.until(lambda: bool(watcher.states and watcher.states["ns/a"].runs[0].cancel_reason))
    assert attempt.ending == RELEASED
    others.gone.set()
    async with running(replica_of(store, others, detached=True, observer=later)):
        await later.until_recorded()
    again = await others.begun.get()
    assert (again.attempt, again.adopted, again.ending) == (1, True, CANCELLED)
    (record,) = later.records
    assert (record.outcome, record.reason, record.replica) == (Outcome.CANCELLED, "cancelled by hand", "the-pod")


async def test_a_lost_detached_attempt_continues_as_the_same_attempt(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduledjob.engine.attempt_runner.LOST_RETRY_DELAY", 0.01)
    calls: list[Attempt] = []

    async def gives_up_twice(attempt: Attempt) -> Result:
        calls.append(attempt)
        return Result(len(calls) == 8, "the API server is away", lost=len(calls) < 8)

    watcher = Watcher()
    await put(store, "ns/a")
    async with running(replica_of(store, Jobs(gives_up_twice), detached=True, observer=watcher)):
        await watcher.until_recorded()
    assert {attempt.attempt for attempt in calls} == {1}
    assert watcher.records[0].outcome is Outcome.SUCCEEDED


async def test_the_executor_of_detached_attempts_resolves_payload_references(store: MemoryStore) -> None:
    jobs = Jobs()
    await put(store, "ns/a", payload_from={"secret": ["token", "k"]})
    async with running(replica_of(store, jobs, detached=True)):
        attempt = await jobs.begun.get()
    assert attempt.payload is None
    assert attempt.pending == 300.0


# ---------------------------------------------------------------- following


def followers_of(store: MemoryStore, follows: dict[str, str]) -> dict[str, Any]:
    return {"followers": lambda slug: [follower for follower, upstream in follows.items() if upstream == slug]}


async def test_a_chain_of_followers_runs_in_order(store: MemoryStore) -> None:
    now = await store.now()
    follows = {"ns/b": "ns/a", "ns/c": "ns/b"}
    jobs, watcher = Jobs(), Watcher()
    async with running(replica_of(store, jobs, observer=watcher, heartbeat=60.0, **followers_of(store, follows))):
        for slug, upstream in follows.items():
            trigger = FollowingTrigger(upstream.partition("/")[2])
            await store.reconcile([seen(slug, far_away(triggers=(trigger,)), now)])
        await store.reconcile([seen("ns/a", single_slot(now), now - 1)])
        await watcher.until_recorded(3)
    assert [record.slug for record in watcher.records] == ["ns/a", "ns/b", "ns/c"]
    a, b, c = watcher.records
    assert (b.slot - a.finished, c.slot - b.finished) == (0, 0)


async def test_a_follower_finds_ends_without_a_notification(store: MemoryStore) -> None:
    now = await store.now()
    watcher, later = Watcher(), Watcher()
    async with running(replica_of(store, Jobs(), observer=watcher)):
        await store.reconcile([seen("ns/a", single_slot(now), now - 1)])
        await watcher.until_recorded()
    await store.reconcile([seen("ns/b", far_away(triggers=(FollowingTrigger("a"),)), now - 1)])
    await store.touch(["ns/b"])
    async with running(replica_of(store, Jobs(), observer=later)):
        await later.until_recorded()
    assert [record.slug for record in later.records] == ["ns/b"]


class Away(MemoryStore):
    """A store that is unavailable while the test says so."""

    away = False

    def __init__(self, database: MemoryDatabase | None = None) -> None:
        super().__init__(database)
        self.should_poll: asyncio.Queue[None] = asyncio.Queue()

    async def history(self, *arguments: Any, **options: Any) -> Any:
        self.should_poll.put_nowait(None)
        self.check()
        return await super().history(*arguments, **options)

    async def touch(self, slugs: Any) -> None:
        self.check()
        await super().touch(slugs)

    async def now(self) -> Instant:
        self.check()
        return await super().now()

    def check(self) -> None:
        if self.away:
            raise StoreUnavailable("it is away")


async def test_a_follower_reads_again_after_an_outage_of_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduledjob.domain.schedule.followed_runs.POLL_RETRY_DELAY", SECOND // 20)
    database = MemoryDatabase()
    store = Away(database)
    now = await store.now()
    watcher = Watcher()
    async with running(replica_of(store, Jobs(), observer=watcher, **followers_of(store, {"ns/b": "ns/a"}))):
        store.away = True
        near = MemoryStore(database)
        await near.reconcile([seen("ns/b", far_away(triggers=(FollowingTrigger("a"),)), now - 1)])
        await near.reconcile([seen("ns/a", single_slot(now), now - 1)])
        await watcher.until_recorded()
        for _ in range(3):
            await store.should_poll.get()
        store.away = False
        await watcher.until_recorded(2)
    assert [record.slug for record in watcher.records] == ["ns/a", "ns/b"]


# ---------------------------------------------------------------- health


async def test_the_stats_count_what_a_replica_owns(store: MemoryStore) -> None:
    now = await store.now()
    jobs = Jobs(for_ever)
    await put(store, "ns/a", "ns/b")
    await store.put([desired("ns/soon", single_slot(now + 30 * SECOND), now)], replace=False)
    async with running(replica_of(store, jobs, ahead=60.0, grace=0.0)) as replica:
        for _ in range(2):
            await jobs.begun.get()
        assert replica.stats() == Stats(owned=3, ahead=1, executing=2)
        assert replica.alive


async def test_a_replica_waits_for_a_store_that_is_unavailable_at_its_start() -> None:
    store = Away()
    await put(store, "ns/a")
    store.away = True
    watcher = Watcher()
    replica = replica_of(store, Jobs(ok), observer=watcher)
    assert replica.stats() == Stats()
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        tasks.create_task(replica.run())
        assert not await replica.store_answers(0.5)
        assert replica.seconds_since_answer == float("inf")
        assert replica.alive
        store.away = False
        assert await replica.store_answers(0.5)
        await watcher.until_recorded()
        assert replica.seconds_since_answer < PATIENCE
        replica.stop()
    assert isinstance(replica, Replica)


async def test_each_manual_run_that_was_requested_before_a_replica_came_runs() -> None:
    store, jobs, watcher = MemoryStore(), Jobs(), Watcher()
    now = await store.now()
    for token in ("a", "b", "c"):
        await store.reconcile(
            [seen("ns/a", far_away(concurrency=Concurrency.QUEUE, queue_depth=5), now, Requests(run=token))]
        )
    async with running(replica_of(store, jobs, observer=watcher)):
        await watcher.until_recorded(3)
    assert [record.run_id for record in watcher.records] == [f"uid-of-ns/a-{token}" for token in "abc"]
