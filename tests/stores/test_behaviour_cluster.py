"""Every store: objects of a cluster. What many replicas hand over in any order, and what has ended and stays so."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from scheduledjob.domain.schedule.definition import Definition, Keep
from scheduledjob.domain.schedule.state import Outcome, Run, State, run_id
from scheduledjob.domain.time.instants import DAY, HOUR, SECOND
from scheduledjob.engine.store import Disposition, NewRow, Origin, Put, ReplicaInfo

from .support import (
    KIND,
    PLAIN,
    claim,
    desired,
    everything,
    gone,
    listening,
    look,
    put_due,
    record,
    settle,
    settlement,
    take,
    take_one,
)

if TYPE_CHECKING:
    from scheduledjob.domain.time.instants import Instant
    from scheduledjob.engine.store import Row, Store

    from .conftest import StoreFactory

REQUESTS = '{"run":"token-1"}'


def seen(
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
    """An object of a cluster as a replica saw it."""
    return NewRow(
        slug,
        uid,
        kind,
        Origin.CLUSTER,
        definition,
        state,
        wake_at,
        payload=payload,
        created_at=created_at,
        generation=generation,
        requests=requests,
    )


def running(now: Instant) -> bytes:
    return State(decided_until=now, runs=[Run(slot=now - 7, due=now - 7, begun=now - 6)]).encode()


async def reconcile(store: Store, one: NewRow) -> Put:
    (put,) = await store.reconcile([one])
    return put


def told_of(row: Row) -> tuple[object, ...]:
    return row.uid, row.generation, row.kind, row.definition, row.requests, row.payload


# ---- reconcile


async def test_a_new_object_is_read_as_it_was_seen(store: Store, other: Store) -> None:
    now = await store.now()
    new = seen(
        generation=7, created_at=now - DAY, wake_at=now + HOUR, definition="{}", requests=REQUESTS, payload=b"\x00\xff"
    )
    assert await reconcile(store, new) is Put.CREATED
    row = await look(other, "ns/job")
    assert told_of(row) == ("uid-1", 7, KIND, "{}", REQUESTS, b"\x00\xff")
    assert (row.origin, row.created_at, row.wake_at, row.state) == (Origin.CLUSTER, now - DAY, now + HOUR, PLAIN)
    assert (row.revision, row.owner, row.first, row.recovered) == (1, None, None, False)
    assert [row] == await other.rows(origin=Origin.CLUSTER)


async def test_a_claim_brings_generation_and_acts(store: Store) -> None:
    now = await store.now()
    await store.reconcile([seen(generation=3, wake_at=now - 1, requests=REQUESTS)])
    row = await take_one(store)
    assert (row.generation, row.requests, row.owner) == (3, REQUESTS, "alice")


async def test_what_is_put_has_no_generation_and_no_acts(store: Store) -> None:
    now = await store.now()
    claimed = dataclasses.replace(desired("job", now - 1), generation=4, requests=REQUESTS)
    await store.put([claimed], replace=False)
    assert ((row := await take_one(store)).generation, row.requests) == (0, "")
    assert await store.put([dataclasses.replace(claimed, payload=b"new")], replace=True) == [Put.UPDATED]
    assert ((row := await look(store, "job")).generation, row.requests) == (0, "")


async def test_seen_again_is_unchanged(store: Store, other: Store) -> None:
    new = seen(generation=2, definition="{}", requests=REQUESTS, payload=b"p")
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
    store: Store, other: Store, change: dict[str, Any]
) -> None:
    now = await store.now()
    new = seen(generation=2, wake_at=now + DAY)
    await store.reconcile([new])
    before = await look(store, "ns/job")
    changed = dataclasses.replace(new, state=b"not this", **change)
    assert await reconcile(other, changed) is Put.UPDATED
    row = await look(store, "ns/job")
    assert told_of(row) == (new.uid, changed.generation, changed.kind, changed.definition, changed.requests, None)
    assert (row.key, row.revision, row.state, row.created_at) == (before.key, 2, PLAIN, before.created_at)
    assert row.wake_at is not None
    assert now - SECOND <= row.wake_at <= await store.now() + SECOND
    assert row.edited_at >= before.edited_at
    assert await reconcile(store, changed) is Put.UNCHANGED


async def test_a_wish_that_sleeps_for_good_is_woken_by_an_update(store: Store) -> None:
    await store.reconcile([seen()])
    assert (await look(store, "ns/job")).wake_at is None
    await store.reconcile([seen(generation=2)])
    assert (await take_one(store)).generation == 2


async def test_an_update_of_an_owned_row_leaves_its_lease_and_is_told(store: Store, other: Store) -> None:
    await store.reconcile([seen(wake_at=await store.now() - 1)])
    row = await take_one(store)
    async with listening(store) as heard:
        assert await reconcile(other, seen(generation=2)) is Put.UPDATED
        if not store.polls:
            await heard.change_of("ns/job")
    after = await look(store, "ns/job")
    assert (after.wake_at, after.owner, after.version) == (row.wake_at, "alice", row.version)
    assert await settle(store, settlement(row, Disposition.RELEASE, wake_at=None))
    assert (await take_one(store)).generation == 2


async def test_what_becomes_due_is_told(store: Store, other: Store) -> None:
    if store.polls:
        pytest.skip("nothing is told here")
    now = await store.now()
    await store.announce(ReplicaInfo("alice", "1", 0), now + HOUR)
    async with listening(store) as heard:
        await other.reconcile([seen(wake_at=now + 5)])
        await heard.due_by(now + 5)
        heard.wakes.clear()
        await other.reconcile([seen(generation=2)])
        await heard.due_by(await store.now())


@pytest.mark.parametrize("generation", [1, 2])
async def test_an_older_generation_is_stale(store: Store, other: Store, generation: int) -> None:
    await store.reconcile([seen(generation=3, definition="new")])
    before = await everything(store)
    assert await reconcile(other, seen(generation=generation, definition="old", requests=REQUESTS)) is Put.STALE
    assert await everything(store) == before


async def test_a_payload_is_the_jobs_within_a_generation(store: Store) -> None:
    new = seen(wake_at=await store.now() - 1, payload=b"wished")
    await store.reconcile([new])
    row = await take_one(store)
    assert await settle(store, settlement(row, wake_at=None, payload=b"written"))
    assert await reconcile(store, new) is Put.UNCHANGED
    assert await reconcile(store, dataclasses.replace(new, requests=REQUESTS)) is Put.UPDATED
    assert (await look(store, "ns/job")).payload == b"written"
    assert await reconcile(store, seen(generation=2, payload=b"wished")) is Put.UPDATED
    assert (await look(store, "ns/job")).payload == b"wished"
    assert await reconcile(store, seen(generation=3)) is Put.UPDATED
    assert (await look(store, "ns/job")).payload is None


@pytest.mark.parametrize("origin", [Origin.LIBRARY, Origin.MANIFEST])
async def test_what_is_not_a_clusters_stays(store: Store, origin: Origin) -> None:
    same_uid = dataclasses.replace(seen(generation=5), origin=origin, uid="uid-1")
    await store.put([same_uid], replace=False)
    before = await everything(store)
    assert await reconcile(store, seen(uid="uid-1", generation=9)) is Put.STALE
    assert await reconcile(store, seen(uid="uid-2", created_at=5_000)) is Put.STALE
    assert await everything(store) == before


@pytest.mark.parametrize("created_at", [999, 1_000])
async def test_an_object_that_is_not_younger_than_the_one_that_is_there_is_stale(store: Store, created_at: int) -> None:
    await store.reconcile([seen()])
    before = await everything(store)
    assert await reconcile(store, seen(uid="uid-2", generation=9, created_at=created_at)) is Put.STALE
    assert await everything(store) == before
    # It was not buried by that: where the other goes, it may come.
    assert await store.tombstone([("ns/job", "uid-1")]) == [True]
    assert await reconcile(store, seen(uid="uid-2", generation=9, created_at=created_at)) is Put.CREATED


async def test_a_younger_object_takes_the_slug_and_buries_the_older(store: Store, other: Store) -> None:
    now = await store.now()
    await store.reconcile([seen(generation=8, wake_at=now - 1, state=running(now), payload=b"old")])
    row = await take_one(store)
    new = seen(uid="uid-2", created_at=1_001, wake_at=now + HOUR, payload=b"new")
    async with listening(store) as heard:
        assert await reconcile(other, new) is Put.CREATED
        if not store.polls:
            await heard.change_of("ns/job")
    after = await look(store, "ns/job")
    assert told_of(after) == ("uid-2", 1, KIND, "", "", b"new")
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
        assert await reconcile(store, seen(generation=generation, created_at=9_999)) is Put.STALE
    assert await look(store, "ns/job") == after


async def test_the_answers_are_in_the_order_of_the_question(store: Store) -> None:
    await store.reconcile([seen("b"), seen("c", generation=5), seen("d", generation=5)])
    await store.tombstone([("e", "uid-e")])
    asked = [seen("e", "uid-e"), seen("d", generation=6), seen("a"), seen("c", generation=4), seen("b")]
    assert await store.reconcile(asked) == [Put.STALE, Put.UPDATED, Put.CREATED, Put.STALE, Put.UNCHANGED]
    assert [row.slug for row in await store.rows()] == ["a", "b", "c", "d"]
    assert await store.reconcile([]) == []


async def test_a_slug_seen_twice_in_one_call_is_an_error(store: Store) -> None:
    with pytest.raises(ValueError, match="twin"):
        await store.reconcile([seen("a"), seen("twin"), seen("twin", generation=2)])
    assert await store.rows() == []


async def test_many_at_once(store: Store, store_factory: StoreFactory) -> None:
    count = store_factory.bulk // 4
    rows = [seen(f"ns/job-{n:05}", f"uid-{n}") for n in range(count)]
    assert await store.reconcile(rows) == [Put.CREATED] * count
    assert await store.reconcile(rows[::-1]) == [Put.UNCHANGED] * count
    edited = [dataclasses.replace(row, generation=2) if n % 100 == 0 else row for n, row in enumerate(rows)]
    answers = await store.reconcile(edited)
    assert [n for n, put in enumerate(answers) if put is Put.UPDATED] == list(range(0, count, 100))
    assert await store.tombstone([(row.slug, row.uid) for row in rows]) == [True] * count
    assert await store.rows(limit=1) == []
    assert await store.reconcile(rows) == [Put.STALE] * count


# ---- bury


async def test_what_is_buried_ends_and_never_comes_back(store: Store, other: Store) -> None:
    now = await store.now()
    await store.reconcile([seen(wake_at=now - 1, state=running(now))])
    row = await take_one(store)
    async with listening(store) as heard:
        assert await other.tombstone([("ns/job", "uid-1")]) == [True]
        if not store.polls:
            await heard.change_of("ns/job")
    assert await gone(store, "ns/job")
    assert await store.rows() == []
    (cut,) = await store.history()
    assert (cut.uid, cut.slug, cut.outcome) == ("uid-1", "ns/job", Outcome.CANCELLED)
    assert not await settle(store, settlement(row, Disposition.KEEP, records=[record("late", now)]))
    for generation in (1, 2):
        assert await reconcile(store, seen(generation=generation, created_at=10**9)) is Put.STALE
    assert await other.tombstone([("ns/job", "uid-1")]) == [False]
    assert await reconcile(other, seen()) is Put.STALE
    assert len(await store.history()) == 1
    assert await gone(store, "ns/job")


async def test_the_slug_of_what_is_buried_is_free(store: Store) -> None:
    await store.reconcile([seen()])
    await store.tombstone([("ns/job", "uid-1")])
    assert (await claim(store)).rows == []
    assert await reconcile(store, seen(uid="uid-2", created_at=1)) is Put.CREATED
    assert await reconcile(store, seen(created_at=10**9)) is Put.STALE
    assert await store.tombstone([("ns/job", "uid-2")]) == [True]
    assert await reconcile(store, seen()) is Put.STALE
    await put_due(store, "ns/job")
    assert (await take_one(store)).origin == Origin.LIBRARY
    assert await store.delete(["ns/job"]) == [True]
    assert await store.delete(["ns/job"]) == [False]
    assert await reconcile(store, seen()) is Put.STALE
    assert await store.put([desired("ns/job")], replace=True) == [Put.CREATED]
    assert await store.clear() == 1
    assert await reconcile(store, seen(uid="uid-2")) is Put.STALE
    assert await reconcile(store, seen(uid="uid-3")) is Put.CREATED


async def test_a_schedule_that_ends_by_itself_takes_no_tombstone_with_it(store: Store) -> None:
    now = await store.now()
    await store.reconcile([seen()])
    await store.tombstone([("ns/job", "uid-1")])
    await store.reconcile([seen(uid="uid-2", wake_at=now - 1)])
    row = await take_one(store)
    assert await settle(store, settlement(row, Disposition.REMOVE, records=[record("run-1", now, slug="ns/job")]))
    assert await gone(store, "ns/job")
    assert await reconcile(store, seen()) is Put.STALE
    assert await store.put([desired("ns/job")], replace=False) == [Put.CREATED]


async def test_what_was_never_there_can_be_buried(store: Store, other: Store) -> None:
    assert await store.tombstone([("ns/job", "uid-1")]) == [False]
    assert await gone(store, "ns/job")
    assert await reconcile(other, seen()) is Put.STALE
    assert await reconcile(other, seen("ns/more", "uid-2")) is Put.CREATED


async def test_a_slug_of_another_uid_stays(store: Store) -> None:
    await store.reconcile([seen(uid="uid-2")])
    before = await everything(store)
    assert await store.tombstone([("ns/job", "uid-1"), ("ns/none", "uid-9")]) == [False, False]
    assert await everything(store) == before
    assert await reconcile(store, seen(uid="uid-1", created_at=10**9)) is Put.STALE
    assert await everything(store) == before


async def test_several_of_one_slug_are_buried_together(store: Store) -> None:
    await store.reconcile([seen(uid="uid-2")])
    asked = [("ns/job", "uid-1"), ("ns/job", "uid-2"), ("ns/job", "uid-3"), ("ns/job", "uid-2")]
    assert await store.tombstone(asked) == [False, True, False, True]
    for uid in ("uid-1", "uid-2", "uid-3"):
        assert await reconcile(store, seen(uid=uid)) is Put.STALE
    assert await store.tombstone([]) == []


async def test_pruning_leaves_tombstones_that_hold(store: Store) -> None:
    await store.reconcile([seen(definition=Definition(KIND, keep=Keep(ttl=0)).encode())])
    await store.tombstone([("ns/job", "uid-1"), ("ns/none", "uid-2")])
    assert await store.prune() == 0
    assert await reconcile(store, seen()) is Put.STALE
    assert await reconcile(store, seen("ns/none", "uid-2")) is Put.STALE


async def test_installations_bury_for_themselves(store_factory: StoreFactory) -> None:
    here, there = await store_factory(), await store_factory(store_factory.installation + "-other")
    await here.tombstone([("ns/job", "uid-1")])
    assert await reconcile(there, seen()) is Put.CREATED
    assert await reconcile(here, seen()) is Put.STALE
    assert await here.tombstone([("ns/job", "uid-1")]) == [False]
    assert not await gone(there, "ns/job")


# ---- nudge


async def test_a_nudged_row_is_due_at_once_and_its_wish_is_as_it_was(store: Store, other: Store) -> None:
    now = await store.now()
    await store.reconcile([seen(wake_at=now + DAY, requests=REQUESTS), seen("ns/asleep", "uid-2")])
    before = await look(store, "ns/job")
    await store.announce(ReplicaInfo("alice", "1", 0), now + HOUR)
    async with listening(store) as heard:
        await other.touch(["ns/job", "ns/none", "ns/asleep", "ns/job"])
        if not store.polls:
            await heard.due_by(await store.now())
    rows = {row.slug: row for row in await take(store, 2)}
    row = rows["ns/job"]
    assert (row.edited_at, row.requests, row.generation, row.state) == (before.edited_at, REQUESTS, 1, before.state)
    assert row.revision > before.revision
    assert await gone(store, "ns/none")
    await store.touch([])


async def test_a_nudged_row_that_is_owned_is_told_and_looked_at_again(store: Store, other: Store) -> None:
    await store.reconcile([seen(wake_at=await store.now() - 1)])
    row = await take_one(store)
    async with listening(store) as heard:
        await other.touch(["ns/job"])
        if not store.polls:
            await heard.change_of("ns/job")
    after = await look(store, "ns/job")
    assert (after.wake_at, after.owner, after.version) == (row.wake_at, "alice", row.version)
    assert await settle(store, settlement(row, Disposition.RELEASE, wake_at=None))
    assert (await take_one(store)).slug == "ns/job"


async def test_a_row_that_is_due_earlier_stays_so_when_nudged(store: Store) -> None:
    now = await store.now()
    await store.reconcile([seen(wake_at=now - HOUR)])
    await store.touch(["ns/job"])
    assert (await look(store, "ns/job")).wake_at == now - HOUR


# ---- history of one incarnation


async def test_history_of_one_incarnation(store: Store) -> None:
    now = await store.now()
    for turn, uid in enumerate(["uid-1", "uid-2", "uid-1"]):
        await store.reconcile([seen(f"ns/{turn}", f"any-{turn}", wake_at=now - 1)])
        row = await take_one(store)
        records = [record(f"{uid}-{turn}-{n}", now + 10 * n + turn, slug="ns/job") for n in range(15)]
        for each in records:
            each.uid = uid
        assert await settle(store, settlement(row, Disposition.RELEASE, records=records))
    found = await store.history("ns/job", uid="uid-2", limit=10)
    assert [each.run_id for each in found] == [f"uid-2-1-{n}" for n in range(14, 4, -1)]
    found = await store.history("ns/job", uid="uid-1", before=now + 30, limit=100)
    assert [each.finished - now for each in found] == [22, 20, 12, 10, 2, 0]
    assert await store.history("ns/job", uid="uid-3") == []
    assert len(await store.history("ns/job")) == 45
