"""Ends over a slow link: none is lost, and large ones don't stand in the way of others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from scheduledjob.engine.settler import Settler
from scheduledjob.engine.stored_row import Disposition, Settlement
from scheduledjob.stores.postgres import PostgresStore
from tests.stores.support import PATIENCE, put_due, record, settlement, take, until
from tests.support.proxy import proxy_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.proxy import Proxy

pytestmark = pytest.mark.postgres

KIB = 1024


@pytest.fixture
async def link(postgres_dsn: str) -> AsyncIterator[Proxy]:
    async with proxy_of(postgres_dsn) as proxy:
        yield proxy


@pytest.fixture
async def store(link: Proxy) -> AsyncIterator[PostgresStore]:
    """Its time limit is so short that all large ends of a test together would exceed it."""
    store = PostgresStore(link.url, timeout=1.0)
    await store.connect()
    yield store
    await store.close()


async def test_large_ends_are_written_although_they_take_longer_than_the_time_limit(
    store: PostgresStore, link: Proxy
) -> None:
    now = await store.now()
    await put_due(store, *[f"large-{n}" for n in range(6)], *[f"small-{n}" for n in range(20)])
    rows = await take(store, 26)
    order: list[str] = []
    all_written = asyncio.Event()

    def on_settled(owner: None, end: Settlement, done: bool) -> None:
        assert done
        order.append(end.slug)
        if len(order) == len(rows):
            all_written.set()

    settler: Settler[None] = Settler(store, "alice", on_settled)
    link.rate = 256.0 * KIB
    for row in rows:
        large = row.slug.startswith("large")
        end = settlement(
            row,
            Disposition.RELEASE,
            records=[record(f"run-{row.slug}", now)],
            result=bytes(300 * KIB) if large else None,
        )
        end.slug = row.slug
        settler.submit(None, end)
    async with asyncio.timeout(2 * PATIENCE), asyncio.TaskGroup() as tasks:
        tasks.create_task(settler.run())
        await all_written.wait()
        settler.close()
    assert all(slug.startswith("small") for slug in order[:20])
    link.rate = float("inf")
    assert len(await store.history()) == 26


async def test_ends_whose_answers_are_dropped_are_written_once(
    store: PostgresStore, link: Proxy, postgres_dsn: str
) -> None:
    now = await store.now()
    await put_due(store, *[f"job-{n:02}" for n in range(20)])
    rows = await take(store, 20)
    results: dict[int, bool] = {}
    settler: Settler[int] = Settler(store, "alice", lambda number, end, done: results.update({number: done}))
    for number, row in enumerate(rows):
        disposition = list(Disposition)[number % 3]
        records = [record(f"run-{row.slug}", now)] if number % 2 or disposition is Disposition.REMOVE else []
        end = settlement(row, disposition, records=records)
        end.slug = row.slug
        settler.submit(number, end)
    link.drop_answers_after = b"run-job-01"
    settler.close()
    watcher = PostgresStore(postgres_dsn)
    await watcher.connect()

    async def carried_out() -> bool:
        return len(await watcher.history()) == 13

    async with asyncio.timeout(2 * PATIENCE), asyncio.TaskGroup() as tasks:
        tasks.create_task(settler.run())
        await until(carried_out)
        assert link.drop_answers
        link.drop_answers = False
    await watcher.close()
    assert results == dict.fromkeys(range(20), True)
