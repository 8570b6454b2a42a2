"""The lease thread of a simulated replica: the same pure steps, driven by the world's clock.

It continues while the replica's event loop is blocked, and stops with everything else while the replica is paused. It
may die. Until it starts again, a guard in the replica's event loop fences in its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scheduledjob.domain.time.instants import from_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.engine.clock import Clock
    from scheduledjob.engine.lease_thread import LeaseCallbacks
    from scheduledjob.engine.leases import Leases
    from scheduledjob.engine.store import Renewal, Store
    from scheduledjob.engine.stored_row import Key

    from .network import DistantStore
    from .world import Machine


class SimulatedLeaseThread:
    def __init__(
        self, machine: Machine, store: DistantStore, replica: str, leases: Leases, clock: Clock, calls: LeaseCallbacks
    ) -> None:
        self.machine = machine
        self.store = store
        self.replica = replica
        self.leases = leases
        self.clock = clock
        self.calls = calls
        self.stopped = False
        self.renewing = False
        self.life = 0
        """Raised when the thread dies: what it had sent before is never answered."""
        self.watched_at = 0.0
        machine.lease_thread = self

    @classmethod
    def on(cls, machine: Machine, distant: DistantStore) -> object:
        """Return the constructor of the lease thread that ``Replica`` expects."""

        def make(
            store: Store, replica: str, leases: Leases, clock: Clock, calls: LeaseCallbacks
        ) -> SimulatedLeaseThread:
            return cls(machine, distant, replica, leases, clock, calls)

        return make

    def start(self) -> None:
        self.watched_at = self.clock()
        self._tick(self.life)
        self._guard()

    def die(self, seconds: float) -> None:
        """Die, and start again after so many seconds."""
        self.life += 1
        self.renewing = False
        life = self.life
        self.machine.world.after(seconds, lambda: self.restart(life))

    def restart(self, life: int) -> None:
        self._tick(life)

    async def stop(self) -> None:
        self.stopped = True

    def _has_ended(self, life: int) -> bool:
        return self.stopped or self.machine.dead or life != self.life

    def _tick(self, life: int) -> None:
        if self._has_ended(life):
            return
        self.machine.world.after(self.leases.tick, lambda: self._tick(life))
        if self.machine.stopped:
            return
        now = self.watched_at = self.clock()
        self._watch()
        due = [] if self.renewing else self.leases.to_renew(now)
        if due:
            self._renew(due, now, life)

    def _watch(self) -> bool:
        """Report leases that are about to expire. Return whether there were any."""
        expired = self.leases.expired(self.clock())
        if expired:
            self.machine.loop.call_soon(self.calls.expired, expired)
        return bool(expired)

    def _guard(self) -> None:
        """Fence while the thread does not watch."""
        if self.stopped or self.machine.dead:
            return
        self.machine.world.after(self.leases.tick, self._guard)
        if self.machine.runs and self.clock() - self.watched_at > 3 * self.leases.tick and self._watch():
            self.machine.world.strikes.effect("lease thread dies: fenced in its place")

    def _renew(self, due: Sequence[tuple[Key, int]], sent: float, life: int) -> None:
        answered = False

        def answer(value: Renewal | Exception) -> None:
            nonlocal answered
            if answered or self._has_ended(life):
                return
            if self.machine.stopped:  # the answer waits in the socket until the process continues
                self.machine.world.after(0.05, lambda: answer(value))
                return
            answered = True
            self.renewing = False
            self._answered(due, sent, value)

        self.renewing = True
        self.store.renew(self.replica, due, from_seconds(self.leases.length), answer)
        self.machine.world.after(self.leases.length / 3, lambda: answer(TimeoutError()))

    def _answered(self, due: Sequence[tuple[Key, int]], sent: float, answer: Renewal | Exception) -> None:
        if isinstance(answer, Exception):
            return
        renewed = self.leases.renewed(due, answer, sent)
        if renewed.extended:
            self.calls.extend(renewed.extended, renewed.deadline)
        self.machine.loop.call_soon(self.calls.renewed, renewed)
