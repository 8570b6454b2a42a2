"""Every store: what clients write, change, read and delete, all or none."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from scheduledjob.domain.schedule.definition import Definition, Keep
from scheduledjob.domain.schedule.state import Outcome, Run, State, run_id
from scheduledjob.domain.time.instants import DAY, HOUR, SECOND
from scheduledjob.engine.store import Put, SlugTaken
from scheduledjob.engine.stored_row import Disposition, Origin

from .support import (
    claim,
    desired,
    everything,
    is_gone,
    put_due,
    read_row,
    record,
    renew,
    settle,
    settlement,
    take,
    take_one,
)

if TYPE_CHECKING:
    from scheduledjob.engine.store import Store
    from scheduledjob.engine.stored_row import NewRow, Row

    from .conftest import StoreFactory


async def test_a_row_is_read_as_it_was_written(store: Store, other: Store) -> None:
    now = await store.now()
    new = desired(
        "team-a/nightly",
        now + 3 * DAY + 1,
        kind="shell",
        origin=Origin.MANIFEST,
        definition='{"kind":"shell","job":{"command":"echo \\"ä\\u0000\\" \'$1\' %s; --"}}',
        state=State(decided_until=now, next=Run(slot=now + 1, due=now + 2)).encode(),
        first=now + 12_345_678,
        payload=bytes(range(256)),
        created_at=now - 1,
    )
    assert await store.put([new], replace=False) == [Put.CREATED]
    after = await store.now()

    row = await read_row(other, new.slug)
    assert (row.slug, row.uid, row.kind, row.origin) == (new.slug, new.uid, "shell", Origin.MANIFEST)
    assert (row.definition, row.state, row.payload) == (new.definition, new.state, new.payload)
    assert (row.wake_at, row.first, row.created_at) == (new.wake_at, new.first, new.created_at)
    assert (row.revision, row.owner, row.result, row.recovered) == (1, None, None, False)
    assert now - SECOND <= row.edited_at <= after + SECOND


async def test_no_payload_is_not_an_empty_payload(store: Store) -> None:
    await store.put([desired("none"), desired("empty", payload=b"")], replace=False)
    assert (await read_row(store, "none")).payload is None
    assert (await read_row(store, "empty")).payload == b""


async def test_a_large_payload_of_any_bytes(store: Store) -> None:
    payload = bytes(range(256)) * 256
    await store.put([desired("job", payload=payload)], replace=False)
    assert (await read_row(store, "job")).payload == payload


async def test_a_slug_that_is_taken_is_named_and_nothing_is_written(store: Store, other: Store) -> None:
    await put_due(store, "b", "d")
    before = await everything(store)
    with pytest.raises(SlugTaken, match=r"'b', 'd'.*replace=True") as raised:
        await other.put([desired(slug, payload=b"new") for slug in "abcde"], replace=False)
    assert raised.value.slugs == ("b", "d")
    assert await everything(store) == before


@pytest.mark.parametrize("replace", [False, True])
async def test_a_slug_given_twice_is_an_error(store: Store, replace: bool) -> None:
    with pytest.raises(ValueError, match="twin"):
        await store.put([desired("a"), desired("twin"), desired("twin", payload=b"other")], replace=replace)
    assert await store.rows() == []


async def test_an_empty_call_does_nothing(store: Store) -> None:
    assert await store.put([], replace=False) == []
    assert await store.put([], replace=True) == []
    assert await store.get([]) == []
    assert await store.delete([]) == []
    assert await store.clear() == 0


async def test_replace_returns_a_result_for_each_row(store: Store) -> None:
    first = [
        desired(slug, definition="{}", payload=b"p") for slug in ("same", "payload", "kind", "definition", "first")
    ]
    await store.put(first, replace=False)
    now = await store.now()
    answers = await store.put(
        [
            desired("new"),
            desired("same", definition="{}", payload=b"p"),
            desired("payload", definition="{}", payload=b"q"),
            desired("kind", definition="{}", payload=b"p", kind="other"),
            desired("definition", definition="{ }", payload=b"p"),
            desired("first", definition="{}", payload=b"p", first=now),
        ],
        replace=True,
    )
    assert answers == [Put.CREATED, Put.UNCHANGED, Put.UPDATED, Put.UPDATED, Put.UPDATED, Put.UPDATED]
    revisions = {row.slug: row.revision for row in await store.rows()}
    assert revisions == {"new": 1, "same": 1, "payload": 2, "kind": 2, "definition": 2, "first": 2}


async def test_an_unchanged_desired_state_changes_nothing(store: Store) -> None:
    now = await store.now()
    await store.put([desired("job", now + HOUR, payload=b"p")], replace=False)
    before = await everything(store)
    again = desired("job", now, payload=b"p", state=State(decided_until=9).encode(), created_at=now)
    assert await store.put([again], replace=True) == [Put.UNCHANGED]
    assert await everything(store) == before


async def test_an_edit_keeps_the_state_and_makes_the_row_due_at_once(store: Store) -> None:
    now = await store.now()
    state = State(decided_until=now, succeeded=3).encode()
    await store.put([desired("job", now + HOUR, state=state, created_at=now)], replace=False)
    before = await read_row(store, "job")
    edit = desired("job", now + DAY, definition="{}", payload=b"new", first=now + 7, created_at=now + 1)
    assert await store.put([edit], replace=True) == [Put.UPDATED]

    seen = await read_row(store, "job")
    assert seen.key == before.key
    assert (seen.state, seen.created_at, seen.uid) == (state, now, before.uid)
    assert (seen.definition, seen.payload, seen.first, seen.revision) == ("{}", b"new", now + 7, 2)
    assert seen.edited_at >= before.edited_at
    assert seen.wake_at is not None
    assert seen.wake_at <= await store.now()
    assert (await take_one(store)).slug == "job"


async def test_an_edit_makes_a_row_without_wake_due(store: Store) -> None:
    await store.put([desired("job", None)], replace=False)
    await store.put([desired("job", None, payload=b"new")], replace=True)
    assert (await take_one(store)).payload == b"new"


async def test_every_edit_raises_the_revision(store: Store) -> None:
    await store.put([desired("job")], replace=False)
    for revision in range(2, 6):
        await store.put([desired("job", payload=b"%d" % revision)], replace=True)
        assert (await read_row(store, "job")).revision == revision


async def test_of_concurrent_puts_of_one_slug_exactly_one_wins(store_factory: StoreFactory) -> None:
    stores = await store_factory.several(8)

    async def put(number: int) -> Put | SlugTaken:
        try:
            (answer,) = await stores[number].put([desired("job", payload=b"%d" % number)], replace=False)
        except SlugTaken as taken:
            return taken
        return answer

    answers = await asyncio.gather(*map(put, range(8)))
    winners = [number for number, answer in enumerate(answers) if answer is Put.CREATED]
    assert len(winners) == 1
    assert all(isinstance(answer, SlugTaken) for number, answer in enumerate(answers) if number not in winners)
    assert (await read_row(stores[0], "job")).payload == b"%d" % winners[0]


async def test_concurrent_replacements_all_count(store_factory: StoreFactory) -> None:
    stores = await store_factory.several(6)
    rows = [[desired("job", payload=b"%d" % number)] for number in range(6)]
    answers = await asyncio.gather(*(store.put(new, replace=True) for store, new in zip(stores, rows, strict=True)))
    assert sorted(answer.value for (answer,) in answers) == ["created"] + ["updated"] * 5
    assert (await read_row(stores[0], "job")).revision == 6


async def test_concurrent_batches_do_not_block_each_other(store_factory: StoreFactory) -> None:
    stores = await store_factory.several(4)
    slugs = [f"job-{n:03}" for n in range(150)]

    async def put(number: int) -> None:
        for turn in range(3):
            rows = [desired(slug, payload=b"%d-%d" % (number, turn)) for slug in slugs]
            await stores[number].put(rows if number % 2 else rows[::-1], replace=True)

    await asyncio.gather(*map(put, range(4)))
    assert {row.revision for row in await stores[0].rows()} == {12}


async def test_get_returns_rows_in_the_order_of_the_slugs(store: Store) -> None:
    await put_due(store, "a", "b", "c")
    answer = await store.get(["c", "missing", "a"])
    assert [row and row.slug for row in answer] == ["c", None, "a"]


async def test_rows_come_in_pages(store: Store) -> None:
    slugs = sorted(f"job-{n}" for n in range(25))
    await put_due(store, *reversed(slugs))
    pages = []
    after = ""
    while page := await store.rows(after=after, limit=10):
        pages.append([row.slug for row in page])
        after = page[-1].slug
    assert pages == [slugs[:10], slugs[10:20], slugs[20:]]
    assert [row.slug for row in await store.rows()] == slugs
    assert await store.rows(after="zzz") == []
    await put_due(store, "job-00")
    assert [row.slug for row in await store.rows(limit=2)] == ["job-0", "job-00"]
    await store.delete(["job-1"])
    assert [row.slug for row in await store.rows(limit=3)] == ["job-0", "job-00", "job-10"]


async def test_rows_of_one_origin(store: Store) -> None:
    rows = [desired(f"job-{n}", origin=list(Origin)[n % 3]) for n in range(9)]
    await store.put(rows, replace=False)
    of_manifests = await store.rows(origin=Origin.MANIFEST, limit=2)
    assert [row.slug for row in of_manifests] == ["job-1", "job-4"]
    assert [row.slug for row in await store.rows(origin=Origin.MANIFEST, after="job-4")] == ["job-7"]


ODD_SLUGS = [
    "a b\tc",
    "'; DROP TABLE jobs; --",
    "%",
    ".",
    "..",
    "/",
    "/leading/and/trailing/",
    "__reserved__",
    "namespace/name",
    "Ä",
    "a\u0301",
    "á",
    "日本語",
    "\U0001f9e8",
    "\uffff",
    "upper",
    "UPPER",
    "x" * 200,
    "ü" * 200,
    '"quoted" \\ {a,b} $1 :name ?',
]


async def test_any_text_is_a_slug(store: Store) -> None:
    now = await store.now()
    assert await store.put([desired(slug, now - 1) for slug in ODD_SLUGS], replace=False) == [Put.CREATED] * len(
        ODD_SLUGS
    )
    assert [row.slug for row in await store.rows()] == sorted(ODD_SLUGS)
    assert [row.slug for row in await store.rows(after="UPPER", limit=3)] == sorted(ODD_SLUGS)[
        (start := sorted(ODD_SLUGS).index("UPPER") + 1) : start + 3
    ]
    rows = await take(store, len(ODD_SLUGS))
    assert sorted(row.slug for row in rows) == sorted(ODD_SLUGS)

    ended = [record(f"run of {row.slug}", now, slug=row.slug) for row in rows]
    answers = await store.settle(
        "alice", [settlement(row, records=[entry]) for row, entry in zip(rows, ended, strict=True)]
    )
    assert all(answers)
    for slug in ODD_SLUGS:
        (entry,) = await store.history(slug)
        assert (entry.slug, entry.run_id) == (slug, f"run of {slug}")
    assert await store.recorded([entry.run_id for entry in ended]) == {entry.run_id for entry in ended}
    assert await store.delete(ODD_SLUGS) == [True] * len(ODD_SLUGS)
    assert await store.rows() == []


@pytest.mark.slow
async def test_many_rows_in_one_call(store_factory: StoreFactory) -> None:
    store = await store_factory()
    now = await store.now()
    count = store_factory.bulk

    def desired_rows(payload: bytes | None) -> list[NewRow]:
        return [desired(f"job-{n:06}", now + HOUR, definition="{}", payload=payload) for n in range(count)]

    assert await store.put(desired_rows(None), replace=False) == [Put.CREATED] * count
    changed = desired_rows(None)
    changed[-1].payload = b"new"
    assert await store.put(changed, replace=True) == [Put.UNCHANGED] * (count - 1) + [Put.UPDATED]
    with pytest.raises(SlugTaken) as raised:
        await store.put([*desired_rows(None), desired("new")], replace=False)
    assert len(raised.value.slugs) == count
    assert await is_gone(store, "new")

    rows: list[Row] = []
    while page := await store.rows(after=rows[-1].slug if rows else "", limit=3000):
        rows += page
    assert [row.slug for row in rows] == [f"job-{n:06}" for n in range(count)]
    assert await store.clear() == count
    assert await store.rows() == []


# ---- deleting


async def test_many_slugs_are_read_and_deleted_in_one_call(store: Store, other: Store) -> None:
    slugs = [f"job-{n}" for n in range(1200)]
    await put_due(store, *slugs)
    assert [row and row.slug for row in await other.get(slugs[::-1])] == slugs[::-1]
    assert await other.delete([*slugs, "missing"]) == [True] * 1200 + [False]
    assert await store.rows() == []


async def test_delete_returns_what_existed(store: Store, other: Store) -> None:
    await put_due(store, "a", "b")
    assert await other.delete(["a", "missing", "b"]) == [True, False, True]
    assert await store.delete(["a"]) == [False]
    assert await store.rows() == []
    assert (await claim(store)).rows == []


@pytest.mark.parametrize("ends_runs", [True, False])
async def test_an_active_run_of_a_deleted_schedule_is_recorded_unless_it_goes_on(store: Store, ends_runs: bool) -> None:
    now = await store.now()
    active = State(decided_until=now, runs=[Run(slot=now, due=now, begun=now)])
    await store.put([desired("job", now + HOUR, state=active.encode())], replace=False)
    assert await store.delete(["job"], ends_runs=ends_runs) == [True]
    assert await store.get(["job"]) == [None]
    assert [record.outcome for record in await store.history("job")] == [Outcome.CANCELLED] * ends_runs


async def test_a_row_that_a_newer_version_wrote_can_be_deleted(store: Store) -> None:
    """This version can't read which runs end with it, so they get no record."""
    now = await store.now()
    rows = [desired(slug, now + HOUR, state=b'["of", "a", "newer", "version"]') for slug in ("a", "b")]
    await store.put(rows, replace=False)
    assert await store.delete(["a"]) == [True]
    assert await store.tombstone([("b", rows[1].uid)]) == [True]
    assert await store.get(["a", "b"]) == [None, None]
    assert await store.history("a") == []


async def test_delete_fences_the_owner(store: Store, other: Store) -> None:
    await put_due(store, "job")
    row = await take_one(store)
    assert await other.delete(["job"]) == [True]
    assert (await renew(store, [(row.key, row.version)], lease=HOUR)).revisions == {}
    assert not await settle(store, settlement(row, Disposition.KEEP))
    assert await is_gone(store, "job")


async def test_a_deleted_slug_can_be_scheduled_again_as_another_row(store: Store, other: Store) -> None:
    await put_due(store, "job")
    old = await take_one(store)
    await other.delete(["job"])
    assert await other.put([desired("job", await store.now() - 1)], replace=False) == [Put.CREATED]
    before = await read_row(store, "job")

    assert before.key != old.key
    assert (before.revision, before.owner) == (1, None)
    assert not await settle(store, settlement(old, Disposition.REMOVE))
    assert (await renew(store, [(old.key, old.version)], lease=HOUR)).revisions == {}
    assert await read_row(store, "job") == before
    assert not (await take_one(other, replica="bob")).recovered


async def test_active_runs_of_a_deleted_schedule_are_cancelled(store: Store, other: Store) -> None:
    now = await store.now()
    state = State(
        decided_until=now,
        next=Run(slot=now - 2, due=now - 2),
        runs=[Run(slot=now - 9, due=now + HOUR, attempt=3, begun=now - 8), Run(slot=now, due=now, token="manual")],
        waiting=[Run(slot=now - 5, due=now - 5)],
    )
    definition = Definition(kind="print", keep=Keep(succeeded=1, failed=2, ttl=DAY)).encode()
    await store.put([desired("job", now - 1, state=state.encode(), definition=definition)], replace=False)
    await take_one(store)
    await other.delete(["job"])

    records = {entry.run_id: entry for entry in await store.history("job")}
    assert state.next is not None
    expected = {run_id("uid-of-job", run): run for run in (*state.runs, state.next)}
    assert set(records) == set(expected)
    after = await store.now()
    for name, run in expected.items():
        entry = records[name]
        assert (entry.uid, entry.slug, entry.slot, entry.attempt) == ("uid-of-job", "job", run.slot, run.attempt)
        assert (entry.outcome, entry.started, entry.manual) == (Outcome.CANCELLED, run.begun or None, bool(run.token))
        assert now - SECOND <= entry.finished <= after + SECOND
        assert (entry.keep, entry.expires - entry.finished) == (2, DAY)
        assert "deleted" in entry.reason


async def test_a_planned_run_of_a_row_without_owner_leaves_no_record(store: Store) -> None:
    now = await store.now()
    state = State(
        decided_until=now, next=Run(slot=now - 2, due=now - 2), runs=[Run(slot=now - 9, due=now + HOUR, begun=1)]
    )
    await store.put([desired("job", now + HOUR, state=state.encode())], replace=False)
    await store.delete(["job"])
    assert [entry.slot for entry in await store.history("job")] == [now - 9]


async def test_a_run_that_is_recorded_is_not_cancelled_again(store: Store, other: Store) -> None:
    now = await store.now()
    run = Run(slot=now - 9, due=now - 9)
    await put_due(store, "job", state=State(decided_until=now, runs=[run]).encode())
    row = await take_one(store)
    ended = record(run_id(row.uid, run), now)
    assert await settle(store, settlement(row, Disposition.KEEP, records=[ended]))
    await other.delete(["job"])
    assert await store.history("job") == [ended]


async def test_clear_deletes_the_schedules_of_one_origin_or_all(store: Store, other: Store) -> None:
    now = await store.now()
    run = Run(slot=now - 9, due=now - 9)
    rows = [
        desired(f"job-{n}", now - 1, origin=list(Origin)[n % 3], state=State(decided_until=now, runs=[run]).encode())
        for n in range(9)
    ]
    await store.put(rows, replace=False)
    owned = await take(store, 9)
    assert await other.clear(Origin.MANIFEST) == 3
    assert [row.slug for row in await store.rows()] == ["job-0", "job-2", "job-3", "job-5", "job-6", "job-8"]
    assert {entry.slug for entry in await store.history()} == {"job-1", "job-4", "job-7"}
    fenced = [row.slug for row in owned if not await settle(store, settlement(row, Disposition.KEEP))]
    assert sorted(fenced) == ["job-1", "job-4", "job-7"]
    assert await store.clear() == 6
    assert await other.rows() == []
    assert await store.clear() == 0


# ---- installations


async def test_installations_are_separate(store_factory: StoreFactory) -> None:
    here, there = await store_factory(), await store_factory(store_factory.installation + "-other")
    await put_due(here, "job")
    assert await there.rows() == []
    assert (await claim(there)).rows == []
    assert (await claim(there)).next_wake is None
    await put_due(there, "job", "more")
    row = await take_one(here)
    assert await settle(here, settlement(row, Disposition.KEEP, records=[record("run-1", await here.now())]))
    before = await everything(here)

    assert (await read_row(there, "job")).owner is None
    assert await there.history() == []
    assert await there.recorded(["run-1"]) == set()
    assert await there.prune() == 0
    assert [row.slug for row in await take(there, 2)] == ["job", "more"]
    assert await there.delete(["job"]) == [True]
    assert await there.clear() == 1
    assert await everything(here) == before
