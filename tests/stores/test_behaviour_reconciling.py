"""Every store: objects of a cluster, which many replicas write in any order, and tombstones of those that are gone."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from scheduledjob.domain.schedule.definition import Definition, Keep
from scheduledjob.domain.schedule.requests import Requests
from scheduledjob.domain.schedule.state import Outcome, Run, State, run_id
from scheduledjob.domain.time.instants import DAY, HOUR, SECOND
from scheduledjob.engine.store import Put, ReplicaInfo
from scheduledjob.engine.stored_row import Disposition, NewRow, Origin

from .support import (
    KIND,
    PLAIN,
    claim,
    desired,
    everything,
    is_gone,
    listening,
    put_due,
    read_row,
    record,
    settle,
    settlement,
    take,
    take_one,
)

if TYPE_CHECKING:
    from scheduledjob.domain.time.instants import Instant
    from scheduledjob.engine.store import Store
    from scheduledjob.engine.stored_row import Row

    from .conftest import StoreFactory

REQUESTS = '{"run":"token-1"}'


def observed(
    slug: str = "ns/job",
    uid: str = "uid-1",
    generation: int = 1,
    *,
    created_at: Instant = 1_000,
    wake_at: Instant | None = None,
    kind: str = KIND,
    definition: str = "",
    requests: str = "",
    payload: bytes | None = None,
    state: bytes = PLAIN,
) -> NewRow:
    """Return an object of a cluster as a replica observed it."""
    return NewRow(
        slug=slug,
        uid=uid,
        kind=kind,
        origin=Origin.CLUSTER,
        definition=definition,
        state=state,
        wake_at=wake_at,
        payload=payload,
        created_at=created_at,
        generation=generation,
        requests=requests,
    )


def running(now: Instant) -> bytes:
    return State(decided_until=now, runs=[Run(slot=now - 7, due=now - 7, begun=now - 6)]).encode()


async def reconcile(store: Store, row: NewRow) -> Put:
    (put,) = await store.reconcile([row])
    return put


def desired_fields(row: Row) -> tuple[object, ...]:
    return row.uid, row.generation, row.kind, row.definition, row.requests, row.payload


# ---- reconcile


async def test_a_new_object_is_read_as_it_was_observed(store: Store, other: Store) -> None:
    now = await store.now()
    new = observed(
        generation=7, created_at=now - DAY, wake_at=now + HOUR, definition="{}", requests=REQUESTS, payload=b"\x00\xff"
    )
    assert await reconcile(store, new) is Put.CREATED
    row = await read_row(other, "ns/job")
    assert desired_fields(row) == ("uid-1", 7, KIND, "{}", REQUESTS, b"\x00\xff")
    assert (row.origin, row.created_at, row.wake_at, row.state) == (Origin.CLUSTER, now - DAY, now + HOUR, PLAIN)
    assert (row.revision, row.owner, row.first, row.recovered) == (1, None, None, False)
    assert [row] == await other.rows(origin=Origin.CLUSTER)


async def test_a_claim_returns_generation_and_requests(store: Store) -> None:
    now = await store.now()
    await store.reconcile([observed(generation=3, wake_at=now - 1, requests=REQUESTS)])
    row = await take_one(store)
    assert (row.generation, row.requests, row.owner) == (3, REQUESTS, "alice")


async def test_a_put_row_has_no_generation_and_no_requests(store: Store) -> None:
    now = await store.now()
    claimed = dataclasses.replace(desired("job", now - 1), generation=4, requests=REQUESTS)
    await store.put([claimed], replace=False)
    assert ((row := await take_one(store)).generation, row.requests) == (0, "")
    assert await store.put([dataclasses.replace(claimed, payload=b"new")], replace=True) == [Put.UPDATED]
    assert ((row := await read_row(store, "job")).generation, row.requests) == (0, "")


async def test_an_object_observed_again_is_unchanged(store: Store, other: Store) -> None:
    new = observed(generation=2, definition="{}", requests=REQUESTS, payload=b"p")
    await store.reconcile([new])
    before = await everything(store)
    for state in (PLAIN, State(decided_until=99).encode()):
        again = dataclasses.replace(new, state=state, wake_at=5, created_at=77)
        assert await reconcile(other, again) is Put.UNCHANGED
    assert await everything(store) == before


@pytest.mark.parametrize(
    "change",
    [{"kind": "shell"}, {"definition": '{"kind":"x"}'}, {"requests": REQUESTS}, {"generation": 3}],
    ids=lambda change: next(iter(change)),
)
async def test_any_difference_is_an_update_that_is_due_at_once(
    store: Store, other: Store, store_factory: StoreFactory, change: dict[str, Any]
) -> None:
    now = await store.now()
    new = observed(generation=2, wake_at=now + DAY)
    await store.reconcile([new])
    before = await read_row(store, "ns/job")
    changed = dataclasses.replace(new, state=b"not this", **change)
    assert await reconcile(other, changed) is Put.UPDATED
    row = await read_row(store, "ns/job")
    assert desired_fields(row) == (
        new.uid,
        changed.generation,
        changed.kind,
        changed.definition,
        changed.requests,
        None,
    )
    assert (row.key, row.revision, row.state, row.created_at) == (before.key, 2, PLAIN, before.created_at)
    assert row.wake_at is not None
    assert now - SECOND <= row.wake_at <= await store.now() + SECOND
    # Each connection to Firestore has its own estimate of the clock, so the later time may be slightly less there.
    error = SECOND if store_factory.backend == "firestore" else 0
    assert row.edited_at >= before.edited_at - error
    assert await reconcile(store, changed) is Put.UNCHANGED


async def test_an_update_makes_a_row_without_wake_due(store: Store) -> None:
    await store.reconcile([observed()])
    assert (await read_row(store, "ns/job")).wake_at is None
    await store.reconcile([observed(generation=2)])
    assert (await take_one(store)).generation == 2


async def test_an_update_of_an_owned_row_keeps_its_lease_and_notifies(store: Store, other: Store) -> None:
    await store.reconcile([observed(wake_at=await store.now() - 1)])
    row = await take_one(store)
    async with listening(store) as received:
        assert await reconcile(other, observed(generation=2)) is Put.UPDATED
        if not store.polls:
            await received.change_of("ns/job")
    after = await read_row(store, "ns/job")
    assert (after.wake_at, after.owner, after.version) == (row.wake_at, "alice", row.version)
    assert await settle(store, settlement(row, Disposition.RELEASE, wake_at=None))
    assert (await take_one(store)).generation == 2


async def test_a_row_that_becomes_due_notifies(store: Store, other: Store) -> None:
    if store.polls:
        pytest.skip("this store does not notify")
    now = await store.now()
    await store.announce(ReplicaInfo("alice", "1", 0), now + HOUR)
    async with listening(store) as received:
        await other.reconcile([observed(wake_at=now + 5)])
        await received.due_by(now + 5)
        received.wakes.clear()
        await other.reconcile([observed(generation=2)])
        await received.due_by(await store.now())


@pytest.mark.parametrize("generation", [1, 2])
async def test_an_older_generation_is_stale(store: Store, other: Store, generation: int) -> None:
    await store.reconcile([observed(generation=3, definition="new")])
    before = await everything(store)
    assert await reconcile(other, observed(generation=generation, definition="old", requests=REQUESTS)) is Put.STALE
    assert await everything(store) == before


async def test_within_a_generation_the_payload_of_the_job_stays(store: Store) -> None:
    new = observed(wake_at=await store.now() - 1, payload=b"desired")
    await store.reconcile([new])
    row = await take_one(store)
    assert await settle(store, settlement(row, wake_at=None, payload=b"written"))
    assert await reconcile(store, new) is Put.UNCHANGED
    assert await reconcile(store, dataclasses.replace(new, requests=REQUESTS)) is Put.UPDATED
    assert (await read_row(store, "ns/job")).payload == b"written"
    assert await reconcile(store, observed(generation=2, payload=b"desired")) is Put.UPDATED
    assert (await read_row(store, "ns/job")).payload == b"desired"
    assert await reconcile(store, observed(generation=3)) is Put.UPDATED
    assert (await read_row(store, "ns/job")).payload is None


async def test_requests_that_newer_ones_replace_are_kept(store: Store) -> None:
    await store.reconcile([observed(requests=Requests(run="a", payload=b"p", cancel="x").encode())])
    second = observed(requests=Requests(run="b", cancel="x").encode())
    assert await reconcile(store, second) is Put.UPDATED
    assert await reconcile(store, second) is Put.UNCHANGED
    kept = Requests.decode((await read_row(store, "ns/job")).requests)
    assert kept == Requests(run="b", cancel="x", earlier=(Requests(run="a", payload=b"p"),))
    assert await reconcile(store, observed(requests=Requests(run="c", resume="r").encode())) is Put.UPDATED
    kept = Requests.decode((await read_row(store, "ns/job")).requests)
    assert kept == Requests(
        run="c", resume="r", earlier=(Requests(run="a", payload=b"p"), Requests(run="b", cancel="x"))
    )
    row = await take_one(store)
    handled = State.decode(row.state)
    handled.handled = ("run-now/a", "cancel/x")
    assert await settle(store, settlement(row, state=handled.encode()))
    await store.reconcile([observed(requests=Requests(run="d").encode())])
    kept = Requests.decode((await read_row(store, "ns/job")).requests)
    assert kept == Requests(run="d", earlier=(Requests(run="b"), Requests(run="c", resume="r"))), (
        "what is handled is not"
    )
    assert await reconcile(store, observed()) is Put.UPDATED
    assert await reconcile(store, observed()) is Put.UNCHANGED
    kept = Requests.decode((await read_row(store, "ns/job")).requests)
    assert kept == Requests(earlier=(Requests(run="b"), Requests(run="c", resume="r"), Requests(run="d")))


@pytest.mark.parametrize("payload", [b"new", None])
async def test_a_run_does_not_overwrite_the_payload_of_a_newer_generation(store: Store, payload: bytes | None) -> None:
    await store.reconcile([observed(wake_at=await store.now() - 1, payload=b"old")])
    row = await take_one(store)
    edited = observed(generation=2, payload=payload)
    assert await reconcile(store, edited) is Put.UPDATED
    assert await settle(store, settlement(row, wake_at=None, payload=b"of the run"))
    assert await reconcile(store, edited) is Put.UNCHANGED
    assert (await read_row(store, "ns/job")).payload == payload


@pytest.mark.parametrize("origin", [Origin.LIBRARY, Origin.MANIFEST])
async def test_a_row_of_another_origin_stays(store: Store, origin: Origin) -> None:
    same_uid = dataclasses.replace(observed(generation=5), origin=origin, uid="uid-1")
    await store.put([same_uid], replace=False)
    before = await everything(store)
    assert await reconcile(store, observed(uid="uid-1", generation=9)) is Put.STALE
    assert await reconcile(store, observed(uid="uid-2", created_at=5_000)) is Put.STALE
    assert await everything(store) == before


@pytest.mark.parametrize("created_at", [999, 1_000])
async def test_an_object_that_is_not_younger_than_the_stored_one_is_stale(store: Store, created_at: int) -> None:
    await store.reconcile([observed()])
    before = await everything(store)
    assert await reconcile(store, observed(uid="uid-2", generation=9, created_at=created_at)) is Put.STALE
    assert await everything(store) == before
    # That left no tombstone of it: it may come back when the other is gone.
    assert await store.tombstone([("ns/job", "uid-1")]) == [True]
    assert await reconcile(store, observed(uid="uid-2", generation=9, created_at=created_at)) is Put.CREATED


async def test_a_younger_object_replaces_an_older_one_by_a_tombstone(store: Store, other: Store) -> None:
    now = await store.now()
    await store.reconcile([observed(generation=8, wake_at=now - 1, state=running(now), payload=b"old")])
    row = await take_one(store)
    new = observed(uid="uid-2", created_at=1_001, wake_at=now + HOUR, payload=b"new")
    async with listening(store) as received:
        assert await reconcile(other, new) is Put.CREATED
        if not store.polls:
            await received.change_of("ns/job")
    after = await read_row(store, "ns/job")
    assert desired_fields(after) == ("uid-2", 1, KIND, "", "", b"new")
    assert (after.created_at, after.wake_at, after.owner, after.revision) == (1_001, now + HOUR, None, 1)
    assert after.key != row.key
    (cut,) = await store.history("ns/job")
    assert (cut.uid, cut.outcome, cut.run_id) == (
        "uid-1",
        Outcome.CANCELLED,
        run_id("uid-1", Run(slot=now - 7, due=now - 7)),
    )
    assert not await settle(store, settlement(row, Disposition.KEEP))
    for generation in (8, 9):
        assert await reconcile(store, observed(generation=generation, created_at=9_999)) is Put.STALE
    assert await read_row(store, "ns/job") == after


async def test_the_results_are_in_the_order_of_the_rows(store: Store) -> None:
    await store.reconcile([observed("b"), observed("c", generation=5), observed("d", generation=5)])
    await store.tombstone([("e", "uid-e")])
    asked = [
        observed("e", "uid-e"),
        observed("d", generation=6),
        observed("a"),
        observed("c", generation=4),
        observed("b"),
    ]
    assert await store.reconcile(asked) == [Put.STALE, Put.UPDATED, Put.CREATED, Put.STALE, Put.UNCHANGED]
    assert [row.slug for row in await store.rows()] == ["a", "b", "c", "d"]
    assert await store.reconcile([]) == []


async def test_a_slug_observed_twice_in_one_call_is_an_error(store: Store) -> None:
    with pytest.raises(ValueError, match="twin"):
        await store.reconcile([observed("a"), observed("twin"), observed("twin", generation=2)])
    assert await store.rows() == []


async def test_many_objects_in_one_call(store: Store, store_factory: StoreFactory) -> None:
    count = store_factory.bulk // 4
    rows = [observed(f"ns/job-{n:05}", f"uid-{n}") for n in range(count)]
    assert await store.reconcile(rows) == [Put.CREATED] * count
    assert await store.reconcile(rows[::-1]) == [Put.UNCHANGED] * count
    edited = [dataclasses.replace(row, generation=2) if n % 100 == 0 else row for n, row in enumerate(rows)]
    answers = await store.reconcile(edited)
    assert [n for n, put in enumerate(answers) if put is Put.UPDATED] == list(range(0, count, 100))
    assert await store.tombstone([(row.slug, row.uid) for row in rows]) == [True] * count
    assert await store.rows(limit=1) == []
    assert await store.reconcile(rows) == [Put.STALE] * count


# ---- tombstone


async def test_a_tombstone_ends_a_schedule_and_keeps_it_from_coming_back(store: Store, other: Store) -> None:
    now = await store.now()
    await store.reconcile([observed(wake_at=now - 1, state=running(now))])
    row = await take_one(store)
    async with listening(store) as received:
        assert await other.tombstone([("ns/job", "uid-1")]) == [True]
        if not store.polls:
            await received.change_of("ns/job")
    assert await is_gone(store, "ns/job")
    assert await store.rows() == []
    (cut,) = await store.history()
    assert (cut.uid, cut.slug, cut.outcome) == ("uid-1", "ns/job", Outcome.CANCELLED)
    assert not await settle(store, settlement(row, Disposition.KEEP, records=[record("late", now)]))
    for generation in (1, 2):
        assert await reconcile(store, observed(generation=generation, created_at=10**9)) is Put.STALE
    assert await other.tombstone([("ns/job", "uid-1")]) == [False]
    assert await reconcile(other, observed()) is Put.STALE
    assert len(await store.history()) == 1
    assert await is_gone(store, "ns/job")


async def test_the_slug_of_a_tombstone_is_free(store: Store) -> None:
    await store.reconcile([observed()])
    await store.tombstone([("ns/job", "uid-1")])
    assert (await claim(store)).rows == []
    assert await reconcile(store, observed(uid="uid-2", created_at=1)) is Put.CREATED
    assert await reconcile(store, observed(created_at=10**9)) is Put.STALE
    assert await store.tombstone([("ns/job", "uid-2")]) == [True]
    assert await reconcile(store, observed()) is Put.STALE
    await put_due(store, "ns/job")
    assert (await take_one(store)).origin == Origin.LIBRARY
    assert await store.delete(["ns/job"]) == [True]
    assert await store.delete(["ns/job"]) == [False]
    assert await reconcile(store, observed()) is Put.STALE
    assert await store.put([desired("ns/job")], replace=True) == [Put.CREATED]
    assert await store.clear() == 1
    assert await reconcile(store, observed(uid="uid-2")) is Put.STALE
    assert await reconcile(store, observed(uid="uid-3")) is Put.CREATED


async def test_a_schedule_that_is_removed_leaves_the_tombstones_of_its_slug(store: Store) -> None:
    now = await store.now()
    await store.reconcile([observed()])
    await store.tombstone([("ns/job", "uid-1")])
    await store.reconcile([observed(uid="uid-2", wake_at=now - 1)])
    row = await take_one(store)
    assert await settle(store, settlement(row, Disposition.REMOVE, records=[record("run-1", now, slug="ns/job")]))
    assert await is_gone(store, "ns/job")
    assert await reconcile(store, observed()) is Put.STALE
    assert await store.put([desired("ns/job")], replace=False) == [Put.CREATED]


async def test_a_uid_that_never_existed_can_have_a_tombstone(store: Store, other: Store) -> None:
    assert await store.tombstone([("ns/job", "uid-1")]) == [False]
    assert await is_gone(store, "ns/job")
    assert await reconcile(other, observed()) is Put.STALE
    assert await reconcile(other, observed("ns/more", "uid-2")) is Put.CREATED


async def test_a_tombstone_leaves_the_slug_of_another_uid(store: Store) -> None:
    await store.reconcile([observed(uid="uid-2")])
    before = await everything(store)
    assert await store.tombstone([("ns/job", "uid-1"), ("ns/none", "uid-9")]) == [False, False]
    assert await everything(store) == before
    assert await reconcile(store, observed(uid="uid-1", created_at=10**9)) is Put.STALE
    assert await everything(store) == before


async def test_several_uids_of_one_slug_get_tombstones_in_one_call(store: Store) -> None:
    await store.reconcile([observed(uid="uid-2")])
    asked = [("ns/job", "uid-1"), ("ns/job", "uid-2"), ("ns/job", "uid-3"), ("ns/job", "uid-2")]
    assert await store.tombstone(asked) == [False, True, False, True]
    for uid in ("uid-1", "uid-2", "uid-3"):
        assert await reconcile(store, observed(uid=uid)) is Put.STALE
    assert await store.tombstone([]) == []


async def test_pruning_keeps_tombstones_that_have_not_expired(store: Store) -> None:
    await store.reconcile([observed(definition=Definition(KIND, keep=Keep(ttl=0)).encode())])
    await store.tombstone([("ns/job", "uid-1"), ("ns/none", "uid-2")])
    assert await store.prune() == 0
    assert await reconcile(store, observed()) is Put.STALE
    assert await reconcile(store, observed("ns/none", "uid-2")) is Put.STALE


async def test_installations_have_separate_tombstones(store_factory: StoreFactory) -> None:
    here, there = await store_factory(), await store_factory(store_factory.installation + "-other")
    await here.tombstone([("ns/job", "uid-1")])
    assert await reconcile(there, observed()) is Put.CREATED
    assert await reconcile(here, observed()) is Put.STALE
    assert await here.tombstone([("ns/job", "uid-1")]) == [False]
    assert not await is_gone(there, "ns/job")


# ---- touch


async def test_a_touched_row_is_due_at_once_and_keeps_its_desired_state(store: Store, other: Store) -> None:
    now = await store.now()
    await store.reconcile([observed(wake_at=now + DAY, requests=REQUESTS), observed("ns/asleep", "uid-2")])
    before = await read_row(store, "ns/job")
    await store.announce(ReplicaInfo("alice", "1", 0), now + HOUR)
    async with listening(store) as received:
        await other.touch(["ns/job", "ns/none", "ns/asleep", "ns/job"])
        if not store.polls:
            await received.due_by(await store.now())
    rows = {row.slug: row for row in await take(store, 2)}
    row = rows["ns/job"]
    assert (row.edited_at, row.requests, row.generation, row.state) == (before.edited_at, REQUESTS, 1, before.state)
    assert row.revision > before.revision
    assert await is_gone(store, "ns/none")
    await store.touch([])


async def test_a_touched_row_with_an_owner_notifies_and_is_due_when_released(store: Store, other: Store) -> None:
    await store.reconcile([observed(wake_at=await store.now() - 1)])
    row = await take_one(store)
    async with listening(store) as received:
        await other.touch(["ns/job"])
        if not store.polls:
            await received.change_of("ns/job")
    after = await read_row(store, "ns/job")
    assert (after.wake_at, after.owner, after.version) == (row.wake_at, "alice", row.version)
    assert await settle(store, settlement(row, Disposition.RELEASE, wake_at=None))
    assert (await take_one(store)).slug == "ns/job"


async def test_touching_a_row_that_is_due_already_keeps_its_wake(store: Store) -> None:
    now = await store.now()
    await store.reconcile([observed(wake_at=now - HOUR)])
    await store.touch(["ns/job"])
    assert (await read_row(store, "ns/job")).wake_at == now - HOUR


# ---- history of one uid


async def test_history_of_one_uid(store: Store) -> None:
    now = await store.now()
    for turn, uid in enumerate(["uid-1", "uid-2", "uid-1"]):
        await store.reconcile([observed(f"ns/{turn}", f"any-{turn}", wake_at=now - 1)])
        row = await take_one(store)
        records = [record(f"{uid}-{turn}-{n}", now + 10 * n + turn, slug="ns/job") for n in range(15)]
        for entry in records:
            entry.uid = uid
        assert await settle(store, settlement(row, Disposition.RELEASE, records=records))
    found = await store.history("ns/job", uid="uid-2", limit=10)
    assert [entry.run_id for entry in found] == [f"uid-2-1-{n}" for n in range(14, 4, -1)]
    found = await store.history("ns/job", uid="uid-1", before=now + 30, limit=100)
    assert [entry.finished - now for entry in found] == [22, 20, 12, 10, 2, 0]
    assert await store.history("ns/job", uid="uid-3") == []
    assert len(await store.history("ns/job")) == 45


# ---- a cluster that was restored from a backup


async def test_a_restored_object_wins_over_a_later_generation(store: Store) -> None:
    await reconcile(store, observed(generation=9, definition='{"kind":"print"}', payload=b"later"))
    older = observed(generation=5, definition="{}", payload=b"earlier")
    assert await reconcile(store, older) is Put.STALE
    assert await reconcile(store, dataclasses.replace(older, restored=True)) is Put.UPDATED
    row = await read_row(store, "ns/job")
    assert (row.generation, row.definition, row.payload) == (5, "{}", b"earlier")
    assert await reconcile(store, observed(generation=6)) is Put.UPDATED


async def test_a_restored_object_wins_over_its_tombstone_for_good(store: Store, other: Store) -> None:
    await reconcile(store, observed(generation=2))
    await store.tombstone([("ns/job", "uid-1")])
    assert await reconcile(other, observed(generation=1)) is Put.STALE
    assert await reconcile(other, dataclasses.replace(observed(generation=1), restored=True)) is Put.CREATED
    assert await reconcile(store, observed(generation=2)) is Put.UPDATED
    await store.tombstone([("ns/job", "uid-1")])
    assert await reconcile(store, observed(generation=3)) is Put.STALE


async def test_a_restored_object_wins_over_a_younger_one_of_its_name(store: Store) -> None:
    await reconcile(store, observed(generation=1, created_at=5))
    await reconcile(store, dataclasses.replace(observed(generation=1, created_at=6), uid="younger"))
    assert await reconcile(store, observed(generation=1, created_at=5)) is Put.STALE
    assert (
        await reconcile(store, dataclasses.replace(observed(generation=1, created_at=5), restored=True)) is Put.CREATED
    )
    assert (await read_row(store, "ns/job")).uid == "uid-1"
    assert await reconcile(store, dataclasses.replace(observed(generation=2), uid="younger")) is Put.STALE
