"""The settler: it writes in batches, and finds out what happened to a write without a reply."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import pytest

from scheduledjob.domain.schedule.state import Outcome, RunRecord
from scheduledjob.domain.time.instants import HOUR
from scheduledjob.engine import settler as settler_module
from scheduledjob.engine.settler import BATCH_BYTES, LARGE, Settler, size_of
from scheduledjob.engine.store import StoreError, StoreUnavailable
from scheduledjob.engine.stored_row import Disposition, Row, Settlement
from scheduledjob.stores.memory import MemoryDatabase, MemoryStore

from .support import PATIENCE, Jobs, Watcher, put, replica_of, row_of, running

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Forgetful(MemoryStore):
    """Loses the reply to some writes: before they are carried out, or after."""

    def __init__(self, database: MemoryDatabase | None = None, *, before: int = 0, after: int = 0) -> None:
        super().__init__(database)
        self.before = before
        self.after = after
        self.batches: list[int] = []

    async def settle(self, replica: str, settlements: Sequence[Settlement]) -> list[bool]:
        self.batches.append(len(settlements))
        await asyncio.sleep(0)
        if self.before > 0:
            self.before -= 1
            raise StoreUnavailable("it was never sent")
        answer = await super().settle(replica, settlements)
        if self.after > 0:
            self.after -= 1
            raise StoreUnavailable("the reply was lost")
        return answer


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settler_module, "WRITE_RETRY_DELAY", 0.01)


def settlement(row: Row, disposition: Disposition = Disposition.RELEASE, *, records: bool = True) -> Settlement:
    ended = RunRecord(f"{row.uid}-1", row.uid, row.slug, 1, 1, 2, 1, Outcome.SUCCEEDED, expires=2**60, keep=9)
    return Settlement(
        row.key, row.version, disposition, row.state, None, row.revision, [ended] if records else [], slug=row.slug
    )


async def settled(store: MemoryStore, writes: Sequence[Settlement]) -> list[bool]:
    """Submit writes, and return which of them were carried out."""
    carried_out: dict[int, bool] = {}

    def on_settled(number: int, _: Settlement, done: bool) -> None:
        assert number not in carried_out
        carried_out[number] = done

    settler: Settler[int] = Settler(store, "me", on_settled)
    for number, write in enumerate(writes):
        settler.submit(number, write)
    settler.close()
    async with asyncio.timeout(PATIENCE):
        await settler.run()
    return [carried_out[number] for number in range(len(writes))]


async def claimed(store: MemoryStore, count: int = 1) -> list[Row]:
    await put(store, *[f"ns/job-{n:04}" for n in range(count)])
    return (await store.claim("me", ["job"], limit=count, ahead=0, lease=HOUR)).rows


@pytest.mark.parametrize("disposition", [Disposition.RELEASE, Disposition.REMOVE])
@pytest.mark.parametrize("faults", [{"before": 2}, {"after": 1}, {"before": 1, "after": 1}, {"after": 3}])
async def test_a_lost_reply_counts_once(disposition: Disposition, faults: dict[str, int]) -> None:
    store = Forgetful(before=faults.get("before", 0), after=faults.get("after", 0))
    (row,) = await claimed(store)
    assert await settled(store, [settlement(row, disposition)]) == [True]
    assert [record.run_id for record in await store.history()] == [f"{row.uid}-1"]


async def test_a_write_to_a_row_of_another_replica_is_refused() -> None:
    store = Forgetful(before=1)
    (row,) = await claimed(store)
    await store.delete([row.slug])
    assert await settled(store, [settlement(row)]) == [False]
    assert Outcome.SUCCEEDED not in [record.outcome for record in await store.history()]


@pytest.mark.parametrize("records", [False, True])
async def test_a_repeated_write_that_keeps_its_row_counts_as_carried_out(records: bool) -> None:
    store = Forgetful(after=1)
    (row,) = await claimed(store)
    assert await settled(store, [settlement(row, Disposition.KEEP, records=records)]) == [True]
    kept = await row_of(store, row.slug)
    assert (kept.owner, kept.version) == ("me", row.version + 1)


async def test_a_row_claimed_by_another_replica_after_a_lost_reply_is_lost() -> None:
    store = Forgetful(after=1)
    await put(store, "ns/job")
    (row,) = (await store.claim("me", ["job"], limit=1, ahead=0, lease=0)).rows

    class Taken(Forgetful):
        async def settle(self, replica: str, settlements: Sequence[Settlement]) -> list[bool]:
            try:
                return await super().settle(replica, settlements)
            except StoreUnavailable:
                await self.claim("me", ["job"], limit=1, ahead=0, lease=HOUR)
                raise

    taken = Taken(store._database, after=1)
    assert await settled(taken, [settlement(row, Disposition.KEEP)]) == [False]


async def test_a_row_claimed_by_another_replica_before_the_write_is_lost() -> None:
    """The row has the version that the write would have given it, but another state."""
    store = Forgetful(after=0)
    await put(store, "ns/job")
    (row,) = (await store.claim("me", ["job"], limit=1, ahead=0, lease=0)).rows

    class Reclaimed(Forgetful):
        async def settle(self, replica: str, settlements: Sequence[Settlement]) -> list[bool]:
            if self.before:
                await self.claim("me", ["job"], limit=1, ahead=0, lease=HOUR)
            return await super().settle(replica, settlements)

    write = settlement(row, Disposition.KEEP)
    write.state = write.state + b" "
    assert await settled(Reclaimed(store._database, before=1), [write]) == [False]


async def test_a_repeated_release_without_records_counts_as_carried_out_while_nobody_has_claimed_the_row() -> None:
    store = Forgetful(after=1)
    (row,) = await claimed(store)
    assert await settled(store, [settlement(row, Disposition.RELEASE, records=False)]) == [True]

    class Reclaimed(Forgetful):
        async def settle(self, replica: str, settlements: Sequence[Settlement]) -> list[bool]:
            if self.before:
                await self.claim("other", ["job"], limit=1, ahead=0, lease=HOUR)
            return await super().settle(replica, settlements)

    await put(store, "ns/other")
    (row,) = (await store.claim("me", ["job"], limit=1, ahead=0, lease=0)).rows
    claimed_by_other = Reclaimed(store._database, before=1)
    assert await settled(claimed_by_other, [settlement(row, Disposition.RELEASE, records=False)]) == [False]


async def test_a_repeated_write_counts_as_carried_out_only_if_history_has_all_its_records() -> None:
    store = Forgetful()
    (row,) = await claimed(store)
    first = settlement(row)
    assert await settled(store, [first]) == [True]
    more = settlement(row)
    more.records = [*more.records, RunRecord(f"{row.uid}-2", row.uid, row.slug, 2, 2, 3, 1, Outcome.SUCCEEDED, keep=9)]
    assert await settled(Forgetful(store._database, before=1), [more]) == [False]
    assert await settled(Forgetful(store._database, before=1), [first]) == [True]


async def test_many_writes_share_few_round_trips() -> None:
    store = Forgetful()
    rows = await claimed(store, 2500)
    assert await settled(store, [settlement(row) for row in rows]) == [True] * 2500
    assert sorted(store.batches) == [500, 1000, 1000]


async def test_a_replica_reports_a_run_once_even_if_replies_are_lost() -> None:
    store, watcher, jobs = Forgetful(after=3), Watcher(), Jobs()
    await put(store, "ns/a", "ns/b", "ns/c")
    async with running(replica_of(store, jobs, observer=watcher)):
        await watcher.until_recorded(3)
    assert sorted(record.slug for record in watcher.records) == ["ns/a", "ns/b", "ns/c"]
    assert len(await store.history()) == 3
    assert jobs.begun.qsize() == 3
    assert not any(what == "fenced" for what, _ in watcher.events)
    assert (await row_of(store, "ns/a")).owner is None


# ---------------------------------------------------------------- large writes, and writes that can't be carried out


class Choosy(MemoryStore):
    """Does not answer a write with certain rows in it, and records the others."""

    def __init__(self, *bad: str, locked: str = "") -> None:
        super().__init__()
        self.bad = set(bad)
        self.locked = locked
        self.away = False
        self.batches: list[list[str]] = []
        self.bytes: list[int] = []
        self.on_batch: Callable[[list[str]], None] = lambda slugs: None
        self.error: StoreError = StoreUnavailable("no answer in time")

    async def settle(self, replica: str, settlements: Sequence[Settlement]) -> list[bool]:
        slugs = [settlement.slug for settlement in settlements]
        self.batches.append(slugs)
        self.bytes.append(sum(map(size_of, settlements)))
        await asyncio.sleep(0)
        self.on_batch(slugs)
        if self.away or not self.bad.isdisjoint(slugs):
            raise self.error
        answers = iter(await super().settle(replica, [end for end in settlements if end.slug != self.locked]))
        found = [None if slug == self.locked else next(answers) for slug in slugs]
        return cast("list[bool]", found)  # a store in memory has no locks, but others do

    async def get(self, slugs: Sequence[str]) -> list[Row | None]:
        if self.away:
            raise self.error
        return await super().get(slugs)


async def test_batches_are_bounded_in_bytes() -> None:
    store = Choosy()
    rows = await claimed(store, 100)
    ends = [settlement(row) for row in rows]
    for end in ends:
        end.result = bytes(LARGE - 1000)
    assert all(await settled(store, ends))
    assert max(store.bytes) <= BATCH_BYTES
    assert len(store.batches) < 20


@pytest.mark.parametrize("error", [StoreUnavailable("no answer in time"), StoreError("it violates a constraint")])
async def test_a_write_that_fails_ends_up_alone_and_in_nobodys_way(error: StoreError) -> None:
    store = Choosy("ns/job-0007", "ns/job-0042")
    store.error = error
    rows = await claimed(store, 100)

    def heal(slugs: list[str]) -> None:
        recorded = len(store._tables.history)
        if recorded == 98 and [slugs] in ([["ns/job-0007"]], [["ns/job-0042"]]):
            store.bad.clear()

    store.on_batch = heal
    assert all(await settled(store, [settlement(row) for row in rows]))
    alone = [batch for batch in store.batches if len(batch) == 1]
    assert {slug for batch in alone for slug in batch} >= {"ns/job-0007", "ns/job-0042"}


async def test_a_store_that_refuses_everything_ends_the_settler() -> None:
    """Its schema or its permissions are wrong, and the error says so."""
    store = Choosy()
    rows = await claimed(store)
    store.error, store.away = StoreError("run scheduledjob migrate"), True
    with pytest.raises(ExceptionGroup) as raised:
        await settled(store, [settlement(row) for row in rows])
    assert raised.group_contains(StoreError, match="run scheduledjob migrate")


async def test_a_write_of_a_locked_row_is_repeated_by_itself() -> None:
    store = Choosy(locked="ns/job-0003")
    rows = await claimed(store, 10)

    def unlock(slugs: list[str]) -> None:
        if slugs == ["ns/job-0003"]:
            store.locked = ""

    store.on_batch = unlock
    assert all(await settled(store, [settlement(row) for row in rows]))
    assert store.batches == [[row.slug for row in rows], ["ns/job-0003"]]


async def test_after_an_outage_writes_are_still_batched() -> None:
    store = Choosy()
    rows = await claimed(store, 600)
    store.away = True
    tried = asyncio.Event()
    store.on_batch = lambda slugs: tried.set()
    done: list[bool] = []
    settler: Settler[int] = Settler(store, "me", lambda number, end, carried_out: done.append(carried_out))

    async def submit() -> None:
        for number, row in enumerate(rows):
            settler.submit(number, settlement(row))
            if number % 100 == 99:
                await tried.wait()
                tried.clear()
        store.away = False
        store.batches.clear()
        settler.close()

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        tasks.create_task(settler.run())
        tasks.create_task(submit())
    assert done == [True] * 600
    assert len(store.batches) <= 4
