"""The work of the server for claims and settlements, counted in rows and pages, not in seconds.

Each case is one that makes queues in Postgres slow: statistics of an empty table, an old snapshot that keeps every
dead row, due rows that no replica can run.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from scheduledjob.domain.schedule.state import Outcome, RunRecord, State
from scheduledjob.domain.time.instants import DAY, SECOND
from scheduledjob.engine.store import Put
from scheduledjob.engine.stored_row import Disposition, NewRow, Origin, Settlement
from scheduledjob.stores.postgres import PostgresStore
from scheduledjob.stores.postgres.claim_watermark import BOTTOM
from scheduledjob.stores.postgres.claims import FAIR_CLAIM, MAX_PAIRS, _claim_query
from scheduledjob.stores.postgres.history import EXAMINED
from scheduledjob.stores.postgres.part import SEARCH_START

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.postgres

STATE = State(decided_until=0).encode()
LEASE = 60 * SECOND


def desired_rows(prefix: str, count: int, wake_at: int, *, kind: str = "noop", apart: int = 1) -> list[NewRow]:
    return [
        NewRow(
            slug=f"{prefix}-{n:06}",
            uid=f"uid-{prefix}-{n}",
            kind=kind,
            origin=Origin.LIBRARY,
            definition="",
            state=STATE,
            wake_at=wake_at + n * apart,
        )
        for n in range(count)
    ]


async def explained(store: PostgresStore, kinds: list[str], watermark: int, *, limit: int = 100) -> dict[str, Any]:
    """Return the plan of a claim that was executed and rolled back."""
    return await _explained(
        store, _claim_query(len(kinds)), kinds, "explainer", limit, 0, LEASE, watermark, watermark, None
    )


async def explained_fairly(
    store: PostgresStore, kinds: list[str], quotas: dict[str, int], others: int, *, limit: int = 100
) -> dict[str, Any]:
    """Return the plan of a claim with quotas that was executed and rolled back."""
    return await _explained(
        store, FAIR_CLAIM, kinds, "explainer", limit, 0, LEASE, BOTTOM, BOTTOM, None, json.dumps(quotas), others,
        *SEARCH_START, MAX_PAIRS,
    )  # fmt: skip


async def _explained(store: PostgresStore, query: str, *arguments: Any) -> dict[str, Any]:
    async with store._pool.connection("explaining") as connection:
        transaction = connection.transaction()
        await transaction.start()
        (line,) = await connection.fetch(
            "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + query, store._installation, *arguments
        )
        await transaction.rollback()
    plan: dict[str, Any] = json.loads(line[0])[0]["Plan"]
    return plan


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def rows_read(plan: dict[str, Any]) -> float:
    """Return the number of rows that scans of the table read, including those that a filter dropped."""
    return sum(
        float((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"])
        for node in nodes(plan)
        if node.get("Relation Name") == "schedule"
    )


def pages(plan: dict[str, Any]) -> int:
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def pages_of_search(plan: dict[str, Any]) -> int:
    """Return the number of pages read to find due rows, without those for writing new versions."""
    return sum(pages(node) for node in nodes(plan) if node.get("Index Name") in {"schedule_due", "schedule_lease"})


async def churn(store: PostgresStore, start: int, rounds: int, *, size: int) -> None:
    """Claim all rows and release them, due a second later each time, as recurring schedules do."""
    for number in range(rounds):
        batch = await store.claim("alice", ["noop"], limit=size, ahead=0, lease=LEASE)
        assert len(batch.rows) == size
        due = start + (number + 1) * SECOND
        await store.settle(
            "alice",
            [
                Settlement(
                    key=row.key,
                    version=row.version,
                    disposition=Disposition.RELEASE,
                    state=row.state,
                    wake_at=due,
                    revision=row.revision,
                )
                for row in batch.rows
            ],
        )


async def test_a_claim_reads_what_it_takes_and_not_what_is_stored(store: PostgresStore) -> None:
    now = await store.now()
    await store.put(desired_rows("later", 20_000, now + DAY), replace=False)
    await store.put(desired_rows("due", 5_000, now - SECOND), replace=False)
    plan = await explained(store, ["curl", "noop", "shell"], BOTTOM)
    assert rows_read(plan) <= 100 * 4, "found, locked and updated, and little else"
    idle = await explained(store, ["curl", "shell"], BOTTOM)
    assert rows_read(idle) == 0


async def test_a_plan_made_for_an_empty_table_serves_a_full_one(store: PostgresStore) -> None:
    await _vacuum(store)
    for _ in range(10):  # by then the server has cached the plan
        await store.claim("alice", ["noop", "shell"], limit=100, ahead=0, lease=LEASE)
    now = await store.now()
    await store.put(desired_rows("due", 10_000, now - SECOND), replace=False)
    before = await _rows_read(store)
    for _ in range(5):
        batch = await store.claim("alice", ["noop", "shell"], limit=100, ahead=0, lease=LEASE)
        assert len(batch.rows) == 100
    assert await _rows_read(store) - before < 5 * 100 * 6


async def test_a_claim_reads_little_for_each_of_a_thousand_kinds(store: PostgresStore) -> None:
    now = await store.now()
    kinds = [f"kind-{n:04}" for n in range(1_000)]
    rows = desired_rows("later", 5_000, now + DAY)
    for number, row in enumerate(rows):
        row.kind = kinds[number % 1_000]
    await store.put(rows, replace=False)
    idle = await explained(store, kinds, BOTTOM)
    assert sum(1 for _ in nodes(idle)) < 100, "no part of the plan for each kind"
    assert rows_read(idle) <= 1_000, "the next row of each kind"
    assert pages(idle) < 1_000 * (3 * 4 + 3), "three searches for each kind, and three in an index without entries"
    rows = desired_rows("due", 20_000, now - DAY)
    for number, row in enumerate(rows):
        row.kind = kinds[number % 1_000]
    await store.put(rows, replace=False)
    busy = await explained(store, kinds, BOTTOM)
    assert rows_read(busy) <= 1_000 + 4 * 1_000 + 4 * 100, "two of each kind, found and looked up, and what it takes"


async def test_a_claim_of_many_kinds_takes_all_that_is_due(store: PostgresStore) -> None:
    """It reads no more than a part of each kind, but claims again."""
    now = await store.now()
    kinds = [f"kind-{n:04}" for n in range(100)]
    rows = desired_rows("due", 300, now - DAY)
    for number, row in enumerate(rows):
        row.kind = kinds[0 if number < 200 else number % 100]
    await store.put(rows, replace=False)
    claimed = 0
    while True:
        batch = await store.claim("alice", kinds, limit=500, ahead=0, lease=LEASE)
        claimed += len(batch.rows)
        if batch.next_wake is None or batch.next_wake > batch.now:
            break
    assert claimed == 300


async def test_a_claim_with_quotas_reads_what_it_takes_and_not_what_is_stored(store: PostgresStore) -> None:
    now = await store.now()
    await store.put(desired_rows("later", 20_000, now + DAY), replace=False)
    due = [
        *desired_rows("hog/job", 10_000, now - DAY),
        *desired_rows("lone/job", 1, now - SECOND),
        *desired_rows("unknown/job", 10_000, now - DAY, kind="rolling-out"),
    ]
    for row in due:
        row.origin = Origin.MANIFEST
    await store.put(due, replace=False)
    plan = await explained_fairly(store, ["curl", "noop", "shell"], {"hog": 99}, 16)
    assert rows_read(plan) <= 100 * 4 + 20, "found, locked and updated, and little else"
    saturated = await explained_fairly(store, ["curl", "noop", "shell"], {"hog": 0}, 16)
    assert rows_read(saturated) <= 30
    assert pages(saturated) < 200


async def test_unknown_kinds_do_not_slow_the_claim(store: PostgresStore) -> None:
    now = await store.now()
    await store.put(desired_rows("unknown", 20_000, now - DAY, kind="rolling-out"), replace=False)
    await store.put(desired_rows("known", 10, now - SECOND), replace=False)
    plan = await explained(store, ["noop", "shell"], BOTTOM)
    assert rows_read(plan) <= 10 * 6
    assert pages(plan) < 400
    batch = await store.claim("alice", ["noop", "shell"], limit=100, ahead=0, lease=LEASE)
    assert len(batch.rows) == 10
    left = await store.rows(after="unknown", limit=30_000)
    assert len(left) == 20_000
    assert all(row.owner is None and row.version == 0 for row in left)


async def test_a_held_snapshot_does_not_slow_the_claim(store: PostgresStore, postgres_dsn: str) -> None:
    start = await store.now() - DAY
    await store.put(desired_rows("job", 500, start, apart=0), replace=False)
    holder = await asyncpg.connect(postgres_dsn)
    try:
        async with holder.transaction(isolation="repeatable_read", readonly=True):
            await holder.fetchval("SELECT count(*) FROM scheduledjob.schedule")
            await churn(store, start, 40, size=500)
            from_the_floor = await explained(store, ["noop"], store._watermark.known)
            from_the_bottom = await explained(store, ["noop"], BOTTOM)
    finally:
        await holder.close()
    assert pages_of_search(from_the_bottom) > 500, "the snapshot holds dead rows, or this test shows nothing"
    assert pages_of_search(from_the_floor) < 50


async def test_a_settlement_looks_up_its_rows_and_no_others(store: PostgresStore) -> None:
    """With a plan that was made when the table was empty."""
    await _vacuum(store)
    for disposition in list(Disposition) * 10:
        assert await store.settle(
            "alice", [Settlement(key=1, version=1, disposition=disposition, state=STATE, wake_at=None, revision=1)]
        ) == [False]
    now = await store.now()
    await store.put(desired_rows("job", 5_000, now - SECOND), replace=False)
    before = await _rows_read(store)
    batch = await store.claim("alice", ["noop"], limit=400, ahead=0, lease=LEASE)
    dispositions = [Disposition.REMOVE, Disposition.RELEASE]
    assert all(
        await store.settle(
            "alice",
            [
                Settlement(
                    key=row.key,
                    version=row.version,
                    disposition=dispositions[n % 2],
                    state=row.state,
                    wake_at=now + DAY,
                    revision=row.revision,
                )
                for n, row in enumerate(batch.rows)
            ],
        )
    )
    assert await _rows_read(store) - before < 400 * 10


async def test_clients_queries_use_indexes(store: PostgresStore) -> None:
    """With plans that were made when the tables were empty."""

    async def ask() -> None:
        slugs = [f"job-{n:06}" for n in range(1, 60, 6)]
        await store.get(slugs)
        await store.rows(after="job-000100", limit=10)
        await store.recorded([f"run-of-{slug}" for slug in slugs])
        await store.history(limit=10)
        await store.history("job-000050", limit=10)
        assert await store.prune(limit=10) == 0
        await store.delete(slugs)

    await _vacuum(store)
    await ask()
    now = await store.now()
    await store.put(desired_rows("job", 2_000, now), replace=False)
    batch = await store.claim("alice", ["noop"], limit=2_000, ahead=0, lease=LEASE)
    records = [
        RunRecord(
            run_id=f"run-of-{row.slug}",
            uid=row.uid,
            slug=row.slug,
            slot=now,
            started=now,
            finished=now,
            attempt=1,
            outcome=Outcome.SUCCEEDED,
            expires=now + DAY,
        )
        for row in batch.rows
    ]
    kept = [
        Settlement(
            key=row.key,
            version=row.version,
            disposition=Disposition.RELEASE,
            state=row.state,
            wake_at=None,
            revision=row.revision,
            records=[record],
        )
        for row, record in zip(batch.rows, records, strict=True)
    ]
    assert sum(map(bool, await store.settle("alice", kept))) == 2_000
    before = await _rows_read(store), await _rows_read(store, "history")
    await ask()
    after = await _rows_read(store), await _rows_read(store, "history")
    assert after[0] - before[0] < 100
    assert after[1] - before[1] < 100 + 10 * EXAMINED


async def test_pruning_reads_what_ended_and_expired_since_and_not_all_of_history(store: PostgresStore) -> None:
    """With plans that were made when the table was empty."""
    await _vacuum(store)
    assert await store.prune() == 0  # also examines the whole history, once
    async with store._pool.connection("preparing") as connection:
        await connection.execute(
            """
            INSERT INTO scheduledjob.history (installation, run_id, uid, slug, slot, started, finished, attempt,
                outcome, reason, replica, output, keep, expires, manual)
            SELECT $1, 'run-' || n, 'uid', 'old-' || n / 5, 0, 0, n, 1, 'Succeeded', '', '', '', 3,
                CASE WHEN n % 1000 = 0 THEN 1 ELSE scheduledjob.clock() + 3600000000 END, false
            FROM generate_series(0, 19999) AS n
            """,
            store._installation,
        )
    store.history_grew.add(["old-7", "old-8"])
    before = await _rows_read(store, "history")
    assert await store.prune() == 20 + 2 * 2  # 20 have expired, and of two slugs two are pushed out
    assert await store.prune() == 0
    assert await _rows_read(store, "history") - before < 200


async def _vacuum(store: PostgresStore) -> None:
    """Have the server learn that the table is empty."""
    async with store._pool.connection("vacuuming") as connection:
        await connection.execute("VACUUM ANALYZE scheduledjob.schedule, scheduledjob.history")


async def _rows_read(store: PostgresStore, table: str = "schedule") -> int:
    """Return how many rows of a table this store's statements have read, with and without an index."""
    async with store._pool.connection("counting") as connection:
        await connection.execute("SELECT pg_stat_force_next_flush()")
        count: int = await connection.fetchval(
            "SELECT seq_tup_read + (SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes WHERE relid = t.relid) "
            "FROM pg_stat_user_tables AS t WHERE relname = $1",
            table,
        )
    return count


def cluster_objects(numbers: range, generation: int = 1) -> list[NewRow]:
    return [
        NewRow(
            slug=f"job-{n:06}",
            uid=f"uid-{n}",
            kind="noop",
            origin=Origin.CLUSTER,
            definition="",
            state=STATE,
            wake_at=None,
            generation=generation,
        )
        for n in numbers
    ]


async def test_reconciling_queries_use_indexes(store: PostgresStore) -> None:
    """With plans that were made when the tables were empty."""

    few = range(1, 60, 6)

    async def ask() -> None:
        await store.reconcile(cluster_objects(few, 2))
        await store.reconcile(cluster_objects(few, 2))
        await store.touch([f"job-{n:06}" for n in few])
        await store.tombstone([(f"job-{n:06}", "uid-of-another") for n in few])
        await store.tombstone([(f"job-{n:06}", f"uid-{n}") for n in few])
        await store.reconcile(cluster_objects(few, 3))
        await store.history("job-000001", uid="uid-1")
        await store.prune(limit=10)

    await _vacuum(store)
    await ask()
    async with store._pool.connection("preparing") as connection:
        await connection.execute("DELETE FROM scheduledjob.tombstone")
    await store.reconcile(cluster_objects(range(3_000)))
    await store.tombstone([(f"other-{n}", f"uid-of-other-{n}") for n in range(3_000)])
    before = await _rows_read(store), await _rows_read(store, "tombstone")
    await ask()
    after = await _rows_read(store), await _rows_read(store, "tombstone")
    assert after[0] - before[0] < 250
    assert after[1] - before[1] < 250


async def test_a_restart_of_the_operator_waits_for_no_lock(store: PostgresStore) -> None:
    objects = cluster_objects(range(2_000))
    await store.reconcile(objects)
    async with store._pool.connection("blocking") as connection:
        blocker = connection.transaction()
        await blocker.start()
        await connection.fetch("SELECT id FROM scheduledjob.schedule FOR UPDATE")
        answers = await store.reconcile(objects)
        await blocker.rollback()
    assert set(answers) == {Put.UNCHANGED}


async def test_expired_tombstones_and_presences_are_deleted(store: PostgresStore, postgres_dsn: str) -> None:
    await store.tombstone([("a", "uid-a"), ("b", "uid-b")])
    for replica in ("alice", "bob"):
        await store.present(replica, "cluster", [], SECOND)
    async with store._pool.connection("preparing") as connection:
        await connection.execute("UPDATE scheduledjob.tombstone SET expires = 5 WHERE uid = 'uid-a'")
        await connection.execute("UPDATE scheduledjob.presence SET until_at = 5 WHERE replica = 'alice'")
    await store.prune()
    again = PostgresStore(postgres_dsn)
    await again.connect()
    await again.close()
    async with store._pool.connection("reading") as connection:
        assert [line[0] for line in await connection.fetch("SELECT uid FROM scheduledjob.tombstone")] == ["uid-b"]
        assert [line[0] for line in await connection.fetch("SELECT replica FROM scheduledjob.presence")] == ["bob"]
