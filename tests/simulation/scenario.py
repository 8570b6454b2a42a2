"""What happens in one seed: replicas, schedules, edits, and faults; then time without faults, and a clean shutdown."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from scheduledjob.domain.schedule.state import RunRecord, State
from scheduledjob.domain.time.instants import SECOND
from scheduledjob.engine import hook_delivery
from scheduledjob.engine.executor import Result
from scheduledjob.engine.kinds import JobKind
from scheduledjob.engine.replica import Replica
from scheduledjob.engine.replica_settings import ReplicaHost, ReplicaPlatform, ReplicaSettings
from scheduledjob.stores.memory import MemoryDatabase, MemoryStore

from .backups import Backups
from .clients import Clients
from .history import DesiredState, History
from .lease_thread import SimulatedLeaseThread
from .network import DistantStore, Faults, Link, at_once
from .pods import Cluster, PodExecutor
from .processes import SimulatedExecutor
from .row_locks import RowLocks
from .troubles import TROUBLE, Troubles
from .world import Machine, World
from .zone_versions import RELEASES, SimulatedZoneData

if TYPE_CHECKING:
    from collections.abc import Callable

    from scheduledjob.domain.time.instants import Instant
    from scheduledjob.engine.executor import Attempt

PEACE = 75.0
"""Seconds without faults after that. Everything that has started must end in them."""
SETTLED = 30
"""Seconds after the faults from which rows are claimed in time."""
OVERDUE = 2 * SECOND
LONGEST_JOB = 6.0
HOOK_TIMES: dict[str, Any] = {
    "HOOK_LIMIT": 5.0,
    "HOOK_CLAIM": 8.0,
    "HOOK_FIRST_RETRY_DELAY": 0.5,
    "HOOK_LAST_RETRY_DELAY": 2.0,
    "HOOK_POLL_INTERVAL": 5.0,
}
"""Seconds: shorter than in production, so that everything ends within the time without faults."""


@dataclass(slots=True, eq=False)
class Running:
    machine: Machine
    replica: Replica
    executor: SimulatedExecutor
    task: asyncio.Task[None]


@dataclass(slots=True)
class Scenario:
    seed: int
    world: World = field(init=False)
    faults: Faults = field(init=False)
    locks: RowLocks = field(default_factory=RowLocks)
    database: MemoryDatabase = field(init=False)
    client: MemoryStore = field(init=False)
    cluster: Cluster = field(init=False)
    clients: Clients = field(init=False)
    trouble: Troubles = field(init=False)
    backups: Backups = field(init=False)
    replicas: int = 0
    zones: SimulatedZoneData = field(init=False)
    release: int = 0
    """The place in ``RELEASES`` of the zone data with which replicas start now."""
    zoned_states: dict[str, State] = field(default_factory=dict)
    hook_rng: random.Random = field(init=False)
    running: list[Running] = field(default_factory=list)
    desired_rows: list[DesiredState] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    started: int = 0
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.world = World(self.seed)
        self.zones = SimulatedZoneData(self.world.strikes)
        self.faults = Faults()
        self.database = MemoryDatabase(self.world.store_clock)
        self.client = MemoryStore(self.database)
        self.cluster = Cluster(self.world, fail=0.15, longest=LONGEST_JOB)
        self.clients = Clients(self)
        self.trouble = Troubles(self)
        self.backups = Backups(self)
        self.hook_rng = random.Random(self.seed)

    @property
    def rng(self) -> random.Random:
        return self.world.random

    def play(self) -> History:
        with patch.multiple(hook_delivery, spec=None, **HOOK_TIMES), self.zones.installed():
            return self._play()

    def _play(self) -> History:
        rng, world = self.rng, self.world
        self.settings = self.choose_settings()
        replicas = self.replicas = rng.randint(
            1 if self.settings["capacity"] > 3 else 2, 5
        )  # one with three places is overloaded
        for _ in range(replicas):
            self.start_replica()
        clients = self.clients
        for _ in range(rng.randint(8, 20)):
            world.at(rng.uniform(0, TROUBLE * 0.7), clients.make_schedule)
        for _ in range(rng.randint(0, 6)):
            world.at(rng.uniform(5, TROUBLE), clients.edit_or_delete)
        for _ in range(rng.randint(0, 25)):
            world.at(rng.uniform(2, TROUBLE), clients.make_request)
        for _ in range(rng.randint(2, 14)):
            world.at(rng.uniform(1, TROUBLE), rng.choice(self.troubles()))
        for _ in range(rng.randint(0, 25)):
            world.at(rng.uniform(2, TROUBLE), clients.schedule_anew)
        world.run_until(TROUBLE)
        self.make_peace(replicas)
        for desired in self.desired_rows:
            clients.reconcile(desired)
        trouble_ended = world.store_clock()
        if self.settings["capacity"] > 1000:
            for second in range(SETTLED, int(PEACE)):
                world.at(TROUBLE + second, self.look_for_overlooked_rows)
        world.at(TROUBLE + SETTLED, self.read_zoned_states)
        world.run_until(TROUBLE + PEACE)
        return self.end(trouble_ended)

    def choose_settings(self) -> dict[str, Any]:
        rng = self.rng
        return {
            "lease": rng.choice([5.0, 10.0, 15.0]),
            "capacity": rng.choice([3, 20, 4096]),
            "batch": rng.choice([2, 500]),
            "grace": rng.choice([0.0, 2.0, 8.0]),
            "heartbeat": rng.choice([5.0, 60.0]),
        }

    # ---------------------------------------------------------------- replicas

    def start_replica(self) -> None:
        if self.backups.down:
            return
        rng, world = self.rng, self.world
        self.started += 1
        machine = Machine(f"replica-{self.started}", rng.uniform(-1e5, 1e5), 1 + rng.uniform(-1e-4, 1e-4), world)
        machine.loop.zone_data = RELEASES[self.release]
        link = Link(world, machine, self.faults)
        store = DistantStore(self.database, self.locks, link)
        executor = SimulatedExecutor(world, machine, fail=0.15, longest=LONGEST_JOB)
        replica = Replica(
            store,
            {"job": JobKind("job", executor), "pod": JobKind("pod", PodExecutor(self.cluster, link), detached=True)},
            ReplicaSettings(**self.settings),
            ReplicaHost(
                name=machine.name,
                followers=lambda slug: [desired.slug for desired in self.desired_rows if desired.follows == slug],
                hook=lambda hook, attempt, record: self.call_hook(machine, attempt, record),
            ),
            ReplicaPlatform(
                monotonic=machine.monotonic,
                rng=random.Random(rng.random()),
                lease_thread=SimulatedLeaseThread.on(machine, store),  # type: ignore[arg-type]
            ),
        )
        world.machines.append(machine)
        running = Running(machine, replica, executor, machine.loop.create_task(replica.run()))
        self.running.append(running)
        world.log("replica", machine.name, detail="started")

    def troubles(self) -> list[Callable[[], None]]:
        return self.trouble.all()

    def alive(self) -> list[Running]:
        return [running for running in self.running if not running.machine.dead and not running.task.done()]

    def kill(self, running: Running) -> None:
        running.machine.dead = True
        self.world.machines.remove(running.machine)
        running.executor.replica_died(running.machine.active_until())
        self.faults.cut.discard(running.machine.name)

    def make_peace(self, replicas: int) -> None:
        self.trouble.end()
        for running in self.alive():
            if running.machine.loop.zone_data != RELEASES[self.release]:
                self.world.after(self.rng.uniform(0, 8), lambda running=running: self.trouble.replace(running))  # type: ignore[misc]  # mypy knows no default in a lambda
        while len(self.alive()) < replicas:
            self.start_replica()

    def read_zoned_states(self) -> None:
        """Remember the states of schedules in a time zone. By now all are planned by the newest data."""
        zoned = {desired.uid for desired in self.desired_rows if desired.expression}
        for row in at_once(self.client.rows(limit=10_000)):
            if row.uid in zoned:
                self.zoned_states[row.uid] = State.decode(row.state)

    def look_for_overlooked_rows(self) -> None:
        """Report rows that have been due for a while and that nobody claims, although every replica has room."""
        overdue = self.world.store_clock() - OVERDUE
        for row in at_once(self.client.rows(limit=10_000)):
            if row.wake_at is not None and row.wake_at < overdue:
                self.failures.append(f"overlooked: {row.slug} is due since {row.wake_at}, owner {row.owner}")

    async def call_hook(self, machine: Machine, attempt: Attempt, record: RunRecord) -> Result:
        """A hook, which may fail or take its time."""
        await asyncio.sleep(self.hook_rng.choice([0.0, 0.1, 2.0]))
        if self.hook_rng.random() < 0.2:
            return Result(False, "HTTP 503")
        self.world.log("hook", machine.name, uid=attempt.uid, run_id=record.run_id, detail=record.outcome.value)
        return Result(True)

    # ---------------------------------------------------------------- the end

    def end(self, trouble_ended: Instant) -> History:
        """Shut every replica down, and return the history."""
        world = self.world
        for running in self.alive():
            running.machine.loop.call_soon(running.replica.stop)
        world.run_until(world.now + 30)
        for running in self.running:
            for context in running.machine.loop.failures:
                self.failures.append(f"{running.machine.name}: {context.get('message')} {context.get('exception')!r}")
            if running.machine.dead:
                continue
            if not running.task.done():
                self.failures.append(f"{running.machine.name} did not end")
            elif not running.task.cancelled() and (error := running.task.exception()) is not None:
                self.failures.append(f"{running.machine.name} failed: {_deepest(error)!r}")
        rows = at_once(self.client.rows(limit=10_000))
        history = History(
            self.seed,
            list(world.events),
            self.desired_rows,
            at_once(self.client.history(limit=1_000_000)),
            {row.uid: State.decode(row.state) for row in rows},
            trouble_ended,
            world.store_clock(),
            self.failures,
            world.strikes,
            self.backups.restore if self.backups.restore is not None and self.backups.restore.restored_at else None,
            RELEASES[self.release],
            self.zoned_states,
        )
        self._close_loops()
        return history

    def _close_loops(self) -> None:
        """Cancel the tasks of dead replicas, so that Python does not report them as pending."""
        for running in self.running:
            loop = running.machine.loop
            for _ in range(20):
                tasks = asyncio.all_tasks(loop)
                if not tasks:
                    break
                for task in tasks:
                    task.cancel()
                loop.run_ready()
            loop.close()


def _deepest(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def play(seed: int) -> History:
    """Return the history of a seed, which is the same each time."""
    return Scenario(seed).play()
