"""Every store: for how long a uid that was buried is not taken again. The days that it takes are made short here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from scheduledjob.domain.schedule.definition import Definition, Keep
from scheduledjob.domain.time.instants import HOUR
from scheduledjob.engine.store import TOMBSTONE_KEPT, NewRow, Origin, Put
from scheduledjob.stores import tombstones

from .support import KIND, PLAIN, until

if TYPE_CHECKING:
    from scheduledjob.engine.store import Store

    from .conftest import StoreFactory

SHORT = 200_000


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tombstones, "TOMBSTONE_KEPT", SHORT)
    monkeypatch.setattr(tombstones, "Keep", lambda: Keep(ttl=0))


def seen(slug: str, ttl: int = 0, uid: str = "", created_at: int = 5) -> NewRow:
    definition = Definition(KIND, keep=Keep(ttl=ttl)).encode()
    return NewRow(
        slug,
        uid or f"uid-of-{slug}",
        KIND,
        Origin.CLUSTER,
        definition,
        PLAIN,
        None,
        created_at=created_at,
        generation=1,
    )


async def passed(store: Store) -> None:
    end = await store.now() + SHORT

    async def is_over() -> bool:
        return await store.now() > end

    await until(is_over)


def test_a_tombstone_stands_as_long_as_history_may() -> None:
    for ttl in (0, TOMBSTONE_KEPT, TOMBSTONE_KEPT + 1):
        assert tombstones.tombstone_kept_for(Definition(KIND, keep=Keep(ttl=ttl)).encode()) == max(ttl, TOMBSTONE_KEPT)
    assert tombstones.tombstone_kept_for("") == TOMBSTONE_KEPT
    assert tombstones.tombstone_kept_for("of a version that writes something else") == TOMBSTONE_KEPT


@pytest.mark.usefixtures("short")
async def test_a_uid_may_come_back_when_its_time_is_over(store: Store, other: Store) -> None:
    await store.reconcile([seen("a"), seen("b", HOUR)])
    await store.tombstone([(slug, f"uid-of-{slug}") for slug in "abc"])
    await passed(store)
    wanted = [Put.CREATED, Put.STALE, Put.CREATED]
    assert await other.reconcile([seen("a"), seen("b"), seen("c")]) == wanted


@pytest.mark.usefixtures("short")
async def test_who_is_buried_again_stays_longer_and_never_shorter(store: Store) -> None:
    await store.reconcile([seen("a", HOUR)])
    await store.tombstone([("a", "uid-of-a")])
    await store.tombstone([("a", "uid-of-a")])
    await passed(store)
    assert await store.reconcile([seen("a")]) == [Put.STALE]


@pytest.mark.usefixtures("short")
async def test_who_is_replaced_is_buried_as_long_as_its_history_is_kept(store: Store) -> None:
    await store.reconcile([seen("a", HOUR), seen("b")])
    await store.reconcile([seen(slug, uid="younger", created_at=6) for slug in "a"])
    await store.reconcile([seen(slug, uid="youngest", created_at=6) for slug in "b"])
    await passed(store)
    await store.tombstone([("a", "younger"), ("b", "youngest")])
    assert await store.reconcile([seen("a"), seen("b")]) == [Put.STALE, Put.CREATED]


@pytest.mark.usefixtures("short")
async def test_pruning_drops_what_is_over_and_nothing_else(store_factory: StoreFactory) -> None:
    store = await store_factory()
    await store.reconcile([seen("a"), seen("b", HOUR)])
    await store.tombstone([(slug, f"uid-of-{slug}") for slug in "abc"])
    await passed(store)
    pruning = await store_factory()
    assert await pruning.prune() == 0
    assert await store.reconcile([seen("b")]) == [Put.STALE]
    assert await store.reconcile([seen("a"), seen("c")]) == [Put.CREATED] * 2
