"""New zone data: what waits in a store is planned anew, once, and what was decided stays decided."""

from __future__ import annotations

from typing import TYPE_CHECKING

from structlog.testing import capture_logs

from scheduledjob.domain.schedule.definition import Definition
from scheduledjob.domain.schedule.state import State
from scheduledjob.domain.time.instants import HOUR, Instant
from scheduledjob.domain.time.zone_data import ZONE_DATA, ZoneData
from scheduledjob.domain.triggers.cron import Cron, CronTrigger
from scheduledjob.engine.store import StoreUnavailable
from tests.engine.support import Jobs, Watcher, desired, replica_of, row_of, running

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

    from scheduledjob.engine.store import Store
    from scheduledjob.engine.stored_row import NewRow

YEARLY = "0 9 1 1 *"
VANCOUVER = "America/Vancouver"


def planned_an_hour_late(slug: str, now: Instant, zones: str, zone: str = VANCOUVER) -> NewRow:
    """A row whose next slot was planned by other zone data, which were an hour off."""
    row = desired(slug, Definition(kind="job", triggers=(CronTrigger(YEARLY, zone),)), now)
    state = State.decode(row.state)
    assert state.next is not None
    state.next.slot += HOUR
    state.next.due += HOUR
    state.zones = zones
    row.state, row.wake_at = state.encode(), state.next.due
    return row


async def state_of(store: Store, slug: str) -> State:
    return State.decode((await row_of(store, slug)).state)


async def test_slots_that_wait_are_planned_anew_by_newer_data(store: Store) -> None:
    now = await store.now()
    rows = [planned_an_hour_late(f"ns/{zones or 'unknown'}", now, zones) for zones in ("", "2000a")]
    await store.put(
        [*rows, desired("ns/utc", Definition(kind="job", triggers=(CronTrigger(YEARLY),)), now)], replace=False
    )
    watcher = Watcher()
    async with running(replica_of(store, Jobs(), observer=watcher)):
        await watcher.until_event("released", 2)
    after = now
    for slug in ("ns/unknown", "ns/2000a"):
        state, row = await state_of(store, slug), await row_of(store, slug)
        expected = Cron(YEARLY, VANCOUVER).next_instant(after)
        assert state.next is not None
        assert (state.next.slot, row.wake_at, state.zones) == (expected, expected, ZONE_DATA.version)
        assert (state.missed, state.started) == (0, 0)
    assert (await row_of(store, "ns/utc")).version == 0


async def test_a_locked_row_does_not_hold_up_those_behind_it(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduledjob.engine.zone_refresh._PAGE", 1)
    now = await store.now()
    await store.put([planned_an_hour_late(f"ns/{name}", now, "") for name in ("first", "second")], replace=False)
    touch, watcher = store.touch, Watcher()

    async def touch_unlocked(slugs: Sequence[str]) -> None:
        if "ns/first" in slugs:
            raise StoreUnavailable("a client has locked the row")
        await touch(slugs)

    monkeypatch.setattr(store, "touch", touch_unlocked)
    async with running(replica_of(store, Jobs(), observer=watcher)):
        await watcher.until_event("released")
    assert [(await row_of(other, slug)).version for slug in ("ns/first", "ns/second")] == [0, 1]


async def test_it_is_done_once_for_each_version(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    now = await store.now()
    watcher = Watcher()
    await store.put([planned_an_hour_late("ns/first", now, "")], replace=False)
    replica = replica_of(store, Jobs(), observer=watcher)
    async with running(replica):
        await watcher.until_event("released")
        assert replica._ownership is not None
        await replica._ownership.zones.refresh()
    await store.put([planned_an_hour_late(f"ns/{name}", now, "") for name in ("second", "third")], replace=False)
    replica = replica_of(store, Jobs(), observer=watcher)
    async with running(replica):
        assert replica._ownership is not None
        await replica._ownership.zones.refresh()
    assert (await row_of(store, "ns/second")).version == 0
    newer = ZoneData("2999z", "package")
    monkeypatch.setattr("scheduledjob.engine.zone_refresh.ZONE_DATA", newer)
    monkeypatch.setattr("scheduledjob.domain.schedule.due.ZONE_DATA", newer)
    watcher = Watcher()
    async with running(replica_of(store, Jobs(), observer=watcher)):
        await watcher.until_event("released", 3)
    assert {(await state_of(store, f"ns/{name}")).zones for name in ("first", "second", "third")} == {"2999z"}


async def test_it_is_done_for_the_kinds_of_each_program(store: Store) -> None:
    """Programs that share an installation may register different jobs."""
    now = await store.now()
    await store.put([planned_an_hour_late("ns/waits", now, "")], replace=False)
    another = replica_of(store, Jobs(), kinds=["another"])
    async with running(another):
        assert another._ownership is not None
        await another._ownership.zones.refresh()
    assert (await row_of(store, "ns/waits")).version == 0
    watcher = Watcher()
    async with running(replica_of(store, Jobs(), observer=watcher)):
        await watcher.until_event("released")
    assert (await state_of(store, "ns/waits")).zones == ZONE_DATA.version


async def test_a_row_that_this_version_can_not_read_is_left_alone(store: Store) -> None:
    now = await store.now()
    unreadable, outdated = planned_an_hour_late("ns/a", now, ""), planned_an_hour_late("ns/b", now, "")
    unreadable.state = b'["of", "a", "newer", "version"]'
    await store.put([unreadable, outdated], replace=False)
    watcher = Watcher()
    async with running(replica_of(store, Jobs(), observer=watcher)):
        await watcher.until_event("released")
    assert (await row_of(store, "ns/a")).version == 0
    assert (await state_of(store, "ns/b")).zones == ZONE_DATA.version


async def test_replicas_with_different_data_say_so_and_the_newer_one_refreshes_again(store: Store) -> None:
    now = await store.now()
    watcher = Watcher()
    replica = replica_of(store, Jobs(), observer=watcher)
    with capture_logs() as logs:
        async with running(replica):
            assert replica._ownership is not None
            zones = replica._ownership.zones
            await zones.refresh()
            # An older replica plans a row after the refresh, and releases it. Another row of it is claimed here.
            old = planned_an_hour_late("ns/waits", now, "2000a")
            claimed = planned_an_hour_late("ns/claimed", now, "2000a")
            claimed.wake_at = now
            await store.put([old, claimed], replace=False)
            await watcher.until_event("released")
            assert (await row_of(store, "ns/waits")).version == 0
            await zones.refresh()
            await watcher.until_event("released", 2)
    for slug in ("ns/waits", "ns/claimed"):
        state = await state_of(store, slug)
        assert state.next is not None
        assert (state.next.slot, state.zones) == (Cron(YEARLY, VANCOUVER).next_instant(now), ZONE_DATA.version)
    told = [entry for entry in logs if "different time zone data" in entry["event"]]
    assert [entry["elsewhere"] for entry in told] == ["2000a"]


async def test_an_older_replica_leaves_the_plan_of_a_newer_one(store: Store) -> None:
    now = await store.now()
    row = planned_an_hour_late("ns/job", now, "2999z")
    due, row.wake_at = row.wake_at, now
    await store.put([row], replace=False)
    watcher = Watcher()
    with capture_logs() as logs:
        async with running(replica_of(store, Jobs(), observer=watcher)):
            await watcher.until_event("released")
    assert (await row_of(store, "ns/job")).wake_at == due
    assert [entry["elsewhere"] for entry in logs if "different time zone data" in entry["event"]] == ["2999z"]


async def test_a_row_that_an_older_replica_keeps_is_planned_anew_later(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older replica may claim a row that was touched, and leave the plan as it is. Perhaps nobody claims it again
    for a year, so the rows are read again, although no replica has claimed such a row."""
    monkeypatch.setattr("scheduledjob.engine.zone_refresh.ZONE_RECHECK_INTERVAL", -1.0)  # it is over at once
    now = await store.now()
    watcher = Watcher()
    replica = replica_of(store, Jobs(), observer=watcher)
    async with running(replica):
        assert replica._ownership is not None
        zones = replica._ownership.zones
        await zones.refresh()
        await store.put([planned_an_hour_late("ns/waits", now, "2000a")], replace=False)
        await zones.refresh()
        await watcher.until_event("released")
    state = await state_of(store, "ns/waits")
    assert state.next is not None
    assert (state.next.slot, state.zones) == (Cron(YEARLY, VANCOUVER).next_instant(now), ZONE_DATA.version)


async def test_a_slot_that_a_client_named_is_not_touched_again(store: Store) -> None:
    """Its plan stays, but it counts as planned by the newer data. Otherwise every check would touch it."""
    now = await store.now()
    row = planned_an_hour_late("ns/named", now, "2000a")
    row.first = row.wake_at
    await store.put([row], replace=False)
    watcher = Watcher()
    async with running(replica_of(store, Jobs(), observer=watcher)):
        await watcher.until_event("released")
    assert (await state_of(store, "ns/named")).zones == ZONE_DATA.version
    assert (await row_of(store, "ns/named")).wake_at == row.first
