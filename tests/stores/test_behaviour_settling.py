"""Every store: settlements. Only the owner at its version writes, and either its records too or nothing."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from scheduledjob.domain.schedule.state import State
from scheduledjob.domain.time.instants import HOUR
from scheduledjob.engine.store import Put
from scheduledjob.engine.stored_row import Disposition

from .support import (
    LEASE,
    SHORT_LEASE,
    claim,
    desired,
    everything,
    is_gone,
    put_due,
    read_row,
    record,
    settle,
    settlement,
    take,
    take_one,
    take_over,
    wait_for_lease_end,
)

if TYPE_CHECKING:
    from scheduledjob.engine.store import Store

NEW_STATE = State(decided_until=5, succeeded=1).encode()


async def test_keep_saves_the_state_and_raises_the_version(store: Store) -> None:
    await put_due(store, "job")
    row = await take_one(store)
    leased = await read_row(store, "job")
    assert await settle(store, settlement(row, Disposition.KEEP, state=NEW_STATE, wake_at=1))

    seen = await read_row(store, "job")
    assert seen.state == NEW_STATE
    assert seen.version == row.version + 1
    assert (seen.owner, seen.wake_at, seen.revision) == ("alice", leased.wake_at, 1)


async def test_after_keep_the_owner_settles_only_at_the_next_version(store: Store) -> None:
    await put_due(store, "job")
    row = await take_one(store)
    assert await settle(store, settlement(row, Disposition.KEEP))
    assert not await settle(store, settlement(row))
    assert not await settle(store, settlement(row, version=row.version + 2))
    assert await settle(store, settlement(row, version=row.version + 1))


async def test_release_gives_the_row_up(store: Store, other: Store) -> None:
    await put_due(store, "job")
    row = await take_one(store)
    due = await store.now() + HOUR
    assert await settle(store, settlement(row, wake_at=due, state=NEW_STATE))

    seen = await read_row(other, "job")
    assert (seen.owner, seen.wake_at, seen.state) == (None, due, NEW_STATE)
    assert (await claim(other, "bob")).rows == []
    assert [row.slug for row in await take(other, replica="bob", ahead=2 * HOUR)] == ["job"]


async def test_a_row_released_without_wake_is_never_due(store: Store) -> None:
    await put_due(store, "job")
    assert await settle(store, settlement(await take_one(store), wake_at=None))
    seen = await read_row(store, "job")
    assert (seen.owner, seen.wake_at) == (None, None)
    assert (await claim(store, ahead=10**15)).rows == []


async def test_remove_deletes_the_schedule(store: Store) -> None:
    await put_due(store, "job")
    row = await take_one(store)
    ended = record("run-1", await store.now())
    assert await settle(store, settlement(row, Disposition.REMOVE, records=[ended]))

    assert await is_gone(store, "job")
    assert await store.history("job") == [ended]
    assert await store.put([desired("job", None)], replace=False) == [Put.CREATED]
    assert (await read_row(store, "job")).key != row.key


@pytest.mark.parametrize("disposition", Disposition)
async def test_a_former_owner_is_refused_and_changes_nothing(
    store: Store, other: Store, disposition: Disposition
) -> None:
    await put_due(store, "job")
    stale = await take_one(store, lease=SHORT_LEASE)
    current = await take_over(other, stale)
    ended = record("run-1", await store.now())
    before = await everything(store)

    refused = settlement(stale, disposition, state=NEW_STATE, records=[ended], payload=b"new", result=b"new", wake_at=1)
    assert not await settle(store, refused)
    refused.version = current.version
    assert not await settle(store, refused)
    assert await everything(store) == before
    assert await store.recorded(["run-1"]) == set()
    assert await settle(other, settlement(current), replica="bob")


@pytest.mark.parametrize("disposition", Disposition)
async def test_the_owner_of_an_older_version_changes_nothing(store: Store, disposition: Disposition) -> None:
    await put_due(store, "job")
    first = await take_one(store, lease=SHORT_LEASE)
    await take_over(store, first, replica="alice")
    before = await everything(store)
    assert not await settle(store, settlement(first, disposition, state=NEW_STATE, records=[record("run-1", 5)]))
    assert await everything(store) == before


@pytest.mark.parametrize("disposition", Disposition)
async def test_a_settlement_sent_twice_counts_once(store: Store, disposition: Disposition) -> None:
    await put_due(store, "job", "control")
    rows = await take(store, 2)
    row = next(row for row in rows if row.slug == "job")
    sent = settlement(row, disposition, state=NEW_STATE, wake_at=await store.now() + HOUR, records=[record("run-1", 5)])
    assert await settle(store, sent)
    before = await everything(store)
    sent.records = [record("run-2", 6)]
    assert not await settle(store, sent)
    assert await everything(store) == before


async def test_settlements_of_one_row_in_one_call_are_settled_in_turn(store: Store) -> None:
    await put_due(store, "job")
    row = await take_one(store)
    kept = settlement(row, Disposition.KEEP, records=[record("run-1", 5)])
    released = settlement(row, version=row.version + 1, state=NEW_STATE, records=[record("run-2", 6)])
    assert await store.settle("alice", [kept, kept, released]) == [True, False, True]
    seen = await read_row(store, "job")
    assert (seen.owner, seen.state) == (None, NEW_STATE)
    assert await store.recorded(["run-1", "run-2"]) == {"run-1", "run-2"}


@pytest.mark.parametrize("refused", [0, 1])
@pytest.mark.parametrize("disposition", Disposition)
async def test_a_run_is_recorded_although_another_settlement_of_it_is_refused(
    store: Store, disposition: Disposition, refused: int
) -> None:
    """As when a restored object has a new row, and the replica still settles the old one, too."""
    await put_due(store, "first", "second")
    rows = sorted(await take(store, 2), key=lambda row: row.key)
    ended = [record("run-1", 5), record("run-2", 6)]
    versions = [row.version + (7 if number == refused else 0) for number, row in enumerate(rows)]
    sent = [
        settlement(row, disposition, version=version, records=ended)
        for row, version in zip(rows, versions, strict=True)
    ]
    assert await store.settle("alice", sent) == [number != refused for number in range(2)]
    assert await store.recorded(["run-1", "run-2"]) == {"run-1", "run-2"}


async def test_a_row_without_owner_is_not_settled(store: Store) -> None:
    await put_due(store, "job")
    row = await read_row(store, "job")
    assert not await settle(store, settlement(row, state=NEW_STATE))
    assert await read_row(store, "job") == row


async def test_a_deleted_row_is_not_settled(store: Store, other: Store) -> None:
    await put_due(store, "job")
    row = await take_one(store)
    await other.delete(["job"])
    assert not await settle(store, settlement(row, records=[record("run-1", 5)]))
    assert await store.recorded(["run-1"]) == set()
    assert await is_gone(store, "job")


async def test_each_of_many_is_settled_or_refused_on_its_own(store: Store, other: Store) -> None:
    slugs = [f"job-{n}" for n in range(700)]
    await put_due(store, *slugs)
    rows = {row.slug: row for row in await take(store, 700)}
    deleted = set(slugs[::7])
    await other.delete(sorted(deleted))
    now = await store.now()
    answers = await store.settle(
        "alice",
        [
            settlement(rows[slug], state=NEW_STATE, records=[record(f"run-{slug}", now + n, slug=slug)])
            for n, slug in enumerate(slugs)
        ],
    )
    assert answers == [slug not in deleted for slug in slugs]
    assert {row.slug for row in await store.rows() if row.state == NEW_STATE} == set(slugs) - deleted
    assert await store.recorded([f"run-{slug}" for slug in slugs]) == {
        f"run-{slug}" for slug in slugs if slug not in deleted
    }
    assert await store.settle("alice", []) == []


async def test_all_dispositions_in_one_call(store: Store) -> None:
    await put_due(store, "kept", "released", "removed", "stale")
    rows = {row.slug: row for row in await take(store, 4)}
    answers = await store.settle(
        "alice",
        [
            settlement(rows["kept"], Disposition.KEEP, result=b"r"),
            settlement(rows["stale"], version=rows["stale"].version - 1, state=NEW_STATE),
            settlement(rows["released"], payload=b"p"),
            settlement(rows["removed"], Disposition.REMOVE),
        ],
    )
    assert answers == [True, False, True, True]
    kept, released, removed, stale = await store.get(["kept", "released", "removed", "stale"])
    assert kept is not None
    assert (kept.owner, kept.payload, kept.result) == ("alice", None, b"r")
    assert released is not None
    assert (released.owner, released.payload, released.result) == (None, b"p", None)
    assert removed is None
    assert stale is not None
    assert stale.state == rows["stale"].state


async def test_an_owner_settles_after_its_lease_if_nobody_has_claimed_the_row(store: Store) -> None:
    await put_due(store, "job")
    row = await take_one(store, lease=SHORT_LEASE)
    await wait_for_lease_end(store, row)
    assert await settle(store, settlement(row, state=NEW_STATE))
    assert (await read_row(store, "job")).state == NEW_STATE


@pytest.mark.parametrize("disposition", [Disposition.KEEP, Disposition.RELEASE])
async def test_payload_and_result_change_only_if_given(store: Store, disposition: Disposition) -> None:
    now = await store.now()
    await store.put([desired("job", now - 1, payload=b"first")], replace=False)
    row = await take_one(store)
    assert await settle(store, settlement(row, Disposition.KEEP, result=b"done"))
    assert await settle(store, settlement(row, Disposition.KEEP, version=row.version + 1, payload=b""))
    assert await settle(store, settlement(row, disposition, version=row.version + 2))
    seen = await read_row(store, "job")
    assert (seen.payload, seen.result) == (b"", b"done")


# ---- a desired state that changes while a replica owns its row


async def test_an_edit_of_an_owned_row_only_raises_its_revision(store: Store, other: Store) -> None:
    await put_due(store, "job")
    row = await take_one(store)
    before = await read_row(store, "job")
    assert await other.put([desired("job", payload=b"new")], replace=True) == [Put.UPDATED]

    seen = await read_row(store, "job")
    assert (seen.revision, seen.payload) == (2, b"new")
    assert (seen.owner, seen.version, seen.wake_at, seen.state) == (
        "alice",
        before.version,
        before.wake_at,
        before.state,
    )
    assert await settle(store, settlement(row, Disposition.KEEP))


async def test_a_row_released_at_an_old_revision_is_due_at_once(store: Store, other: Store) -> None:
    await put_due(store, "job")
    row = await take_one(store)
    await other.put([desired("job", payload=b"new")], replace=True)
    assert await settle(store, settlement(row, state=NEW_STATE, wake_at=await store.now() + HOUR))

    again = await take_one(other, replica="bob")
    assert (again.revision, again.payload, again.state, again.recovered) == (2, b"new", NEW_STATE, False)


async def test_a_row_released_at_an_old_revision_without_wake_is_due_at_once(store: Store, other: Store) -> None:
    await put_due(store, "job")
    row = await take_one(store)
    await other.put([desired("job", payload=b"new")], replace=True)
    assert await settle(store, settlement(row, wake_at=None))
    assert (await take_one(other, replica="bob")).revision == 2


async def test_a_row_released_at_the_current_revision_is_due_when_it_says(store: Store, other: Store) -> None:
    await put_due(store, "job")
    row = await take_one(store)
    await other.put([desired("job", payload=b"new")], replace=True)
    due = await store.now() + HOUR
    assert await settle(store, settlement(row, wake_at=due, revision=2))
    assert (await read_row(store, "job")).wake_at == due


async def test_a_row_removed_at_an_old_revision_is_released_instead(store: Store, other: Store) -> None:
    await put_due(store, "job")
    row = await take_one(store)
    await other.put([desired("job", payload=b"new")], replace=True)
    ended = record("run-1", await store.now())
    assert await settle(store, settlement(row, Disposition.REMOVE, state=NEW_STATE, records=[ended]))

    assert await store.history("job") == [ended]
    again = await take_one(other, replica="bob")
    assert again.key == row.key
    assert (again.revision, again.state, again.recovered) == (2, NEW_STATE, False)


async def test_a_row_removed_at_the_current_revision_is_deleted(store: Store, other: Store) -> None:
    await put_due(store, "job")
    row = await take_one(store)
    await other.put([desired("job", payload=b"new")], replace=True)
    assert await settle(store, settlement(row, Disposition.REMOVE, revision=2))
    assert await is_gone(store, "job")


# ---- records


async def test_records_are_written_with_their_settlement(store: Store, other: Store) -> None:
    await put_due(store, "job")
    row = await take_one(store)
    now = await store.now()
    records = [record("run-1", now), record("run-2", now + 1)]
    assert await settle(store, settlement(row, Disposition.KEEP, records=records))
    assert await other.history("job") == records[::-1]
    assert await other.recorded(["run-1", "run-2", "run-3"]) == {"run-1", "run-2"}


async def test_an_existing_record_is_left_as_it_is(store: Store) -> None:
    await put_due(store, "job")
    row = await take_one(store)
    now = await store.now()
    first = record("run-1", now, reason="first")
    assert await settle(store, settlement(row, Disposition.KEEP, records=[first]))
    again = [record("run-1", now + 5, reason="second"), record("run-2", now + 6)]
    assert await settle(store, settlement(row, version=row.version + 1, state=NEW_STATE, records=again))

    assert await store.history("job") == [again[1], first]
    assert (await read_row(store, "job")).state == NEW_STATE


async def test_readers_read_leased_rows(store: Store, other: Store) -> None:
    await put_due(store, "job")
    await take_one(store, lease=LEASE)
    assert (await read_row(other, "job")).owner == "alice"
    assert [row.slug for row in await other.rows()] == ["job"]


# ---- payloads of clients and of runs


async def test_a_payload_that_a_client_has_set_since_stays(store: Store, other: Store) -> None:
    await put_due(store, "job")
    row = await take_one(store)
    await other.put([desired("job", payload=b"client")], replace=True)
    ends = settlement(row, Disposition.KEEP, payload=b"run", result=b"run")
    assert await settle(store, ends)
    seen = await read_row(store, "job")
    assert (seen.payload, seen.result, seen.payload_revision) == (b"client", b"run", 2)
    again = settlement(seen, payload=b"next run")
    assert await settle(store, again)
    seen = await read_row(store, "job")
    assert (seen.payload, seen.payload_revision) == (b"next run", 2)


async def test_a_run_clears_the_payload_unless_a_client_has_set_one_since(store: Store) -> None:
    now = await store.now()
    await store.put([desired("job", now - 1, payload=b"first")], replace=False)
    row = await take_one(store)
    cleared = settlement(row, Disposition.KEEP)
    cleared.payload_cleared = True
    assert await settle(store, cleared)
    assert (await read_row(store, "job")).payload is None
    await store.put([desired("job", payload=b"client")], replace=True)
    cleared.version += 1
    assert await settle(store, cleared)
    assert (await read_row(store, "job")).payload == b"client"


@pytest.mark.parametrize("gives_payload", [False, True])
async def test_an_owned_library_schedule_that_is_scheduled_again_as_it_is_gets_a_revision(
    store: Store, gives_payload: bool
) -> None:
    """Its run may be about to complete the schedule, or to leave another payload."""
    now = await store.now()
    new = desired("job", now - 1, first=now - 1, payload=b"client")
    await store.put([new], replace=False)
    row = await take_one(store)
    again = dataclasses.replace(new, first=None, keep_payload=not gives_payload)
    assert await store.put([again], replace=True) == [Put.UPDATED]
    seen = await read_row(store, "job")
    assert (seen.revision, seen.edited_at, seen.first) == (2, row.edited_at, now - 1)
    assert await settle(store, settlement(row, Disposition.REMOVE, payload=b"run"))
    seen = await read_row(store, "job")
    assert (seen.owner, seen.payload) == (None, b"client" if gives_payload else b"run")
    assert (await take_one(store)).slug == "job", "it is due at once"


async def test_the_revision_of_a_payload_is_the_one_that_the_run_received(store: Store) -> None:
    await put_due(store, "job")
    row = await take_one(store)
    await store.put([desired("job", payload=b"client")], replace=True)
    informed = await read_row(store, "job")
    ends = settlement(informed, payload=b"run", revision=informed.revision)
    ends.payload_revision = row.payload_revision
    assert await settle(store, ends)
    assert (await read_row(store, "job")).payload == b"client"


async def test_a_row_keeps_its_payload_if_the_client_gives_none(store: Store) -> None:
    now = await store.now()
    await store.put([desired("job", now - 1, payload=b"first")], replace=False)
    row = await take_one(store)
    same = dataclasses.replace(desired("job"), keep_payload=True)
    assert await store.put([same], replace=True) == [Put.UPDATED], "a replica owns it"
    edit = dataclasses.replace(desired("job", definition="{}"), keep_payload=True)
    assert await store.put([edit], replace=True) == [Put.UPDATED]
    seen = await read_row(store, "job")
    assert (seen.payload, seen.revision, seen.payload_revision) == (b"first", 3, row.payload_revision)
    assert await settle(store, settlement(row, payload=b"run"))
    assert (await read_row(store, "job")).payload == b"run"
    assert await store.put([desired("job", definition="{}")], replace=True) == [Put.UPDATED]
    assert (await read_row(store, "job")).payload is None
    new = dataclasses.replace(desired("new", payload=b"new"), keep_payload=True)
    assert await store.put([new], replace=True) == [Put.CREATED]
    assert (await read_row(store, "new")).payload == b"new"
