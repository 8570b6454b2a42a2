"""Replicas that claim the same rows, clients that edit rows that a replica owns, and lost answers."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from typing import TYPE_CHECKING, NoReturn

import pytest

from scheduledjob.domain.time.instants import DAY, HOUR, SECOND
from scheduledjob.engine.store import Put, SlugTaken, StoreUnavailable
from scheduledjob.engine.stored_row import Disposition, Origin
from scheduledjob.stores.firestore import layout, reconciling, schedules
from scheduledjob.stores.firestore.layout import path_of
from scheduledjob.stores.firestore.operations import Write
from scheduledjob.stores.firestore.wire import Wire
from tests.stores.support import (
    LEASE,
    claim,
    desired,
    read_row,
    record,
    settle,
    settlement,
    take,
    take_one,
    wait_for_lease_end,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from scheduledjob.domain.time.instants import Micros
    from scheduledjob.engine.stored_row import Key, Row
    from scheduledjob.stores.firestore import FirestoreStore

    from .metering import Meter

pytestmark = pytest.mark.firestore

ROWS = 500


@pytest.mark.parametrize("spread", [0, 1_000], ids=["one instant", "one after another"])
async def test_contending_replicas_claim_each_row_once(
    open_one: Callable[..., Awaitable[FirestoreStore]], meter: Meter, spread: int
) -> None:
    stores = [await open_one() for _ in range(2)]
    now = await stores[0].now() - ROWS * spread
    await stores[0].put([desired(f"job-{n}", now + n * spread) for n in range(ROWS)], replace=False)
    meter.reset()

    async def drain(name: str, store: FirestoreStore) -> list[Row]:
        rows: list[Row] = []
        while True:
            batch = await claim(store, name, limit=100)
            rows += batch.rows
            if not batch.rows and (batch.next_wake is None or batch.next_wake > batch.now + SECOND):
                return rows

    drained = await asyncio.gather(*(drain(f"replica-{n}", store) for n, store in enumerate(stores)))
    claimed = Counter(row.slug for rows in drained for row in rows)
    assert claimed == {f"job-{n}": 1 for n in range(ROWS)}
    assert meter.written == ROWS
    # How the replicas share the rows is random, but few reads must be in vain.
    assert meter.read <= 3 * ROWS
    for name, store, rows in zip(("replica-0", "replica-1"), stores, drained, strict=True):
        assert all(await store.settle(name, [settlement(row, Disposition.REMOVE) for row in rows]))


async def test_a_settlement_whose_answer_was_lost_is_refused_when_it_is_repeated(
    store: FirestoreStore, meter: Meter
) -> None:
    now = await store.now()
    for disposition in Disposition:
        await store.put([desired("job", now)], replace=False)
        row = await take_one(store)
        end = settlement(row, disposition, wake_at=now + HOUR, records=[record(f"run-{disposition}", now)])
        meter.lose = {"commit"}
        with pytest.raises(StoreUnavailable, match="lost"):
            await settle(store, end)
        assert not await settle(store, end)
        assert await store.recorded([f"run-{disposition}"]) == {f"run-{disposition}"}
        await store.clear()


async def test_a_claim_whose_answer_was_lost_ends_with_its_lease(store: FirestoreStore, meter: Meter) -> None:
    now = await store.now()
    await store.put([desired("job", now)], replace=False)
    meter.lose = {"batch_write"}
    with pytest.raises(StoreUnavailable, match="lost"):
        await claim(store, lease=SECOND // 2)
    assert (await claim(store)).rows == []
    row = await take_one(store, replica="bob")
    assert row.recovered
    assert row.version == 2


async def test_a_put_whose_answer_was_lost_finds_its_row_when_repeated(store: FirestoreStore, meter: Meter) -> None:
    rows = [desired(f"job-{n}", None) for n in range(3)]
    meter.lose = {"commit"}
    with pytest.raises(StoreUnavailable, match="lost"):
        await store.put(rows, replace=False)
    with pytest.raises(SlugTaken):
        await store.put(rows, replace=False)
    assert await store.put(rows, replace=True) == [Put.UNCHANGED] * 3


async def test_an_edited_row_does_not_hold_up_the_others_of_its_commit(
    open_one: Callable[..., Awaitable[FirestoreStore]], meter: Meter
) -> None:
    store, client = await open_one(), await open_one()
    now = await store.now()
    await store.put([desired(f"job-{n}", now) for n in range(50)], replace=False)
    rows = (await claim(store)).rows
    edited, deleted, again = rows[7], rows[20], rows[33]
    await client.put([desired(edited.slug, None, payload=b"new")], replace=True)
    await client.delete([deleted.slug])
    await store.settle("alice", [settlement(again, Disposition.KEEP, records=[record(f"run-of-{again.slug}", now)])])
    again.version += 1
    meter.reset()
    ends = [settlement(row, wake_at=now + HOUR, records=[record(f"run-of-{row.slug}", now)]) for row in rows]
    assert await store.settle("alice", ends) == [row is not deleted for row in rows]
    # The rows once, and their records once.
    assert meter.read <= 2 * len(rows)
    after = await read_row(store, edited.slug)
    assert after.wake_at is not None
    assert after.wake_at <= await store.now()
    assert after.payload == b"new"
    assert (await read_row(store, rows[0].slug)).wake_at == now + HOUR
    assert len(await store.recorded([f"run-of-{row.slug}" for row in rows])) == 49


async def test_settlements_of_the_same_row_or_run_are_made_in_turn(store: FirestoreStore) -> None:
    await store.put([desired("a", 1), desired("b", 1)], replace=False)
    a, b = sorted((await claim(store)).rows, key=lambda row: row.slug)
    run = record("run", 1)
    ends = [
        settlement(a, Disposition.KEEP, state=b'{"floor":1}', records=[run, run]),
        settlement(b, records=[run]),
        settlement(a, version=a.version + 1, state=b'{"floor":2}', records=[run]),
        settlement(a, version=a.version + 1),
    ]
    assert await store.settle("alice", ends) == [True, True, True, False]
    assert (await read_row(store, "a")).state == b'{"floor":2}'
    assert await store.history() == [run]


async def test_a_result_that_is_too_large_is_dropped_without_its_run(store: FirestoreStore) -> None:
    await store.put([desired("large", 1), desired("small", 1)], replace=False)
    rows = sorted((await claim(store)).rows, key=lambda row: row.slug)
    ends = [
        settlement(row, result=result, payload=b"next", records=[record(f"run-{row.slug}", 1)])
        for row, result in zip(rows, (bytes(2 << 20), b"ok"), strict=True)
    ]
    assert await store.settle("alice", ends) == [True, True]
    large, small = await read_row(store, "large"), await read_row(store, "small")
    assert (large.owner, large.result, large.payload) == (None, None, None)
    assert (small.owner, small.result, small.payload) == (None, b"ok", b"next")
    assert await store.recorded(["run-large", "run-small"]) == {"run-large", "run-small"}


async def test_a_long_put_that_is_refused_deletes_what_it_created(
    open_one: Callable[..., Awaitable[FirestoreStore]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody schedules a slug between the read and the last commit."""
    store, client = await open_one(), await open_one()
    rows = [desired(f"job-{n:04}", None) for n in range(700)]
    check_free = store._schedules._check_free

    async def check_then_lose(rows: list[object]) -> None:
        monkeypatch.undo()
        await check_free(rows)  # type: ignore[arg-type]  # passed on unchanged
        await client.put([desired("job-0650", None)], replace=False)

    monkeypatch.setattr(store._schedules, "_check_free", check_then_lose)
    with pytest.raises(SlugTaken, match="job-0650"):
        await store.put(rows, replace=False)
    assert [row.slug for row in await store.rows()] == ["job-0650"]


def believe(store: FirestoreStore, least: Micros, most: Micros) -> None:
    """Make the store's clock as uncertain as it would be after a slow measurement, or wrong."""
    reading = store._clock.reading()
    now = store._clock.earliest()
    store._clock._least, store._clock._most = (reading, now + least), (reading, now + most)


async def test_an_uncertain_clock_errs_on_the_safe_side(store: FirestoreStore) -> None:
    now = await store.now()
    await store.put([desired("just due", now - SECOND), desired("long due", now - 5 * SECOND)], replace=False)
    await store.put([desired("soon", now + 5 * SECOND)], replace=False)
    believe(store, -4 * SECOND, 4 * SECOND)
    before = await store.now()
    # It may be four seconds earlier, so only one row is surely due.
    batch = await claim(store, ahead=0, lease=LEASE)
    assert [row.slug for row in batch.rows] == ["long due"]
    # It may be four seconds later, when the owner's own time is up.
    (row,) = batch.rows
    assert row.wake_at is not None
    assert row.wake_at >= before + 8 * SECOND + LEASE
    believe(store, -4 * SECOND, 4 * SECOND)
    async with store.renewer("alice") as renewer:
        assert (await renewer.renew([(row.key, row.version)], 2 * LEASE)).revisions == {row.key: 1}
    renewed = (await read_row(store, "long due")).wake_at
    assert renewed is not None
    assert renewed >= before + 8 * SECOND + 2 * LEASE


async def test_a_lease_that_may_not_have_ended_is_not_taken_over(store: FirestoreStore) -> None:
    await store.put([desired("job", 1)], replace=False)
    row = await take_one(store, lease=SECOND // 10)
    await wait_for_lease_end(store, row)
    believe(store, -4 * SECOND, SECOND)
    assert (await claim(store, "bob", ahead=HOUR)).rows == []
    believe(store, 4 * SECOND, 5 * SECOND)
    assert [row.recovered for row in (await claim(store, "bob", ahead=HOUR)).rows] == [True]


async def test_a_claim_by_a_clock_that_stood_still_returns_nothing(store: FirestoreStore) -> None:
    """Its lease ends earlier by the store's clock than its owner would expect, so it must not be used."""
    now = await store.now()
    await store.put([desired("job", now - 2 * HOUR)], replace=False)
    believe(store, -HOUR, -HOUR)
    assert (await claim(store, lease=LEASE)).rows == []
    # The claim was written with a lease that has ended, and the clock is right again.
    assert (await read_row(store, "job")).owner == "alice"
    row = await take_one(store, replica="bob")
    assert row.recovered


async def test_a_renewal_by_a_clock_that_stood_still_is_repeated(store: FirestoreStore) -> None:
    await store.put([desired("job", 1)], replace=False)
    row = await take_one(store)
    now = await store.now()
    async with store.renewer("alice") as renewer:
        believe(store, -HOUR, -HOUR)
        assert (await renewer.renew([(row.key, row.version)], LEASE)).revisions == {row.key: 1}
    renewed = await read_row(store, "job")
    assert renewed.wake_at is not None
    assert renewed.wake_at >= now + LEASE


async def test_a_row_that_is_edited_without_pause_costs_no_other_row_its_renewal(
    store: FirestoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.put([desired("edited", 1), desired("quiet", 2)], replace=False)
    edited, quiet = await take(store, 2)
    edits = 0
    write = Wire.batch_write

    async def edit_first(wire: Wire, writes: Sequence[Write]) -> list[int | None]:
        nonlocal edits
        edits += 1
        await store.put([desired("edited", payload=str(edits).encode())], replace=True)
        return await write(wire, writes)

    held = [(edited.key, edited.version), (quiet.key, quiet.version)]
    async with store.renewer("alice") as renewer:
        with monkeypatch.context() as patch:
            patch.setattr(Wire, "batch_write", edit_first)
            answer = await renewer.renew(held, LEASE)
        assert answer.revisions == {quiet.key: 1}
        assert list(answer.busy) == [edited.key]
        answer = await renewer.renew(held, LEASE)
    assert answer.revisions == {quiet.key: 1, edited.key: edits + 1}


async def test_a_renewal_whose_later_reads_fail_counts_for_the_rows_that_it_renewed(
    store: FirestoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.put([desired("edited", 1), desired("quiet", 2)], replace=False)
    edited, quiet = await take(store, 2)
    await store.put([desired("edited", payload=b"new")], replace=True)

    async def fail(wire: Wire, paths: Sequence[str], fields: Sequence[str] | None = None) -> NoReturn:
        raise StoreUnavailable("no answer")

    async with store.renewer("alice") as renewer:
        monkeypatch.setattr(Wire, "get", fail)
        answer = await renewer.renew([(edited.key, edited.version), (quiet.key, quiet.version)], LEASE)
    assert (answer.revisions, list(answer.busy)) == ({quiet.key: 1}, [edited.key])


async def test_a_deleted_row_and_its_successor_are_renewed_and_settled_together(store: FirestoreStore) -> None:
    """They share a document, and Firestore refuses a batch that names a document twice."""
    held: list[tuple[Key, int]] = []
    for _ in range(3):
        await store.put([desired("again", 1), desired("other", 2)], replace=False)
        rows = await take(store, 2)
        held += [(row.key, row.version) for row in rows]
        await store.delete(["again", "other"])
    await store.put([desired("again", 1), desired("other", 2)], replace=False)
    rows = await take(store, 2)
    current = [(row.key, row.version) for row in rows]
    async with store.renewer("alice") as renewer:
        for order in (current + held, held + current):
            assert (await renewer.renew(order, LEASE)).revisions == {key: 1 for key, _ in current}
    ends = [settlement(rows[0], version=version) for key, version in held if key != rows[0].key]
    for end, (key, _) in zip(ends, held, strict=False):
        end.key = key
    assert await store.settle("alice", [*ends, *map(settlement, rows)]) == [*[False] * len(ends), True, True]


async def test_each_process_measures_the_clock_on_a_document_of_its_own(
    open_one: Callable[..., Awaitable[FirestoreStore]],
) -> None:
    stores = [await open_one() for _ in range(3)]
    watcher = stores[0]._wire
    (shared,) = (await watcher.get([""])).values()
    for store in stores:
        await store._measure_clock()
    (after,) = (await watcher.get([""])).values()
    assert after.stamp == shared.stamp, "nobody has written the installation's document"
    heartbeats = [store._heartbeat_path for store in stores]
    assert len(await watcher.get(heartbeats)) == 3
    await stores[1].close()
    assert sorted(await watcher.get(heartbeats)) == sorted([heartbeats[0], heartbeats[2]])


async def test_the_heartbeats_of_processes_that_were_killed_are_pruned(store: FirestoreStore) -> None:
    long_ago = await store.now() - 2 * DAY
    await store._wire.commit([Write("sjob_replicas/killed", {"details": {}, "seen_at": long_ago})])
    await store.prune()
    left = await store._wire.get(["sjob_replicas/killed", store._heartbeat_path], ())
    assert list(left) == [store._heartbeat_path]


async def test_a_row_that_is_edited_without_pause_costs_no_other_row_its_end(
    store: FirestoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.put([desired(f"job-{n}", n) for n in range(10)], replace=False)
    rows = await take(store, 10)
    now = await store.now()
    ends = [settlement(row, wake_at=now + HOUR, records=[record(f"run-{row.slug}", now)]) for row in rows]
    commit, edits = Wire.commit, 0

    async def edit_first(wire: Wire, writes: Sequence[Write]) -> list[int]:
        nonlocal edits
        if any(write.path == path_of(rows[3].key) and "state" in (write.fields or {}) for write in writes):
            edits += 1
            with monkeypatch.context() as patch:
                patch.setattr(Wire, "commit", commit)
                await store.put([desired("job-3", payload=str(edits).encode())], replace=True)
        return await commit(wire, writes)

    with monkeypatch.context() as patch:
        patch.setattr(Wire, "commit", edit_first)
        answer = await store.settle("alice", ends)
    assert answer == [None if row.slug == "job-3" else True for row in rows]
    assert len(await store.history()) == 9
    assert await store.settle("alice", [ends[3]]) == [True]
    assert len(await store.history()) == 10


@pytest.mark.parametrize("call", ["put", "delete", "reconcile", "tombstone", "touch"])
async def test_a_row_that_is_written_without_pause_costs_no_other_row_a_write(
    store: FirestoreStore, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    async def at_once(attempt: int) -> None: ...

    for module in (schedules, reconciling):
        monkeypatch.setattr(module, "pause", at_once)
    rows = [desired(f"job-{n}", 1, origin=Origin.CLUSTER) for n in range(10)]
    slugs = [row.slug for row in rows]
    await store.reconcile(rows)
    edited = [desired(slug, 1, origin=Origin.CLUSTER, definition="{}") for slug in slugs]
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "put": lambda: store.put(edited, replace=True),
        "delete": lambda: store.delete(slugs),
        "reconcile": lambda: store.reconcile(edited),
        "tombstone": lambda: store.tombstone([(row.slug, row.uid) for row in rows]),
        "touch": lambda: store.touch(slugs),
    }
    commit, busy = Wire.commit, layout.schedule_path("job-3")

    async def write_first(wire: Wire, writes: Sequence[Write]) -> list[int]:
        if any(write.path == busy for write in writes):
            await commit(wire, [Write(busy, {"result": secrets.token_bytes(8)}, ("result",))])
        return await commit(wire, writes)

    monkeypatch.setattr(Wire, "commit", write_first)
    with pytest.raises(StoreUnavailable, match="others keep writing them"):
        await calls[call]()
    left = {row.slug: row.revision for row in await store.rows()}
    assert left == {"job-3": 1} if call in {"delete", "tombstone"} else {slug: 1 + (slug != "job-3") for slug in slugs}
