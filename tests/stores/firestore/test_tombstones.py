"""The document of a slug that has tombstones but no schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from scheduledjob.domain.time.instants import HOUR
from scheduledjob.engine.store import Put, SlugTaken
from scheduledjob.engine.stored_row import Disposition, NewRow, Origin
from scheduledjob.stores import tombstones
from scheduledjob.stores.firestore import layout
from scheduledjob.stores.firestore.layout import schedule_path
from tests.stores.support import KIND, PLAIN, desired, settle, settlement, take_one, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from scheduledjob.stores.firestore import FirestoreStore
    from scheduledjob.stores.firestore.operations import Write

    from .metering import Meter

pytestmark = pytest.mark.firestore


def observed(slug: str, uid: str, created_at: int = 5, wake_at: int | None = None) -> NewRow:
    return NewRow(
        slug=slug,
        uid=uid,
        kind=KIND,
        origin=Origin.CLUSTER,
        definition="",
        state=PLAIN,
        wake_at=wake_at,
        created_at=created_at,
        generation=1,
    )


async def fields(store: FirestoreStore, slug: str) -> set[str] | None:
    there = (await store._wire.get([schedule_path(slug)])).get(schedule_path(slug))
    return None if there is None else set(there.fields)


async def test_a_tombstone_document_is_deleted_after_it_has_expired_and_not_before(
    open_one: Callable[..., Awaitable[FirestoreStore]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_one("?shards=3")
    await store.tombstone([(f"long-{n}", "uid") for n in range(3)])
    monkeypatch.setattr(tombstones, "tombstone_kept_for", lambda definition: 1)
    monkeypatch.setattr("scheduledjob.stores.firestore.reconciling.tombstone_kept_for", lambda definition: 1)
    await store.tombstone([(f"short-{n}", "uid") for n in range(3)])
    end = await store.now() + 1

    async def is_over() -> bool:
        return await store.now() > end

    await until(is_over)
    assert await store.prune() == 0
    assert [await fields(store, f"short-{n}") for n in range(3)] == [None] * 3
    assert [await fields(store, f"long-{n}") for n in range(3)] == [{"shard", "buried", "forget_at"}] * 3


@pytest.mark.parametrize("how", ["delete", "clear", "settle"])
async def test_a_schedule_put_over_tombstones_keeps_them(store: FirestoreStore, how: str) -> None:
    await store.tombstone([("job", "uid-1")])
    await store.put([desired("job", await store.now() - 1)], replace=False)
    if how == "delete":
        assert await store.delete(["job"]) == [True]
    elif how == "clear":
        assert await store.clear() == 1
    else:
        assert await settle(store, settlement(await take_one(store), Disposition.REMOVE))
    assert await fields(store, "job") == {"shard", "buried", "forget_at"}
    assert await store.reconcile([observed("job", "uid-1"), observed("more", "uid-1")]) == [Put.STALE, Put.CREATED]


async def test_a_long_put_over_tombstones_that_is_refused_keeps_them(
    open_one: Callable[..., Awaitable[FirestoreStore]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody schedules the last slug between the read of all slugs and the last commit."""
    store, other = await open_one(), await open_one()
    await store.tombstone([(f"job-{n:03}", "uid") for n in range(600)])
    real = store._schedules._check_free
    should_poll = 0

    async def none_taken(rows: list[NewRow]) -> object:
        nonlocal should_poll
        found = await real(rows)
        should_poll += 1
        if should_poll == 1:
            await other.put([desired("job-599")], replace=False)
        return found

    monkeypatch.setattr(store._schedules, "_check_free", none_taken)
    with pytest.raises(SlugTaken, match="job-599"):
        await store.put([desired(f"job-{n:03}") for n in range(600)], replace=False)
    assert [row.slug for row in await store.rows()] == ["job-599"]
    answers = await store.reconcile([observed(f"job-{n:03}", "uid", created_at=9) for n in range(599)])
    assert set(answers) == {Put.STALE}


async def test_a_document_holds_a_limited_number_of_tombstones(
    store: FirestoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "MAX_TOMBSTONES", 3)
    for n in range(5):
        await store.tombstone([("job", f"uid-{n}")])
    assert await store.reconcile([observed("job", "uid-4")]) == [Put.STALE]
    assert await store.reconcile([observed("job", "uid-2")]) == [Put.STALE]
    assert await store.reconcile([observed("job", "uid-1")]) == [Put.CREATED]


async def test_a_call_repeated_after_a_lost_answer_takes_effect_once(store: FirestoreStore, meter: Meter) -> None:
    now = await store.now()
    for call in (
        lambda: store.reconcile([observed("job", "uid-1", wake_at=now + HOUR)]),
        lambda: store.reconcile([observed("job", "uid-2", 6, wake_at=now + HOUR)]),
        lambda: store.tombstone([("job", "uid-2")]),
    ):
        meter.lose = {"commit"}
        with pytest.raises(Exception, match="lost"):
            await call()
        assert await call() in ([Put.UNCHANGED], [False])
    assert await store.reconcile([observed("job", "uid-1"), observed("x", "uid-3")]) == [Put.STALE, Put.CREATED]


@pytest.mark.parametrize("before", ["nothing", "a tombstone", "an older row", "the row itself"])
async def test_a_tombstone_written_between_read_and_write_is_respected(
    open_one: Callable[..., Awaitable[FirestoreStore]], monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    store, other = await open_one(), await open_one()
    if before == "a tombstone":
        await other.tombstone([("job", "uid-0")])
    elif before != "nothing":
        await other.reconcile([observed("job", "uid-1", created_at=1 if before == "an older row" else 5)])
    uid = "uid-1" if before == "the row itself" else "uid-2"
    commit = store._wire.commit
    commits = 0

    async def crossed(writes: Sequence[Write]) -> list[int]:
        nonlocal commits
        commits += 1
        if commits == 1:
            await other.tombstone([("job", uid)])
        return await commit(writes)

    monkeypatch.setattr(store._wire, "commit", crossed)
    new = observed("job", uid)
    new.generation = 2
    assert await store.reconcile([new]) == [Put.STALE]
    assert [row.uid for row in await store.rows()] == (["uid-1"] if before == "an older row" else [])
