"""Every store: history. Ended runs, newest first, for as long as their records say."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from scheduledjob.domain.schedule.state import Outcome, RunRecord
from scheduledjob.domain.time.instants import DAY, HOUR, SECOND
from scheduledjob.engine.stored_row import Disposition

from .support import is_gone, put_due, record, settle, settlement, take_one

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.engine.store import Store


async def write(store: Store, *records: RunRecord) -> None:
    """Write history by a settlement of a schedule that is created for it and removed."""
    await put_due(store, "scribe")
    row = await take_one(store)
    assert await settle(store, settlement(row, Disposition.REMOVE, records=records))
    assert await is_gone(store, "scribe")


def ids(records: Sequence[RunRecord]) -> list[str]:
    return [record.run_id for record in records]


async def prune_all(store: Store) -> int:
    total = 0
    while went := await store.prune():
        total += went
    return total


@pytest.mark.parametrize("outcome", [Outcome.SUCCEEDED, Outcome.FAILED, Outcome.CANCELLED])
async def test_a_record_is_read_as_it_was_written(store: Store, other: Store, outcome: Outcome) -> None:
    now = await store.now()
    full = RunRecord(
        run_id="uid-1-1234567",
        uid="uid-1",
        slug="team-a/ä",
        slot=now - 3,
        started=now - 2,
        finished=now - 1,
        attempt=7,
        outcome=outcome,
        reason="exit code 3: 'ü' \"\\ %s",
        code=3,
        replica="pod-1",
        output=bytes(range(256)) * 16,
        keep=9,
        expires=now + DAY,
        manual=True,
        chain="extract/ä",
    )
    bare = RunRecord(
        run_id="run-2",
        uid="uid-1",
        slug="team-a/ä",
        slot=now,
        started=None,
        finished=now,
        attempt=1,
        outcome=outcome,
        expires=now + DAY,
    )
    await write(store, full, bare)
    assert await other.history("team-a/ä") == [bare, full]


async def test_the_newest_to_finish_come_first(store: Store) -> None:
    now = await store.now()
    records = [record(f"run-{n}", now - n * SECOND, slug=f"job-{n % 2}") for n in (3, 0, 4, 1, 5, 2)]
    await write(store, *records)
    assert ids(await store.history()) == [f"run-{n}" for n in range(6)]
    assert ids(await store.history("job-0")) == ["run-0", "run-2", "run-4"]
    assert await store.history("missing") == []


async def test_history_is_read_in_pages(store: Store) -> None:
    now = await store.now()
    await write(store, *(record(f"run-{n}", now - n, slug=f"job-{n % 2}") for n in range(10)))
    pages = []
    before = None
    while page := await store.history(before=before, limit=4):
        pages.append(ids(page))
        before = page[-1].finished
    assert pages == [[f"run-{n}" for n in range(k, min(k + 4, 10))] for k in (0, 4, 8)]
    assert ids(await store.history("job-1", before=now - 3, limit=2)) == ["run-5", "run-7"]


async def test_history_outlives_its_schedule(store: Store) -> None:
    now = await store.now()
    await put_due(store, "job")
    row = await take_one(store)
    assert await settle(store, settlement(row, Disposition.KEEP, records=[record("run-1", now)]))
    await store.delete(["job"])
    assert ids(await store.history("job")) == ["run-1"]
    await put_due(store, "job")
    assert ids(await store.history("job")) == ["run-1"]


async def test_recorded_returns_the_runs_that_have_ended(store: Store, other: Store) -> None:
    now = await store.now()
    await write(store, record("run-1", now), record("run-2", now, outcome=Outcome.FAILED))
    assert await other.recorded(["run-0", "run-2", "run-1"]) == {"run-1", "run-2"}
    assert await other.recorded([]) == set()


async def test_prune_keeps_the_newest_of_each_kind_of_outcome(store: Store) -> None:
    now = await store.now()
    for slug in ("a", "b"):
        good = [record(f"{slug}-good-{n}", now - n, slug=slug, keep=3) for n in range(6)]
        bad = [record(f"{slug}-bad-{n}", now - n - 10, slug=slug, keep=2, outcome=Outcome.FAILED) for n in range(4)]
        await write(store, *good, *bad)
    before = len(await store.history(limit=1000))
    went = await prune_all(store)

    left = await store.history(limit=1000)
    assert len(left) == before - went
    for slug in ("a", "b"):
        assert ids([record for record in left if record.slug == slug]) == [
            *(f"{slug}-good-{n}" for n in range(3)),
            *(f"{slug}-bad-{n}" for n in range(2)),
        ]
    assert await store.recorded(["a-good-2", "a-good-3"]) == {"a-good-2"}
    assert await prune_all(store) == 0


async def test_prune_orders_runs_by_their_end(store: Store) -> None:
    now = await store.now()
    await write(store, *(record(f"run-{n}", now - n, keep=2) for n in (2, 0, 3, 1)))
    await prune_all(store)
    assert ids(await store.history()) == ["run-0", "run-1"]


async def test_prune_drops_what_has_expired(store: Store) -> None:
    now = await store.now()
    old = [record(f"old-{n}", now - DAY - n, slug=f"job-{n % 3}", expires=now - HOUR) for n in range(5)]
    await write(store, *old, record("young", now - 2 * DAY, slug="job-0", expires=now + HOUR))
    assert await prune_all(store) == 5
    assert ids(await store.history()) == ["young"]


async def test_prune_drops_no_more_than_its_limit(store: Store) -> None:
    now = await store.now()
    await write(store, *(record(f"run-{n}", now - DAY - n, expires=now - HOUR) for n in range(7)))
    assert 0 < await store.prune(limit=3) <= 3
    assert len(await store.history()) >= 4
    assert await store.prune(limit=100) <= 4


async def test_prune_drops_no_more_than_its_limit_of_what_newer_runs_push_out(store: Store) -> None:
    now = await store.now()
    for slug in ("a", "b"):
        await write(store, *(record(f"{slug}-{n}", now - n, slug=slug, keep=2) for n in range(5)))
    before = len(await store.history())
    went = await store.prune(limit=4)
    assert went <= 4
    assert len(await store.history()) == before - went


async def test_several_replicas_may_prune_at_the_same_time(store: Store, other: Store) -> None:
    now = await store.now()
    expired = [record(f"old-{n}", now - DAY - n, expires=now - HOUR) for n in range(40)]
    await write(store, *expired, *(record(f"run-{n}", now - n, keep=3, slug="kept") for n in range(8)))
    before = len(await store.history(limit=1000))
    went = await asyncio.gather(*(connection.prune(limit=10) for connection in (store, other) * 4))
    went.append(await prune_all(store))
    assert ids(await store.history(limit=1000)) == ["run-0", "run-1", "run-2"]
    assert sum(went) == before - 3


async def test_a_pruned_run_is_no_longer_recorded(store: Store) -> None:
    now = await store.now()
    await write(store, record("run-1", now - DAY, expires=now - HOUR))
    await prune_all(store)
    assert await store.recorded(["run-1"]) == set()


@pytest.mark.parametrize("code", [2**31, -(2**31) - 1, 2**63 - 1])
async def test_a_run_is_recorded_whatever_its_code(store: Store, code: int) -> None:
    now = await store.now()
    odd = record("odd", now - 1)
    odd.code = code
    await write(store, record("run", now), odd)
    assert ids(await store.history("job")) == ["run", "odd"]
