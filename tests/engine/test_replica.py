"""A replica on a real store and in real time: what it starts, how it shuts down, and what it reports."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from scheduledjob.domain.schedule.backoff import Fixed
from scheduledjob.domain.schedule.state import Outcome, State
from scheduledjob.domain.time.instants import HOUR, SECOND
from scheduledjob.domain.triggers.every import EveryTrigger
from scheduledjob.engine.executor import Attempt, Result
from scheduledjob.engine.store import StoreError, StoreUnavailable
from scheduledjob.engine.stored_row import Origin
from scheduledjob.engine.timers import MIN_CANCELLED
from scheduledjob.stores.memory import MemoryDatabase, MemoryStore

from .support import Jobs, Watcher, desired, for_ever, ok, put, replica_of, row_of, running, single_slot


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


async def fails(attempt: Attempt) -> Result:
    return Result(False, "exit code 3", 3)


@pytest.mark.parametrize("capacity", [1, 3])
async def test_capacity_is_never_exceeded(store: MemoryStore, capacity: int) -> None:
    full = asyncio.Event()

    async def until_full(attempt: Attempt) -> Result:
        if jobs.active == capacity:
            full.set()
        await full.wait()
        await asyncio.sleep(0)
        return Result(True)

    jobs, watcher = Jobs(until_full), Watcher()
    await put(store, *[f"ns/job-{n}" for n in range(30)])
    async with running(replica_of(store, jobs, observer=watcher, capacity=capacity, batch=7)):
        await watcher.until_recorded(30)
    assert jobs.most_active == capacity
    assert len({record.run_id for record in watcher.records}) == 30


async def test_no_more_rows_are_claimed_than_the_capacity(store: MemoryStore) -> None:
    jobs = Jobs(for_ever)
    await put(store, *[f"ns/job-{n}" for n in range(10)])
    async with running(replica_of(store, jobs, capacity=4, grace=0.0)):
        for _ in range(4):
            await jobs.begun.get()
        assert sum(row.owner is not None for row in await store.rows()) == 4


# ---------------------------------------------------------------- shutdown


async def test_a_shutdown_releases_rows_that_have_not_started(store: MemoryStore) -> None:
    now = await store.now()
    await store.put([desired("ns/later", single_slot(now + 2 * SECOND), now)], replace=False)
    watcher = Watcher()
    async with running(replica_of(store, Jobs(), observer=watcher, ahead=5.0)):
        await watcher.until_event("claimed")
        assert (await row_of(store, "ns/later")).owner is not None
    row = await row_of(store, "ns/later")
    assert row.owner is None
    jobs = Jobs()
    async with running(replica_of(store, jobs)):
        attempt = await jobs.begun.get()
    assert attempt.attempt == 1
    assert attempt.slot == now + 2 * SECOND


async def test_a_shutdown_lets_runs_finish_for_the_grace_period(store: MemoryStore) -> None:
    may_end = asyncio.Event()

    async def until_allowed(attempt: Attempt) -> Result:
        await may_end.wait()
        return Result(True)

    jobs, watcher = Jobs(until_allowed), Watcher()
    await put(store, "ns/slow")
    async with running(replica_of(store, jobs, observer=watcher, grace=20.0)) as replica:
        await jobs.begun.get()
        replica.stop()
        asyncio.get_running_loop().call_later(0.1, may_end.set)
    assert [record.outcome for record in watcher.records] == [Outcome.SUCCEEDED]


async def test_a_shutdown_counts_unfinished_attempts_as_lost(store: MemoryStore) -> None:
    jobs, watcher = Jobs(for_ever), Watcher()
    await put(store, "ns/hangs", retry=Fixed([500.0]))
    async with running(replica_of(store, jobs, observer=watcher, grace=0.05)):
        await jobs.begun.get()
    assert jobs.cancelled.qsize() == 1
    row = await row_of(store, "ns/hangs")
    assert row.owner is None
    (run,) = State.decode(row.state).runs
    assert (run.attempt, run.lost, run.failed) == (2, 1, 0)
    assert row.wake_at is not None
    assert row.wake_at <= await store.now()  # without waiting for a lease or a backoff
    other = Jobs()
    async with running(replica_of(store, other)):
        assert (await other.begun.get()).attempt == 2
    assert watcher.records == []


# ---------------------------------------------------------------- retries, hooks, events


async def test_the_observer_is_notified_of_each_event(store: MemoryStore) -> None:
    async def second_time(attempt: Attempt) -> Result:
        return Result(attempt.attempt > 1, "exit code 3", 3)

    watcher = Watcher()
    await put(store, "ns/a", retry=Fixed([0.02]))
    async with running(replica_of(store, Jobs(second_time), observer=watcher)):
        await watcher.until_recorded()
        await watcher.until_event("released")
    events = [event for event in watcher.events if event[0] not in {"claimed", "released"}]
    assert events == [
        ("started", 1),
        ("retrying", (1, "exit code 3")),
        ("started", 2),
        ("recorded", ["Succeeded"]),
    ]
    assert watcher.events[0] == ("claimed", "ns/a")
    (record,) = watcher.records
    assert await store.history() == [record]


async def test_an_executor_that_raises_is_a_failed_attempt(store: MemoryStore) -> None:
    async def bursts(attempt: Attempt) -> Result:
        raise ZeroDivisionError("by nothing")

    watcher = Watcher()
    await put(store, "ns/a", retry=Fixed([0.01], max_retries=0))
    async with running(replica_of(store, Jobs(bursts), observer=watcher)):
        await watcher.until_recorded()
    assert [(record.outcome, record.reason) for record in watcher.records] == [
        (Outcome.FAILED, "ZeroDivisionError: by nothing")
    ]


# ---------------------------------------------------------------- edits and deletions


async def test_an_edit_during_a_run_applies_from_the_next_attempt_on(store: MemoryStore) -> None:
    edited = asyncio.Event()

    async def fails_after_the_edit(attempt: Attempt) -> Result:
        await edited.wait()
        return Result(attempt.attempt > 1, "exit code 3")

    jobs, watcher = Jobs(fails_after_the_edit), Watcher()
    now = await store.now() - SECOND // 2
    definition = single_slot(now, retry=Fixed([600.0]))
    await store.put([desired("ns/a", definition, now - 1, payload=b"old")], replace=False)
    async with running(replica_of(store, jobs, observer=watcher)) as replica:
        assert (await jobs.begun.get()).payload == b"old"
        changed = single_slot(now, retry=Fixed([0.01]), job={"other": 1})
        await store.put([desired("ns/a", changed, now - 1, payload=b"new")], replace=True)
        assert replica._ownership is not None
        (owned,) = replica._ownership._owned.values()
        while owned.schedule.state.revision != 2:  # noqa: ASYNC110  # nothing reports a new revision
            await asyncio.sleep(0.001)
        edited.set()
        second = await jobs.begun.get()
        assert (second.payload, second.params, second.attempt) == (b"new", {"other": 1}, 2)
        await watcher.until_recorded()
    assert jobs.most_active == 1


async def test_a_deletion_stops_the_active_run(store: MemoryStore) -> None:
    jobs, watcher = Jobs(for_ever), Watcher()
    await put(store, "ns/a")
    async with running(replica_of(store, jobs, observer=watcher)):
        await jobs.begun.get()
        assert await store.delete(["ns/a"]) == [True]
        await watcher.until_event("fenced")
        await jobs.cancelled.get()
        assert [record.outcome for record in await store.history()] == [Outcome.CANCELLED]
    assert watcher.records == []
    assert await store.rows() == []


async def test_a_slug_created_again_while_its_run_stops_is_a_new_schedule(store: MemoryStore) -> None:
    jobs = Jobs(for_ever)
    await put(store, "ns/a")
    async with running(replica_of(store, jobs, grace=0.0)):
        await jobs.begun.get()
        await store.delete(["ns/a"])
        jobs.behave = ok
        await put(store, "ns/a")
        assert (await jobs.begun.get()).attempt == 1
    assert [record.outcome for record in await store.history()][-1] is Outcome.CANCELLED


# ---------------------------------------------------------------- payloads by reference


class Values:
    """``References`` with one ConfigMap."""

    async def resolve(self, kind: str, name: str, key: str) -> bytes:
        if (kind, name, key) == ("ConfigMap", "regions", "eu"):
            return b"Lisbon"
        raise LookupError(f'{kind} "{name}" has no key "{key}"')


@pytest.mark.parametrize(
    ("reference", "payload"),
    [
        ({"config_map": ["regions", "eu"]}, b"Lisbon"),
        ({"config_map": ["regions", "eu"], "optional": True}, b"Lisbon"),
        ({"secret": ["regions", "eu"], "optional": True}, None),
    ],
)
async def test_a_payload_by_reference(store: MemoryStore, reference: Any, payload: bytes | None) -> None:
    jobs = Jobs()
    await put(store, "ns/a", payload_from=reference)
    async with running(replica_of(store, jobs, references=Values())):
        attempt = await jobs.begun.get()
    assert attempt.payload == payload
    assert attempt.payload_is_secret == ("secret" in reference)


@pytest.mark.parametrize("references", [Values(), None])
async def test_a_missing_payload_reference_is_a_failed_attempt(store: MemoryStore, references: Values | None) -> None:
    jobs, watcher = Jobs(), Watcher()
    await put(store, "ns/a", payload_from={"secret": ["token", "k"]}, retry=Fixed([0.01]))
    async with running(replica_of(store, jobs, observer=watcher, references=references)):
        await watcher.until_recorded()
    (record,) = watcher.records
    assert (record.outcome, record.attempt) == (Outcome.FAILED, 2)
    assert ('Secret "token" has no key "k"' if references else "there are no Secrets or ConfigMaps") in record.reason
    assert jobs.begun.empty()


# ---------------------------------------------------------------- rows of other versions


async def test_rows_of_an_unknown_kind_are_not_claimed() -> None:
    database = MemoryDatabase()
    old, new = MemoryStore(database), MemoryStore(database)
    first, second, watcher = Jobs(), Jobs(), Watcher()
    await put(old, "ns/novel", kind="novel")
    await put(old, "ns/known")
    async with running(replica_of(old, first, observer=watcher)):
        await watcher.until_recorded()
        assert (await row_of(old, "ns/novel")).version == 0
        async with running(replica_of(new, second, kinds=["job", "novel"])):
            assert (await second.begun.get()).name == "novel"
    assert first.begun.qsize() == 1


@pytest.mark.parametrize("spoiled", ["definition", "state"])
async def test_an_unreadable_row_is_released_unchanged(store: MemoryStore, spoiled: str) -> None:
    now = await store.now()
    row = desired("ns/odd", single_slot(now - 1), now - 2)
    if spoiled == "state":
        row.state = b'{"floor":"somewhere"}'
    else:
        row.definition = '{"kind":"job","triggers":[{"trigger":"moon"}]}'
    await store.put([row], replace=False)
    watcher = Watcher()
    with capture_logs() as logs:
        async with running(replica_of(store, Jobs(), observer=watcher)):
            await put(store, "ns/good")
            await watcher.until_recorded()
    after = await row_of(store, "ns/odd")
    assert (after.definition, after.state, after.owner) == (row.definition, row.state, None)
    assert after.wake_at is not None
    assert after.wake_at > now + 30 * SECOND
    assert any(entry["log_level"] == "error" and entry.get("slug") == "ns/odd" for entry in logs)
    assert [record.slug for record in watcher.records] == ["ns/good"]


# ---------------------------------------------------------------- recurring and overdue schedules


async def test_a_recurring_schedule_runs_slot_after_slot(store: MemoryStore) -> None:
    now = await store.now()
    definition = single_slot(now, triggers=(EveryTrigger(SECOND, now - now % SECOND),))
    await store.put([desired("ns/every", definition, now)], replace=False)
    watcher = Watcher()
    async with running(replica_of(store, Jobs(), observer=watcher)):
        await watcher.until_recorded(3)
    slots = [record.slot for record in watcher.records]
    assert slots == [slots[0], slots[0] + SECOND, slots[0] + 2 * SECOND]
    assert all(record.started is not None and record.started >= record.slot for record in watcher.records)


async def test_an_overdue_schedule_is_reported(store: MemoryStore) -> None:
    watcher = Watcher()
    await put(store, "ns/a", expect_success_within=SECOND // 5, retry=Fixed([900.0]))
    async with running(replica_of(store, Jobs(fails), observer=watcher)):
        await watcher.until_event("overdue")


async def test_a_far_deadline_keeps_nothing_of_the_runs_before_it(store: MemoryStore) -> None:
    watcher = Watcher()
    await put(store, *(f"ns/{number}" for number in range(300)), expect_success_within=24 * HOUR)
    async with running(made := replica_of(store, Jobs(), observer=watcher)):
        await watcher.until_event("released", 300)
        assert made._ownership is not None
        timers = made._ownership._timers
        assert timers._items == {}
        assert len(timers._heap) <= MIN_CANCELLED + 1


async def test_a_job_receives_namespace_and_name_of_its_manifest(store: MemoryStore) -> None:
    jobs = Jobs()
    await put(store, "team-a/report")
    async with running(replica_of(store, jobs)):
        attempt = await jobs.begun.get()
    assert (attempt.namespace, attempt.name, attempt.uid) == ("team-a", "report", "uid-of-team-a/report")
    assert (await row_of(store, "team-a/report")).origin == Origin.MANIFEST.value


async def test_history_is_pruned_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduledjob.engine.replica.PRUNE_INTERVAL", 0.0)
    answers: list[int | StoreError] = [2, 0, StoreUnavailable("it is away"), 1, StoreError("it is referred to"), 1, 0]
    pruned = asyncio.Event()

    class Pruned(MemoryStore):
        async def prune(self, limit: int = 1000) -> int:
            answer = answers.pop(0) if answers else 0
            if not answers:
                pruned.set()
            if isinstance(answer, StoreError):
                raise answer
            return answer

    async with running(replica_of(Pruned(), Jobs())):
        await pruned.wait()
