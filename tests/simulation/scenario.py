"""What happens in one seed: replicas, schedules, edits, and faults; then time without faults, and a clean shutdown."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from scheduledjob.domain.schedule.backoff import Backoff, Exponential, Fixed
from scheduledjob.domain.schedule.definition import CatchUp, Concurrency, Definition, Keep, Misfire
from scheduledjob.domain.schedule.machine import first_state
from scheduledjob.domain.schedule.plan import Plan, slots_of
from scheduledjob.domain.schedule.requests import NO_REQUESTS, Requests
from scheduledjob.domain.schedule.state import RunRecord, State
from scheduledjob.domain.time.instants import DAY, SECOND, Instant
from scheduledjob.domain.triggers.every import EveryTrigger
from scheduledjob.domain.triggers.following import FollowingTrigger
from scheduledjob.engine import hook_delivery
from scheduledjob.engine.executor import Result
from scheduledjob.engine.kinds import JobKind
from scheduledjob.engine.replica import Replica
from scheduledjob.engine.replica_settings import ReplicaHost, ReplicaPlatform, ReplicaSettings
from scheduledjob.engine.stored_row import NewRow, Origin
from scheduledjob.stores.memory import MemoryDatabase, MemoryStore

from .lease_thread import SimulatedLeaseThread
from .network import DistantStore, Faults, Link, at_once
from .pods import Cluster, PodExecutor
from .processes import SimulatedExecutor
from .row_locks import RowLocks
from .world import Event, Machine, World

if TYPE_CHECKING:
    from scheduledjob.domain.triggers.registry import Trigger
    from scheduledjob.engine.executor import Attempt

TROUBLE = 60.0
"""Seconds in which faults happen."""
PEACE = 75.0
"""Seconds without faults after that. Everything that has started must end in them."""
SETTLED = 30
"""Seconds after the faults from which rows are claimed in time."""
OVERDUE = 2 * SECOND
LONGEST_JOB = 6.0
BACKOFFS: list[Backoff] = [Exponential(0.5, 4.0, 2.0, 3), Fixed([0.2, 1.0]), Exponential(1.0, 1.0, 1.0, 0)]
ALL = Keep(10**6, 10**6, 365 * DAY)
HOOKS = ({"url": "http://hook"},)
HOOK_TIMES: dict[str, Any] = {
    "HOOK_LIMIT": 5.0,
    "HOOK_CLAIM": 8.0,
    "HOOK_FIRST_RETRY_DELAY": 0.5,
    "HOOK_LAST_RETRY_DELAY": 2.0,
    "HOOK_POLL_INTERVAL": 5.0,
}
"""Seconds: shorter than in production, so that everything ends within the time without faults."""


@dataclass(slots=True)
class DesiredState:
    """One schedule that the scenario made, for the checker."""

    slug: str
    uid: str
    definition: Definition
    created: Instant
    first: Instant | None
    edited: bool = False
    deleted: bool = False
    resumed: bool = False
    generation: int = 0
    """0: it is not an object in a cluster."""
    requests: list[Requests] = field(default_factory=list)
    """The manual requests on the object, oldest first."""
    named: int = 0
    """How often a client has named another slot, with this number as the payload."""

    @property
    def detached(self) -> bool:
        return self.definition.kind == "pod"

    @property
    def follows(self) -> str:
        """The slug of the schedule that it follows; empty if it follows none."""
        (trigger,) = self.definition.triggers or (None,)
        return f"default/{trigger.name}" if isinstance(trigger, FollowingTrigger) else ""


@dataclass(slots=True)
class History:
    """Everything that the checker sees."""

    seed: int
    events: list[Event]
    desired_rows: list[DesiredState]
    records: list[RunRecord]
    states: dict[str, State]
    """The states of the schedules that exist at the end, by uid."""
    trouble_ended: Instant
    ended: Instant
    failures: list[str]


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
    hook_rng: random.Random = field(init=False)
    running: list[Running] = field(default_factory=list)
    desired_rows: list[DesiredState] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    started: int = 0
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.world = World(self.seed)
        self.faults = Faults()
        self.database = MemoryDatabase(self.world.store_clock)
        self.client = MemoryStore(self.database)
        self.cluster = Cluster(self.world, fail=0.15, longest=LONGEST_JOB)
        self.hook_rng = random.Random(self.seed)

    @property
    def rng(self) -> random.Random:
        return self.world.random

    def play(self) -> History:
        with patch.multiple(hook_delivery, spec=None, **HOOK_TIMES):
            return self._play()

    def _play(self) -> History:
        rng, world = self.rng, self.world
        self.settings = self.choose_settings()
        replicas = rng.randint(1 if self.settings["capacity"] > 3 else 2, 5)  # one with three places is overloaded
        for _ in range(replicas):
            self.start_replica()
        for _ in range(rng.randint(8, 20)):
            world.at(rng.uniform(0, TROUBLE * 0.7), self.make_schedule)
        for _ in range(rng.randint(0, 6)):
            world.at(rng.uniform(5, TROUBLE), self.edit_or_delete)
        for _ in range(rng.randint(0, 25)):
            world.at(rng.uniform(2, TROUBLE), self.make_request)
        for _ in range(rng.randint(2, 14)):
            world.at(rng.uniform(1, TROUBLE), rng.choice(self.troubles()))
        for _ in range(rng.randint(0, 25)):
            world.at(rng.uniform(2, TROUBLE), self.schedule_anew)
        world.run_until(TROUBLE)
        self.make_peace(replicas)
        for desired in self.desired_rows:
            self.reconcile(desired)
        trouble_ended = world.store_clock()
        if self.settings["capacity"] > 1000:
            for second in range(SETTLED, int(PEACE)):
                world.at(TROUBLE + second, self.look_for_overlooked_rows)
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
        rng, world = self.rng, self.world
        self.started += 1
        machine = Machine(f"replica-{self.started}", rng.uniform(-1e5, 1e5), 1 + rng.uniform(-1e-4, 1e-4), world)
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

    def alive(self) -> list[Running]:
        return [running for running in self.running if not running.machine.dead and not running.task.done()]

    def kill(self, running: Running) -> None:
        self.world.log("replica", running.machine.name, detail="killed")
        running.machine.dead = True
        self.world.machines.remove(running.machine)
        running.executor.replica_died(running.machine.active_until())
        self.faults.cut.discard(running.machine.name)

    # ---------------------------------------------------------------- what goes wrong

    def troubles(self) -> list[Any]:
        return [
            self.crash,
            self.crash,
            self.pause,
            self.block,
            self.cut,
            self.bad_network,
            self.restart,
            self.store_stands_still,
            self.hold_back,
            self.answers_are_late,
            self.lock_rows,
            self.suspend,
            self.lease_thread_dies,
        ]

    def crash(self) -> None:
        if alive := self.alive():
            self.kill(self.rng.choice(alive))
            self.world.after(self.rng.uniform(0, 10), self.start_replica)

    def pause(self) -> None:
        if alive := self.alive():
            running = self.rng.choice(alive)
            self._flag_for(running, "paused", self.rng.choice([0.5, 4.0, 12.0, 25.0, 40.0]))

    def block(self) -> None:
        if alive := self.alive():
            self._flag_for(self.rng.choice(alive), "blocked", self.rng.choice([0.5, 5.0, 20.0, 90.0]))

    def _flag_for(self, running: Running, flag: str, seconds: float) -> None:
        self.world.log("replica", running.machine.name, detail=f"{flag} for {seconds} s")
        setattr(running.machine, flag, True)
        self.world.after(seconds, lambda: setattr(running.machine, flag, False))

    def cut(self) -> None:
        if alive := self.alive():
            name = self.rng.choice(alive).machine.name
            seconds = self.rng.choice([1.0, 6.0, 20.0])
            self.world.log("replica", name, detail=f"cut off for {seconds} s")
            self.faults.cut.add(name)
            self.world.after(seconds, lambda: self.faults.cut.discard(name))

    def store_stands_still(self) -> None:
        """No call is carried out for a while, and then all of them at once."""
        self._hold_back([running.machine.name for running in self.alive()])

    def hold_back(self) -> None:
        """The calls of one replica are held back on their way, and arrive when nobody waits for them any more."""
        if alive := self.alive():
            self._hold_back([self.rng.choice(alive).machine.name])

    def _hold_back(self, names: list[str]) -> None:
        seconds = self.rng.choice([0.5, 3.0, 12.0, 25.0])
        self.world.log("network", "", detail=f"{' '.join(names)} held back for {seconds} s")
        self.faults.hold_back(names)
        self.world.after(seconds, self._let_through)

    def _let_through(self) -> None:
        for carry_out in self.faults.let_through():
            self.world.after(self.rng.uniform(0, 0.005), carry_out)

    def lock_rows(self) -> None:
        """A client locks some rows and stands still."""
        keys = [row.key for row in at_once(self.client.rows(limit=10_000))]
        if keys:
            some = self.rng.sample(keys, self.rng.choice([1, len(keys)]))
            seconds = self.rng.choice([0.5, 3.0, 12.0, 25.0])
            self.world.log("client", "", detail=f"locks {len(some)} rows for {seconds} s")
            self.locks.take(some)
            self.world.after(seconds, lambda: self.locks.release(some))

    def suspend(self) -> None:
        """A machine is suspended, with the processes on it."""
        if awake := [running for running in self.alive() if not running.machine.suspended]:
            running = self.rng.choice(awake)
            seconds = self.rng.choice([0.3, 4.0, 12.0, 40.0])
            self.world.log("replica", running.machine.name, detail=f"suspended for {seconds} s")
            running.machine.suspend()
            self.world.at(min(self.world.now + seconds, TROUBLE), lambda: self.wake(running))

    def wake(self, running: Running) -> None:
        machine = running.machine
        if machine.suspended and not machine.dead:
            suspended_at = machine.active_until()
            machine.wake()
            running.executor.machine_woke(suspended_at)

    def lease_thread_dies(self) -> None:
        if alive := [running for running in self.alive() if running.machine.lease_thread is not None]:
            running = self.rng.choice(alive)
            seconds = self.rng.choice([0.1, 3.0, 12.0])
            self.world.log("replica", running.machine.name, detail=f"has no lease thread for {seconds} s")
            assert running.machine.lease_thread is not None
            running.machine.lease_thread.die(seconds)

    def bad_network(self) -> None:
        rng, faults = self.rng, self.faults
        faults.latency = rng.choice([0.002, 0.02, 0.2])
        faults.lose_request = rng.choice([0.0, 0.05, 0.3])
        faults.lose_reply = rng.choice([0.0, 0.05, 0.3])
        faults.late_reply = rng.choice([0.0, 0.0, 0.05, 0.3])
        faults.lose_wake = rng.choice([0.0, 0.5])
        shares = f"{faults.lose_request} {faults.lose_reply} {faults.late_reply}"
        self.world.log("network", "", detail=f"{faults.latency} {shares}")
        self.world.after(rng.uniform(1, 15), faults.heal)

    def answers_are_late(self) -> None:
        """Many answers arrive after seconds, although the call was carried out at once."""
        rng, faults = self.rng, self.faults
        faults.late_reply = rng.choice([0.3, 0.8])
        self.world.log("network", "", detail=f"late answers: {faults.late_reply}")
        self.world.after(rng.uniform(5, 15), faults.heal)

    def restart(self) -> None:
        """A rolling update: one replica shuts down while another starts."""
        if alive := self.alive():
            running = self.rng.choice(alive)
            self.world.log("replica", running.machine.name, detail="shuts down")
            running.machine.loop.call_soon(running.replica.stop)
            self.world.after(self.rng.uniform(0, 3), self.start_replica)

    def make_peace(self, replicas: int) -> None:
        self.faults.heal()
        self.faults.cut.clear()
        self._let_through()
        for running in self.running:
            self.wake(running)
            running.machine.paused = running.machine.blocked = False
        while len(self.alive()) < replicas:
            self.start_replica()

    def look_for_overlooked_rows(self) -> None:
        """Report rows that have been due for a while and that nobody claims, although every replica has room."""
        overdue = self.world.store_clock() - OVERDUE
        for row in at_once(self.client.rows(limit=10_000)):
            if row.wake_at is not None and row.wake_at < overdue:
                self.failures.append(f"overlooked: {row.slug} is due since {row.wake_at}, owner {row.owner}")

    # ---------------------------------------------------------------- schedules

    def make_schedule(self) -> None:
        rng, now = self.rng, self.world.store_clock()
        number = len(self.desired_rows)
        retry: Backoff = rng.choice(BACKOFFS)
        if rng.random() < 0.35:
            definition = Definition(kind="job", retry=retry, keep=ALL, on_failure=HOOKS)
            first: Instant | None = now + int(rng.uniform(-2, 20) * SECOND)
            slug = f"once-{number}"
        else:
            definition = self.recurring(retry)
            first, slug = None, f"default/job-{number}"
        desired = DesiredState(slug, f"uid{number}", definition, now, first)
        self.desired_rows.append(desired)
        if first is None:
            desired.generation = 1
            self.reconcile(desired)
        else:
            at_once(self.client.put([self.row_of(desired, Origin.LIBRARY)], replace=False))

    def schedule_anew(self) -> None:
        """A client names another slot of a one-shot that has not ended, which may be running."""
        left = [desired for desired in self.desired_rows if desired.first is not None and not desired.deleted]
        if not left:
            return
        desired = self.rng.choice(left)
        if at_once(self.client.get([desired.slug])) == [None]:
            return
        desired.named += 1
        row = self.row_of(desired, Origin.LIBRARY)
        row.first = self.world.store_clock() + int(self.rng.uniform(0, 5) * SECOND)
        row.payload = b"%d" % desired.named
        self.world.log("named", "", uid=desired.uid, slot=row.first, detail=str(desired.named))
        at_once(self.client.put([row], replace=True))

    async def call_hook(self, machine: Machine, attempt: Attempt, record: RunRecord) -> Result:
        """A hook, which may fail or take its time."""
        await asyncio.sleep(self.hook_rng.choice([0.0, 0.1, 2.0]))
        if self.hook_rng.random() < 0.2:
            return Result(False, "HTTP 503")
        self.world.log("hook", machine.name, uid=attempt.uid, run_id=record.run_id, detail=record.outcome.value)
        return Result(True)

    def row_of(self, desired: DesiredState, origin: Origin, requests: Requests = NO_REQUESTS) -> NewRow:
        definition, slug, created = desired.definition, desired.slug, desired.created
        slots = slots_of(Plan(definition), seed=slug, created=created)
        state = first_state(definition, slots, desired.uid, created, desired.first, detached=desired.detached)
        state.generation = desired.generation
        wake = state.next.due if state.next else created
        return NewRow(
            slug=slug,
            uid=desired.uid,
            kind=definition.kind,
            origin=origin,
            definition=definition.encode(),
            state=state.encode(),
            wake_at=wake,
            first=desired.first,
            payload=None,
            created_at=created,
            generation=desired.generation,
            requests=requests.encode(),
        )

    def reconcile(self, desired: DesiredState, requests: Requests | None = None) -> None:
        """Reconcile the object with its requests of now, or with those of an earlier time."""
        if desired.generation and not desired.deleted:
            requests = requests or (desired.requests[-1] if desired.requests else NO_REQUESTS)
            at_once(self.client.reconcile([self.row_of(desired, Origin.CLUSTER, requests)]))

    def recurring(self, retry: Backoff) -> Definition:
        rng = self.rng
        concurrency = rng.choice([Concurrency.FORBID, Concurrency.FORBID, *Concurrency])
        catch_up = rng.choice(list(CatchUp))
        upstream = [desired.slug.partition("/")[2] for desired in self.desired_rows if desired.generation]
        trigger: Trigger = EveryTrigger(rng.choice([1, 2, 3, 5, 11]) * SECOND)
        limit = rng.choice([None, None, None, 7])
        if upstream and rng.random() < 0.25:
            trigger = FollowingTrigger(rng.choice(upstream), rng.choice(["Succeeded", "Succeeded", "Failed"]))
            limit = None
        return Definition(
            kind=rng.choice(["job", "job", "pod"]),
            triggers=(trigger,),
            concurrency=concurrency,
            max_concurrent=rng.choice([None, 2]) if concurrency is Concurrency.ALLOW else None,
            queue_depth=rng.choice([1, 3]),
            misfire=Misfire(catch_up, 3, rng.choice([None, 4 * SECOND])),
            max_runs=limit,
            jitter=rng.choice([0, 0, 2 * SECOND]),
            retry=retry,
            on_failure=HOOKS,
            pause_after_failures=rng.choice([0, 0, 0, 2]),
            keep=ALL,
        )

    def make_request(self) -> None:
        """Make a manual request. Another replica may reconcile the object as it was before."""
        rng = self.rng
        left = [desired for desired in self.desired_rows if desired.generation and not desired.deleted]
        if not left:
            return
        desired = rng.choice(left)
        values = dict.fromkeys(("run", "cancel", "resume"), "")
        if desired.requests:
            values = {name: getattr(desired.requests[-1], name) for name in values}
        what = rng.choice(["run", "run", "cancel", "cancel", "resume"])
        values[what] = f"{what}-{len(desired.requests)}"
        if what == "cancel":
            begun = [event.run_id for event in self.world.events if event.kind == "start" and event.uid == desired.uid]
            values[what] = begun[-1] if begun else "nothing"
        desired.resumed |= what == "resume"
        payload = b"by hand" if what == "run" else None
        made = Requests(run=values["run"], payload=payload, cancel=values["cancel"], resume=values["resume"])
        desired.requests.append(made)
        self.world.log("request", "", uid=desired.uid, detail=f"{what} {values[what]}")
        self.reconcile(desired)
        if rng.random() < 0.3:
            old = rng.choice(desired.requests)
            self.world.after(rng.uniform(0, 3), lambda: self.reconcile(desired, old))
            self.world.after(rng.uniform(3, 6), lambda: self.reconcile(desired))

    def edit_or_delete(self) -> None:
        left = [desired for desired in self.desired_rows if not desired.deleted]
        if not left:
            return
        desired = self.rng.choice(left)
        if self.rng.random() < 0.4:
            desired.deleted = True
            self.world.log("deleted", "", uid=desired.uid)
            if desired.generation:
                at_once(self.client.tombstone([(desired.slug, desired.uid)]))
            else:
                at_once(self.client.delete([desired.slug]))
            self.cluster.owner_deleted(desired.uid)
            return
        if not desired.generation:
            return
        desired.edited = True
        every = EveryTrigger(self.rng.choice([2, 4, 7]) * SECOND)
        options: list[dict[str, Any]] = [{"suspend": True}, {"suspend": False}, {"triggers": (every,)}, {"job": 1}]
        changes = self.rng.choice(options)
        values = {name: getattr(desired.definition, name) for name in desired.definition.__struct_fields__} | changes
        desired.definition = Definition(**values)
        desired.generation += 1
        self.world.log("edited", "", uid=desired.uid, detail=str(changes))
        self.reconcile(desired)

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
