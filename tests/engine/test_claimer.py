"""When the claimer polls the store: as late as possible, but in time. The clock is that of the simulation."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from scheduledjob.domain.time.instants import SECOND, Instant
from scheduledjob.engine.capacity import Capacity, tenant_of
from scheduledjob.engine.claimer import HAND_OVER_LIMIT, Claimer
from scheduledjob.engine.clock import StoreClock
from scheduledjob.engine.observer import Observer
from scheduledjob.engine.poll_timer import PollTimer
from scheduledjob.engine.replica_settings import ReplicaContext, ReplicaSettings
from scheduledjob.engine.store import Batch, ReplicaInfo, StoreUnavailable, Wake
from scheduledjob.engine.stored_row import Disposition, Origin, Row, Settlement
from scheduledjob.engine.timing import FAIR_BATCH
from scheduledjob.stores.memory import MemoryDatabase, MemoryStore
from tests.simulation.network import at_once
from tests.simulation.world import Machine, World

from .support import desired, single_slot

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scheduledjob.engine.kinds import JobKind
    from scheduledjob.engine.ownership import Ownership


class RecordingStore(MemoryStore):
    """Records when it was polled, and when the announced polls are."""

    def __init__(self, world: World) -> None:
        super().__init__(MemoryDatabase(world.store_clock))
        self.world = world
        self.polled_at: list[float] = []
        self.announced: list[float] = []
        self.clock_reads: list[float] = []
        """When its clock was read."""
        self.away = False
        self.takes = 0.0
        """Seconds until a claim is carried out."""
        self.reply_takes = 0.0
        """Seconds from then to the reply."""

    async def claim(self, replica: str, kinds: Iterable[str], **options: Any) -> Batch:
        self.polled_at.append(round(self.world.now, 3))
        assert len(self.polled_at) < 1000, "it polls without a pause"
        if self.away:
            raise StoreUnavailable("away")
        if self.takes:
            await asyncio.sleep(self.takes)
        batch = await super().claim(replica, kinds, **options)
        if self.reply_takes:
            await asyncio.sleep(self.reply_takes)
        return batch

    async def now(self) -> Instant:
        self.clock_reads.append(self.world.now)
        if self.away:
            self.polled_at.append(round(self.world.now, 3))
            raise StoreUnavailable("away")
        return await super().now()

    async def announce(self, replica: ReplicaInfo, poll_at: Instant) -> bool:
        self.announced.append(round((poll_at - self.world.store_clock()) / SECOND, 3))
        return await super().announce(replica, poll_at)


@dataclass
class OwnershipStub:
    """The part of ``Ownership`` that the claimer uses."""

    rows: list[Row] = field(default_factory=list)
    deadlines: list[float] = field(default_factory=list)
    """When the leases of the rows end, in seconds of the machine's clock."""
    changed: list[str] = field(default_factory=list)
    capacity: Capacity = field(default_factory=lambda: Capacity(4096, 0.875))

    @property
    def count(self) -> int:
        return len(self.rows)

    def end(self, count: int) -> None:
        """Let the first rows end and be released."""
        for row in self.rows[:count]:
            self.capacity.take(tenant_of(row), -1)
        del self.rows[:count]

    def accept(self, row: Row, deadline: float) -> None:
        self.rows.append(row)
        self.capacity.take(tenant_of(row), 1)
        self.deadlines.append(deadline)

    def slugs_changed(self, slugs: Iterable[str]) -> None:
        self.changed += slugs


class Scene:
    def __init__(self, **settings: Any) -> None:
        self.world = World(1)
        self.machine = Machine("m", 7.0, 1.0, self.world)
        self.world.machines.append(self.machine)
        self.store = RecordingStore(self.world)
        self.ownership = OwnershipStub()
        self.info = ReplicaInfo("me", "", 0)
        self.settings = ReplicaSettings(**settings)
        self.ownership.capacity = Capacity(self.settings.capacity, self.settings.tenant_share)
        self.task: asyncio.Task[None] | None = None

    def start(self) -> Claimer:
        loop = self.machine.loop
        clock = StoreClock(self.machine.monotonic)
        clock.observe(self.world.store_clock(), self.machine.monotonic(), self.machine.monotonic())
        asyncio._set_running_loop(loop)
        try:
            self.poll_timer = PollTimer(clock, self.machine.monotonic, self.settings)
            context = ReplicaContext(
                store=self.store,
                replica=self.info.id,
                kinds=cast("dict[str, JobKind]", {"job": None}),
                settings=self.settings,
                clock=clock,
                monotonic=self.machine.monotonic,
                observer=Observer(),
            )
            claimer = Claimer(context, cast("Ownership", self.ownership), self.info, self.poll_timer, random.Random(1))
        finally:
            asyncio._set_running_loop(None)
        self.task = loop.create_task(claimer.run())
        self.claimer = claimer
        return claimer

    def put(self, slug: str, after: float) -> None:
        slot = self.world.store_clock() + round(after * SECOND)
        at_once(self.store.put([desired(slug, single_slot(slot), slot - 10**9)], replace=False))

    def until(self, moment: float) -> list[float]:
        """Let time pass, and return when the store was polled since the last call."""
        seen = len(self.store.polled_at)
        self.world.run_until(moment)
        assert self.task is not None
        assert not self.task.done()
        return self.store.polled_at[seen:]

    def end(self) -> None:
        if self.task is not None:
            self.machine.loop.call_soon(self.claimer.stop)
            self.world.run_until(self.world.now + 1)
            assert self.task.done()
        self.machine.loop.close()


@pytest.fixture
def scene(request: pytest.FixtureRequest) -> Any:
    scene = Scene(**getattr(request, "param", {}))
    yield scene
    scene.end()


def test_an_idle_replica_polls_at_each_heartbeat_and_announces_it(scene: Scene) -> None:
    scene.start()
    assert scene.until(59.0) == [0.0, 0.0]  # again after the announcement: a client may have read the previous one
    assert scene.store.announced == [60.0]
    assert scene.until(119.0) == [60.0, 60.0]


def test_it_sleeps_until_shortly_before_the_next_row_is_due(scene: Scene) -> None:
    scene.put("ns/a", 30.0)
    scene.start()
    assert scene.until(28.9) == [0.0, 0.0]
    assert scene.until(29.1)[0] == 29.0
    assert [row.slug for row in scene.ownership.rows] == ["ns/a"]


@pytest.mark.parametrize("scene", [{"batch": 1}, {"batch": 500}], indirect=True, ids=["full batch", "part of a batch"])
def test_a_lease_counts_from_when_the_claim_was_sent(scene: Scene) -> None:
    """If it counted from the reply, this replica would still run the job when another may claim it."""
    scene.put("ns/a", 0.0)
    scene.store.reply_takes = 4.0
    sent = scene.machine.monotonic()
    scene.start()
    scene.until(4.5)
    scene.store.reply_takes = 0.0
    scene.until(10.0)
    assert scene.ownership.deadlines == [sent + scene.settings.lease]


@pytest.mark.parametrize("scene", [{"heartbeat": heartbeat} for heartbeat in (0.02, 0.05, 0.0501, 0.06)], indirect=True)
@pytest.mark.parametrize("takes", [0.0, 0.01])
def test_a_short_heartbeat_does_not_spin(scene: Scene, takes: float) -> None:
    """A poll that is due almost at once is not announced again and again."""
    scene.store.takes = takes
    scene.start()
    polled_at = scene.until(2.0)
    assert len(set(polled_at)) > 10
    assert len(polled_at) <= 2 * 2.0 / scene.settings.heartbeat + 2


@pytest.mark.parametrize("scene", [{"jitter": 20.0}], indirect=True)
def test_jitter_spreads_polls_but_never_delays_them(scene: Scene) -> None:
    scene.start()
    polled_at = sorted(set(scene.until(600.0)))
    gaps = [round(later - earlier, 3) for earlier, later in pairwise(polled_at)]
    assert all(39 <= gap <= 60 for gap in gaps)
    assert len(set(gaps)) > 3


def test_a_notification_ends_the_sleep(scene: Scene) -> None:
    claimer = scene.start()
    scene.until(10.0)
    claimer.notified(Wake(due=scene.world.store_clock() + 5 * SECOND))
    assert scene.until(20.0)[0] == pytest.approx(14.0, abs=0.01)
    claimer.notified(Wake(changed=["ns/a"]))
    assert scene.until(25.0) == []
    assert scene.ownership.changed == ["ns/a"]


def test_it_polls_at_once_after_notifications_were_lost(scene: Scene) -> None:
    claimer = scene.start()
    scene.until(10.0)
    claimer.notified(Wake(notifications_lost=True))
    assert scene.until(11.0)[0] == 10.0


@pytest.mark.parametrize("scene", [{"capacity": 3, "batch": 2}], indirect=True)
def test_without_capacity_it_does_not_poll(scene: Scene) -> None:
    for n in range(5):
        scene.put(f"ns/{n}", 0.0)
    scene.start()
    assert len(scene.until(10.0)) == 2
    assert scene.ownership.count == 3
    assert scene.until(50.0) == []
    scene.ownership.end(2)
    scene.poll_timer.freed(None, scene.ownership.count)
    assert scene.until(51.0)[0] == 50.0
    assert scene.ownership.count == 3


def test_a_full_batch_is_followed_by_another_at_once(scene: Scene) -> None:
    for n in range(1200):
        scene.put(f"ns/{n}", 0.0)
    scene.start()
    assert scene.until(0.5)[:3] == [0.0, 0.0, 0.0]
    assert scene.ownership.count == 1200


def put_of_no_tenant(scene: Scene, count: int) -> None:
    """Put due rows of a program that names no tenants."""
    slot = scene.world.store_clock() - SECOND
    rows = [desired(f"job-{n}", single_slot(slot), slot - 10**9) for n in range(count)]
    for row in rows:
        row.origin = Origin.LIBRARY
        at_once(scene.store.put([row], replace=False))


def test_the_next_claim_is_in_flight_while_rows_are_handed_over(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    put_of_no_tenant(scene, 1200)
    claim = scene.store.claim
    owned: list[int] = []

    async def slow(*args: Any, **options: Any) -> Batch:
        owned.append(scene.ownership.count)
        await asyncio.sleep(0.9)
        return await claim(*args, **options)

    monkeypatch.setattr(scene.store, "claim", slow)
    scene.start()
    scene.until(1.5)
    assert owned == [0, 0]
    assert scene.ownership.count == 500
    scene.until(2.9)
    assert owned[:3] == [0, 0, 500]
    assert scene.ownership.count == 1200


def test_beside_the_backlog_of_a_tenant_a_small_claim_follows_when_its_rows_are_handed_over(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a lone run of another tenant would be started behind the rows of several batches."""
    for n in range(1600):
        scene.put(f"hog/{n}", 0.0)
    claim, accept = scene.store.claim, scene.ownership.accept
    owned, sizes = list[int](), list[int]()

    async def recorded(*args: Any, **options: Any) -> Batch:
        owned.append(scene.ownership.count)
        batch = await claim(*args, **options)
        sizes.append(len(batch.rows))
        return batch

    def slowly(row: Row, deadline: float) -> None:
        scene.world.now += 0.4 * HAND_OVER_LIMIT  # so each batch takes many turns of the event loop
        accept(row, deadline)

    monkeypatch.setattr(scene.store, "claim", recorded)
    monkeypatch.setattr(scene.ownership, "accept", slowly)
    scene.start()
    scene.until(5.0)
    assert sizes[:6] == [scene.settings.batch, *[FAIR_BATCH] * 5]
    assert owned[:6] == [0, *(scene.settings.batch + n * FAIR_BATCH for n in range(5))]
    assert scene.ownership.count == 1600


def test_a_released_row_is_claimed_in_time(scene: Scene) -> None:
    scene.start()
    scene.until(10.0)
    scene.poll_timer.freed(scene.world.store_clock() + 20 * SECOND, scene.ownership.count)
    assert scene.until(40.0)[0] == pytest.approx(29.0, abs=0.01)


def test_claims_are_retried_with_growing_delays(scene: Scene) -> None:
    scene.store.away = True
    scene.start()
    polled_at = scene.until(60.0)
    gaps = [later - earlier for earlier, later in pairwise(polled_at)]
    assert gaps[0] <= 0.1
    assert all(2.4 <= gap <= 5.01 for gap in gaps[-5:])
    scene.store.away = False
    assert scene.until(67.0)


def test_after_an_outage_longer_than_a_lease_writes_come_before_claims(scene: Scene) -> None:
    scene.store.away = True
    scene.start()
    scene.until(30.0)
    scene.store.away = False
    first = scene.until(40.0)[0]
    assert first - scene.store.clock_reads[-1] == pytest.approx(1.0, abs=0.01)


def test_after_a_short_outage_claims_continue_at_once(scene: Scene) -> None:
    scene.store.away = True
    scene.start()
    scene.until(3.0)
    scene.store.away = False
    scene.until(10.0)
    assert scene.store.clock_reads == []


def test_after_a_long_silence_writes_come_before_claims(scene: Scene) -> None:
    """It is not known how long the store was unavailable before the first call that failed."""
    scene.start()
    scene.until(50.0)
    scene.store.away = True
    failed = scene.until(61.0)[0]
    scene.store.away = False
    first = scene.until(70.0)[0]
    assert first - scene.store.clock_reads[-1] == pytest.approx(1.0, abs=0.01)
    assert first - failed < 3


def test_a_late_claim_claims_nothing_and_is_repeated_after_the_writes(scene: Scene) -> None:
    """It counts as an outage, although the call was still waiting for its answer."""
    scene.start()
    scene.until(50.0)
    scene.put("ns/a", 0.0)
    scene.store.takes = 5.0
    scene.until(65.5)
    assert scene.ownership.count == 0
    scene.store.takes = 0.0
    assert scene.until(70.0)[0] == pytest.approx(66.0, abs=0.2)
    assert scene.ownership.count == 1


def test_it_polls_when_a_lease_of_another_replica_expires(scene: Scene) -> None:
    scene.put("ns/a", 0.0)
    batch = at_once(scene.store.claim("dead", ["job"], limit=1, ahead=0, lease=15 * SECOND))
    scene.start()
    assert scene.until(14.9)[0] == 0.0
    scene.until(15.2)
    assert [row.recovered for row in scene.ownership.rows] == [True]
    (row,) = batch.rows
    stale = Settlement(row.key, row.version, Disposition.RELEASE, row.state, None, 1)
    assert at_once(scene.store.settle("dead", [stale])) == [False]


# ---------------------------------------------------------------- more is due than fits


def counted(scene: Scene) -> Counter[str]:
    return Counter(map(tenant_of, scene.ownership.rows))


@pytest.mark.parametrize("scene", [{"batch": 100, "capacity": 400}], indirect=True)
def test_a_backlog_of_one_tenant_leaves_room_for_others(scene: Scene) -> None:
    """Its runs never end, and another tenant's run comes due later."""
    for n in range(1000):
        scene.put(f"hog/{n}", -3600.0)
    scene.start()
    scene.until(10.0)
    assert counted(scene) == {"hog": 350}
    scene.put("lone/a", 0.0)
    scene.claimer.notified(Wake(due=scene.world.store_clock()))
    scene.until(10.1)
    assert counted(scene) == {"hog": 350, "lone": 1}


@pytest.mark.parametrize("scene", [{"batch": 100, "capacity": 400}], indirect=True)
def test_a_saturated_tenant_does_not_make_the_replica_spin(scene: Scene) -> None:
    for n in range(1000):
        scene.put(f"hog/{n}", -3600.0)
    scene.put("lone/a", 300.0)
    scene.start()
    scene.until(10.0)
    assert len(scene.until(290.0)) <= 20
    scene.until(299.5)
    assert counted(scene)["lone"] == 1


@pytest.mark.parametrize("scene", [{"batch": 10, "capacity": 4096}], indirect=True)
def test_a_lone_run_is_in_the_next_claim_behind_any_backlog(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(1000):
        scene.put(f"hog/{n}", -3600.0)
    claim, sizes = scene.store.claim, list[Counter[str]]()

    async def recorded(*args: Any, **options: Any) -> Batch:
        if len(sizes) == 20:
            slot = scene.world.store_clock() - SECOND
            await scene.store.put([desired("lone/a", single_slot(slot), slot - 10**9)], replace=False)
        batch = await claim(*args, **options)
        sizes.append(Counter(map(tenant_of, batch.rows)))
        return batch

    monkeypatch.setattr(scene.store, "claim", recorded)
    scene.start()
    scene.until(5.0)
    assert [number for number, size in enumerate(sizes) if "lone" in size] == [20]
    assert counted(scene) == {"hog": 1000, "lone": 1}


@pytest.mark.parametrize(
    "scene", [{"batch": 30, "capacity": 930, "tenant_share": 1.0, "weights": {"a": 2.0}}], indirect=True
)
def test_tenants_with_a_backlog_get_shares_by_weight(scene: Scene) -> None:
    for n in range(1000):
        scene.put(f"a/{n}", -7200.0)
        scene.put(f"b/{n}", -3600.0)
    scene.start()
    scene.until(1.0)
    # The first batch was the soonest rows of all.
    assert counted(scene) == {"a": pytest.approx(30 + 600, abs=10), "b": pytest.approx(300, abs=10)}


@pytest.mark.parametrize("scene", [{"batch": 100, "capacity": 50}], indirect=True)
def test_what_ends_makes_room_for_what_waits(scene: Scene) -> None:
    for n in range(60):
        scene.put(f"a/{n}", -3600.0)
        scene.put(f"b/{n}", -1800.0)
    scene.start()
    scene.until(1.0)
    for _ in range(100):
        scene.ownership.end(20)
        scene.poll_timer.freed(None, scene.ownership.capacity.used)
        scene.until(scene.world.now + 1.0)
    assert scene.ownership.count == 0
    rows = at_once(scene.store.rows(limit=200))
    assert all(row.owner == "me" for row in rows)
    assert len(rows) == 120


@pytest.mark.parametrize("scene", [{"batch": 5, "capacity": 20}], indirect=True)
def test_a_program_that_names_no_tenants_has_all_of_its_capacity(scene: Scene) -> None:
    put_of_no_tenant(scene, 30)
    scene.start()
    scene.until(5.0)
    assert scene.ownership.count == 20


def test_rows_that_take_long_to_read_are_handed_over_in_several_turns_of_the_loop(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimer = scene.start()
    accept = scene.ownership.accept

    def slowly(row: Row, deadline: float) -> None:
        scene.world.now += 0.4 * HAND_OVER_LIMIT
        accept(row, deadline)

    monkeypatch.setattr(scene.ownership, "accept", slowly)
    rows = deque(cast("Row", SimpleNamespace(slug=f"team/{number}", origin=Origin.CLUSTER)) for number in range(10))
    expected = list(rows)
    claimer._arriving.append(rows)
    asyncio._set_running_loop(scene.machine.loop)
    try:
        claimer._hand_over(rows, 99.0)
    finally:
        asyncio._set_running_loop(None)
    assert len(scene.ownership.rows) == 3
    scene.machine.loop.run_ready()
    assert scene.ownership.rows == expected
    assert not claimer._arriving
