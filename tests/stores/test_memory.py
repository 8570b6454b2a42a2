"""What only the memory store promises: threads, the wall clock, bounded memory."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduledjob.domain.schedule.state import Outcome
from scheduledjob.domain.time.instants import SECOND, Instant
from scheduledjob.engine.store import TOMBSTONE_KEPT, Put, ReplicaInfo, Wake
from scheduledjob.engine.stored_row import Disposition, NewRow
from scheduledjob.stores import open_store
from scheduledjob.stores.memory import MemoryDatabase, MemoryStore, WallClock
from scheduledjob.stores.memory.clock import STEP
from scheduledjob.stores.memory.history import SLACK, History
from scheduledjob.stores.memory.schedules import ROWS_AT_ONCE

from .support import PATIENCE, claim, desired, listening, put_due, read_row, record, settle, settlement, take, take_one

NOW: Instant = 1_800_000_000 * SECOND


class Turned:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> Instant:
        return self.now


# ---- large writes


async def test_a_large_write_lets_the_event_loop_go_on() -> None:
    store, parts = MemoryStore(MemoryDatabase(clock=lambda: NOW)), 4
    rows = [desired(f"s-{number}") for number in range(parts * ROWS_AT_ONCE)]
    writing = asyncio.create_task(store.put(rows, replace=False))
    written: list[int] = []
    while not writing.done():
        await asyncio.sleep(0)
        written.append(sum(row is not None for row in await store.get([row.slug for row in rows])))
    assert await writing == [Put.CREATED] * len(rows)
    assert set(written) >= {number * ROWS_AT_ONCE for number in range(1, parts + 1)}


# ---- opening


async def test_each_memory_url_is_a_separate_store() -> None:
    first, second = open_store("memory:"), open_store("memory://")
    await put_due(first, "job")
    assert await second.rows() == []


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("", "has no scheme: give one of memory:, postgresql://"),
        ("/var/lib/jobs", "has no scheme"),
        ("memory", "has no scheme"),
        ("mysql://user:secret@host/db", "'mysql' names no store: give one of memory:, postgresql://.*firestore://"),
        ("memory:jobs", "'memory:jobs' has a path, .* write memory:"),
        ("firestore://project", "write firestore://project/collection"),
        ("firestore://project/collection/document", "write firestore://project/collection"),
        ("firestore:///collection", "write firestore://project/collection"),
    ],
)
def test_the_error_for_a_url_that_names_no_store_says_what_to_write(url: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as raised:
        open_store(url)
    assert "secret" not in str(raised.value)


def test_memory_loads_no_client_library() -> None:
    script = (
        "import sys; from scheduledjob.stores import open_store; open_store('memory:');"
        "print([name for name in ('asyncpg', 'grpc', 'google.cloud.firestore') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


# ---- the clock


class TwoClocks:
    """The wall clock of a machine and its steady clock, both in nanoseconds."""

    def __init__(self) -> None:
        self.passed = 0
        self.set_by = 0
        self.clock = WallClock(lambda: NOW * 1000 + self.passed + self.set_by, lambda: self.passed)


@pytest.mark.parametrize("seconds", [3600, -3600, 1, -1])
async def test_the_clock_follows_the_wall_clock_both_ways_and_leases_do_not(seconds: int) -> None:
    machine = TwoClocks()
    store = MemoryStore(MemoryDatabase(machine.clock))
    await store.put([desired("job", NOW)], replace=False)
    await take_one(store, lease=10 * SECOND)
    assert await store.lock("work", "alice", 10 * SECOND)
    machine.passed = 4 * SECOND * 1000
    machine.set_by = seconds * SECOND * 1000
    assert await store.now() == NOW + (4 + seconds) * SECOND
    machine.passed = 9 * SECOND * 1000
    assert (await claim(store, "bob")).rows == []
    assert not await store.lock("work", "bob", SECOND)
    machine.passed = 10 * SECOND * 1000
    assert [row.recovered for row in (await claim(store, "bob")).rows] == [True]
    assert await store.lock("work", "bob", SECOND)


async def test_every_listener_polls_after_the_wall_clock_has_jumped() -> None:
    machine = TwoClocks()
    store = MemoryStore(MemoryDatabase(machine.clock))
    wakes: asyncio.Queue[Wake] = asyncio.Queue()
    async with store.listen(wakes.put_nowait):
        machine.set_by = 60 * SECOND * 1000
        await store.now()
        assert (await wakes.get()).notifications_lost


@given(st.lists(st.tuples(st.integers(0, 10**10), st.integers(-STEP + 1, STEP - 1)), max_size=30))
def test_small_corrections_of_the_wall_clock_are_no_jump(moments: list[tuple[int, int]]) -> None:
    machine = TwoClocks()
    for passed, correction in moments:
        machine.passed += passed
        machine.set_by = correction * 1000
        assert abs(machine.clock() - (NOW + machine.passed // 1000)) <= STEP
        assert machine.clock.take_jump() == 0


def test_a_thread_that_was_suspended_between_two_readings_has_seen_no_jump() -> None:
    machine = TwoClocks()
    pauses = iter([10**9])

    def wall() -> int:
        machine.passed += next(pauses, 0)  # once, between the readings of the two clocks
        return NOW * 1000 + machine.passed

    clock = WallClock(lambda: NOW * 1000 + machine.passed, lambda: machine.passed)
    clock._wall = wall
    assert clock() == NOW + SECOND
    assert clock.take_jump() == 0


def test_a_clock_that_is_right_is_read_once() -> None:
    readings: list[int] = []

    def wall() -> int:
        readings.append(NOW * 1000 + (STEP * 1000 - 1) * len(readings))
        return readings[-1]

    clock = WallClock(wall, lambda: 0)
    assert clock() == NOW
    assert len(readings) == 2, "at the start and by the call"


async def test_times_are_those_of_the_given_clock() -> None:
    clock = Turned()
    store = MemoryStore(MemoryDatabase(clock))
    await store.put([desired("job", NOW + 1)], replace=False)
    assert (await claim(store)).rows == []
    clock.now += 1
    row = await take_one(store, lease=7)
    assert row.wake_at == NOW + 8
    clock.now += 6
    assert (await claim(store, "bob")).rows == []
    clock.now += 1
    (taken,) = (await claim(store, "bob")).rows
    assert taken.recovered


async def test_a_claim_takes_rows_until_the_very_microsecond() -> None:
    clock = Turned()
    store = MemoryStore(MemoryDatabase(clock))
    await put_due(store, "job")
    clock.now = NOW + 1
    assert (await claim(store, by=NOW)).late
    clock.now = NOW
    batch = await claim(store, by=NOW)
    assert (len(batch.rows), batch.late) == (1, False)


async def test_a_lease_counts_as_ahead_later_than_it_ends() -> None:
    store = MemoryStore(MemoryDatabase(Turned()))
    await put_due(store, "job")
    await take_one(store, lease=10)
    assert (await claim(store, "bob", ahead=100)).next_wake == NOW + 10 + 100


async def test_a_full_batch_has_no_next_wake() -> None:
    store = MemoryStore(MemoryDatabase(Turned()))
    await put_due(store, "a", "b")
    assert (await claim(store, limit=1)).next_wake is None


# ---- threads


async def test_threads_share_a_store_and_each_row_is_claimed_once() -> None:
    database = MemoryDatabase()
    stores = [MemoryStore(database) for _ in range(4)]
    await put_due(stores[0], *(f"job-{n}" for n in range(2000)))
    claimed: list[str] = []

    async def run(store: MemoryStore, replica: str) -> None:
        async with store.renewer(replica) as renewer:
            while rows := (await claim(store, replica, limit=7)).rows:
                held = [(row.key, row.version) for row in rows]
                assert set((await renewer.renew(held, SECOND * 60)).revisions) == {row.key for row in rows}
                assert all(await store.settle(replica, [settlement(row, Disposition.REMOVE) for row in rows]))
                claimed.extend(row.slug for row in rows)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        await asyncio.gather(
            *(asyncio.to_thread(asyncio.run, run(store, f"replica-{n}")) for n, store in enumerate(stores))
        )
    finally:
        sys.setswitchinterval(interval)
    assert sorted(claimed) == sorted(f"job-{n}" for n in range(2000))
    assert await stores[0].rows() == []


async def test_a_listener_is_called_in_its_own_thread() -> None:
    store = MemoryStore()
    await store.announce(ReplicaInfo("alice", "", 1), await store.now() + 60 * SECOND)
    ready, called = threading.Event(), threading.Event()
    threads: list[int] = []

    async def listen() -> None:
        received = asyncio.Event()

        def hear(wake: Wake) -> None:
            threads.append(threading.get_ident())
            received.set()

        async with store.listen(hear):
            ready.set()
            await asyncio.wait_for(received.wait(), PATIENCE)
        threads.append(threading.get_ident())
        called.set()

    listener = asyncio.create_task(asyncio.to_thread(asyncio.run, listen()))
    await asyncio.to_thread(ready.wait, PATIENCE)
    await put_due(store, "job")
    await listener
    assert called.is_set()
    assert threads[0] == threads[1] != threading.get_ident()


async def test_notifications_are_merged() -> None:
    store = MemoryStore(MemoryDatabase(Turned()))
    await store.announce(ReplicaInfo("alice", "", 1), NOW + 60 * SECOND)
    async with listening(store) as received:
        for n in range(9, 0, -1):
            await store.put([desired(f"job-{n}", NOW + n)], replace=False)
        await store.delete(["job-3"])
        assert await received.change_of("job-3") == Wake(due=NOW + 1, changed=["job-3"])
        assert len(received.wakes) == 1


async def test_a_listener_whose_loop_is_closed_is_skipped() -> None:
    store = MemoryStore()
    contexts = []

    async def forget_to_stop() -> None:
        context = store.listen(lambda wake: None)
        await context.__aenter__()
        contexts.append(context)  # keep it, so that the garbage collector does not close it

    await asyncio.to_thread(asyncio.run, forget_to_stop())
    await put_due(store, "job")
    assert await store.delete(["job"]) == [True]


# ---- memory


async def test_history_is_bounded_while_it_is_written() -> None:
    clock = Turned()
    store = MemoryStore(MemoryDatabase(clock))
    await put_due(store, "job")
    row = await take_one(store)
    for n in range(1000):
        clock.now += SECOND
        ended = record(f"run-{n}", clock.now, keep=3, expires=clock.now + 10**12)
        assert await settle(store, settlement(row, Disposition.KEEP, version=row.version + n, records=[ended]))
    kept = await store.history(limit=1000)
    assert [record.run_id for record in kept[:3]] == ["run-999", "run-998", "run-997"]
    assert len(kept) <= 10
    tables = store._tables
    assert len(tables.history._by_age) + len(tables.history._expiries) < 300


def test_records_that_newer_ones_push_out_are_dropped_in_groups() -> None:
    history, sizes = History(), []
    for n in range(30):
        history.add([record(f"run-{n}", NOW + n, keep=3)])
        sizes.append(len(history))
    assert max(sizes) == 2 * 3 + SLACK
    assert min(sizes[3:]) == 3


def test_the_history_of_a_busy_namespace_pushes_out_its_own_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduledjob.stores.memory.history.MAX_BYTES", 100_000)
    history = History()
    history.add([record("lone", NOW, slug="quiet/job")])
    history.add(record(f"run-{n}", NOW + n, slug=f"busy/{n}") for n in range(1, 2000))
    assert [found.run_id for found in history.newest("quiet/job", None, None, 3)] == ["lone"]
    assert [found.run_id for found in history.newest(None, None, None, 1)] == ["run-1999"]
    assert len(history) < 170


def test_the_newest_records_of_a_long_history_are_found_without_sorting_it() -> None:
    compared = 0

    class Counted(int):
        def __lt__(self, other: int) -> bool:
            nonlocal compared
            compared += 1
            return int(self) < int(other)

    history = History()
    for n in range(2000):
        outcome = Outcome.SUCCEEDED if n % 2 else Outcome.FAILED
        history.add([record(f"run-{n}", Counted(NOW + n), outcome=outcome, keep=1000)])
    compared = 0
    assert [found.run_id for found in history.newest("job", None, None, 3)] == ["run-1999", "run-1998", "run-1997"]
    assert [found.run_id for found in history.newest("job", None, NOW + 3, 9)] == ["run-2", "run-1", "run-0"]
    assert compared < 100


async def test_old_places_in_an_agenda_do_not_pile_up() -> None:
    clock = Turned()
    store = MemoryStore(MemoryDatabase(clock))
    await put_due(store, *(f"job-{n}" for n in range(10)))
    rows = await take(store, 10)
    held = [(row.key, row.version) for row in rows]
    async with store.renewer("alice") as renewer:
        for _ in range(500):
            clock.now += SECOND
            await renewer.renew(held, 3600 * SECOND)
    for turn in range(500):
        await store.put([desired("edited", clock.now, payload=b"%d" % turn)], replace=True)
        (row,) = (await claim(store)).rows
        assert await settle(store, settlement(row, wake_at=NOW + 10**12 + turn))
    places = [len(heap.places) for agenda in store._tables.agendas_of(["print"]) for heap in agenda._tenants.values()]
    assert sum(places) < 400
    clock.now += 3600 * SECOND
    assert len((await claim(store, "bob")).rows) == 10


async def test_equal_definitions_are_stored_once() -> None:
    store = MemoryStore()
    texts = ["".join(['{"kind":', '"print"}']) for _ in range(2)]
    assert texts[0] is not texts[1]
    rows: list[NewRow] = [desired(f"job-{n}", definition=text) for n, text in enumerate(texts)]
    assert await store.put(rows, replace=False) == [Put.CREATED] * 2
    assert (await read_row(store, "job-0")).definition is (await read_row(store, "job-1")).definition


async def test_the_first_pruning_after_a_tombstone_has_expired_drops_it() -> None:
    clock = Turned()
    store = MemoryStore(MemoryDatabase(clock))
    await store.tombstone([("a", "uid-a"), ("b", "uid-b")])
    clock.now += TOMBSTONE_KEPT - 1
    await store.tombstone([("c", "uid-c")])
    await store.prune()
    assert set(store._tables._tombstoned) == {"uid-a", "uid-b", "uid-c"}
    clock.now += 1
    await store.prune(limit=1)
    assert len(store._tables._tombstoned) == 2
    await store.prune()
    assert set(store._tables._tombstoned) == {"uid-c"}
