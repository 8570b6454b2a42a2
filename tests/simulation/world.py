"""The world: one clock, a queue of future events, and the replicas.

Time is in seconds from the start of the world; the store's clock is a fixed epoch later. Each replica has a boot
clock of its own, with another zero and a slightly different rate. Everything random comes from the generator of the
seed, and events of the same time happen in the order in which they were scheduled, so a seed replays exactly.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

from scheduledjob.domain.time.instants import SECOND, Instant

from .loop import VirtualLoop
from .strikes import Strikes

if TYPE_CHECKING:
    from collections.abc import Callable

    from scheduledjob.engine.stored_row import Row

    from .lease_thread import SimulatedLeaseThread

EPOCH: Instant = 1_790_000_000 * SECOND

LONGEST_LEASE = 15.0
"""Seconds."""


@dataclass(slots=True)
class Event:
    """Something that the checker uses, or that helps to understand a seed."""

    at: Instant
    kind: str
    replica: str
    uid: str = ""
    run_id: str = ""
    slot: Instant = 0
    attempt: int = 0
    version: int = 0
    detail: str = ""
    process: int = 0


@dataclass(slots=True, eq=False)
class Machine:
    """The machine of one replica: its clocks, its event loop, and whether it runs, is paused, or is dead."""

    name: str
    offset: float
    rate: float
    world: World
    loop: VirtualLoop = field(init=False)
    paused: bool = False
    blocked: bool = False
    """A Python job blocks the event loop; the lease thread continues."""
    suspended_at: float | None = None
    """When the machine was suspended, with all its processes; None: it is not."""
    slept: float = 0.0
    """Seconds of the suspensions that are over."""
    lease_thread: SimulatedLeaseThread | None = None
    dead: bool = False

    def __post_init__(self) -> None:
        self.loop = VirtualLoop(self.loop_time)

    def monotonic(self) -> float:
        """Return the boot clock, which counts the time that the machine was suspended."""
        return self.offset + self.world.now * self.rate

    def loop_time(self) -> float:
        """Return the clock of the event loop, which stands still while the machine is suspended."""
        return self.offset + (self.world.now - self.slept) * self.rate

    def global_time(self, monotonic: float) -> float:
        return (monotonic - self.offset) / self.rate

    @property
    def suspended(self) -> bool:
        return self.suspended_at is not None

    @property
    def stopped(self) -> bool:
        """No thread of the replica runs."""
        return self.paused or self.suspended

    @property
    def runs(self) -> bool:
        return not (self.dead or self.paused or self.blocked or self.suspended_at is not None)

    def active_until(self) -> Instant:
        """Return now, or when the machine was suspended."""
        world = self.world
        return EPOCH + int((world.now if self.suspended_at is None else self.suspended_at) * SECOND)

    def suspend(self) -> None:
        self.suspended_at = self.world.now

    def wake(self) -> None:
        assert self.suspended_at is not None
        self.slept += self.world.now - self.suspended_at
        self.suspended_at = None


class World:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.machines: list[Machine] = []
        self.events: list[Event] = []
        self.strikes = Strikes()
        self._faults: dict[str, dict[str, float]] = {}
        """By replica: which faults it has, or had until when."""
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self.numbers = count(1)
        """Numbers of processes."""

    def store_clock(self) -> Instant:
        return EPOCH + int(self.now * SECOND)

    def at(self, moment: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (max(moment, self.now), next(self._order), action))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        self.at(self.now + seconds, action)

    def log(self, kind: str, replica: str, *, at: Instant | None = None, **details: object) -> None:
        """Add an event that happens now, or happened ``at`` that instant."""
        self.events.append(Event(self.store_clock() if at is None else at, kind, replica, **details))  # type: ignore[arg-type]

    def afflict(self, replica: str, fault: str, seconds: float, detail: str = "") -> None:
        """A fault strikes one replica for so many seconds."""
        self.log("replica", replica, detail=detail or f"{fault} for {seconds} s")
        self.strikes.strike(fault)
        self._faults.setdefault(replica, {})[fault] = self.now + seconds

    def recovered(self, row: Row, owner: str) -> None:
        """A replica has claimed a row because the lease of its owner had ended."""
        for fault, until in self._faults.get(owner, {}).items():
            if self.now < until + LONGEST_LEASE:
                self.strikes.effect(f"{fault}: another replica recovered a row")
        if (row.key, row.version - 1) in self.strikes.unknown_claims:
            self.strikes.effect("lost answer: a claimed row waited for its lease to end")

    def run_until(self, end: float) -> None:
        """Let everything happen until ``end``."""
        while True:
            for machine in self.machines:
                if machine.runs and machine.loop.has_work():
                    machine.loop.run_ready()
            moment = self._next()
            if moment is None or moment > end:
                self.now = max(self.now, end)
                return
            self.now = max(self.now, moment)
            while self._queue and self._queue[0][0] <= self.now:
                heapq.heappop(self._queue)[2]()

    def _next(self) -> float | None:
        soonest = self._queue[0][0] if self._queue else None
        for machine in self.machines:
            if machine.runs and (timer := machine.loop.next_timer()) is not None:
                # Slightly later, so that rounding between two clocks does not make a due timer look early.
                moment = max(self.now, (timer - machine.offset) / machine.rate + machine.slept + 1e-7)
                if soonest is None or moment < soonest:
                    soonest = moment
        return soonest
