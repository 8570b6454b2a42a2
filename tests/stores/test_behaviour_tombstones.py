"""Every store: how long a tombstone is kept. Here it is a fraction of a second instead of days."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from scheduledjob.domain.schedule.definition import Definition, Keep
from scheduledjob.domain.time.instants import HOUR
from scheduledjob.engine.store import TOMBSTONE_KEPT, Put
from scheduledjob.engine.stored_row import NewRow, Origin
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


def observed(slug: str, ttl: int = 0, uid: str = "", created_at: int = 5) -> NewRow:
    definition = Definition(KIND, keep=Keep(ttl=ttl)).encode()
    return NewRow(
        slug=slug,
        uid=uid or f"uid-of-{slug}",
        kind=KIND,
        origin=Origin.CLUSTER,
        definition=definition,
        state=PLAIN,
        wake_at=None,
        created_at=created_at,
        generation=1,
    )


async def passed(store: Store) -> None:
    end = await store.now() + SHORT

    async def is_over() -> bool:
        return await store.now() > end

    await until(is_over)


def test_a_tombstone_is_kept_as_long_as_history() -> None:
    for ttl in (0, TOMBSTONE_KEPT, TOMBSTONE_KEPT + 1):
        assert tombstones.tombstone_kept_for(Definition(KIND, keep=Keep(ttl=ttl)).encode()) == max(ttl, TOMBSTONE_KEPT)
    assert tombstones.tombstone_kept_for("") == TOMBSTONE_KEPT
    assert tombstones.tombstone_kept_for("of a version that writes something else") == TOMBSTONE_KEPT


@pytest.mark.usefixtures("short")
async def test_a_uid_may_come_back_after_its_tombstone_has_expired(store: Store, other: Store) -> None:
    await store.reconcile([observed("a"), observed("b", HOUR)])
    await store.tombstone([(slug, f"uid-of-{slug}") for slug in "abc"])
    await passed(store)

    async def is_back() -> bool:
        return await other.reconcile([observed("a")]) == [Put.CREATED]

    await until(is_back)  # the other store may estimate the time as a little earlier
    assert await other.reconcile([observed("b"), observed("c")]) == [Put.STALE, Put.CREATED]


@pytest.mark.usefixtures("short")
async def test_a_second_tombstone_never_shortens_the_first(store: Store) -> None:
    await store.reconcile([observed("a", HOUR)])
    await store.tombstone([("a", "uid-of-a")])
    await store.tombstone([("a", "uid-of-a")])
    await passed(store)
    assert await store.reconcile([observed("a")]) == [Put.STALE]


@pytest.mark.usefixtures("short")
async def test_the_tombstone_of_a_replaced_object_is_kept_as_long_as_its_history(store: Store) -> None:
    await store.reconcile([observed("a", HOUR), observed("b")])
    await store.reconcile([observed(slug, uid="younger", created_at=6) for slug in "a"])
    await store.reconcile([observed(slug, uid="youngest", created_at=6) for slug in "b"])
    await passed(store)
    await store.tombstone([("a", "younger"), ("b", "youngest")])
    assert await store.reconcile([observed("a"), observed("b")]) == [Put.STALE, Put.CREATED]


@pytest.mark.usefixtures("short")
async def test_pruning_drops_expired_tombstones_and_nothing_else(store_factory: StoreFactory) -> None:
    store = await store_factory()
    await store.reconcile([observed("a"), observed("b", HOUR)])
    await store.tombstone([(slug, f"uid-of-{slug}") for slug in "abc"])
    await passed(store)
    pruning = await store_factory()
    assert await pruning.prune() == 0
    assert await store.reconcile([observed("b")]) == [Put.STALE]
    assert await store.reconcile([observed("a"), observed("c")]) == [Put.CREATED] * 2
