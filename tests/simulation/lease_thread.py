"""The lease thread of a simulated replica: the same pure steps, driven by the world's clock.

It continues while the replica's event loop is blocked, and stops with everything else while the replica is paused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scheduledjob.domain.time.instants import from_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.engine.clock import Clock
    from scheduledjob.engine.lease_thread import LeaseCallbacks
    from scheduledjob.engine.leases import Leases
    from scheduledjob.engine.store import Key, Renewal, Store

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

    @classmethod
    def on(cls, machine: Machine, distant: DistantStore) -> object:
        """Return the constructor of the lease thread that ``Replica`` expects."""

        def make(
            store: Store, replica: str, leases: Leases, clock: Clock, calls: LeaseCallbacks
        ) -> SimulatedLeaseThread:
            return cls(machine, distant, replica, leases, clock, calls)

        return make

    def start(self) -> None:
        self._tick()

    async def stop(self) -> None:
        self.stopped = True

    def _tick(self) -> None:
        if self.stopped or self.machine.dead:
            return
        self.machine.world.after(self.leases.tick, self._tick)
        if self.machine.paused:
            return
        now = self.clock()
        expired = self.leases.expired(now)
        if expired:
            self.machine.loop.call_soon(self.calls.expired, expired)
        due = [] if self.renewing else self.leases.to_renew(now)
        if due:
            self.renewing = True
            self.store.renew(
                self.replica, due, from_seconds(self.leases.length), lambda answer: self._answered(due, now, answer)
            )

    def _answered(self, due: Sequence[tuple[Key, int]], sent: float, answer: Renewal | Exception) -> None:
        if self.stopped or self.machine.dead:
            return
        if self.machine.paused:  # the answer waits in the socket until the process continues
            self.machine.world.after(0.05, lambda: self._answered(due, sent, answer))
            return
        self.renewing = False
        if isinstance(answer, Exception):
            return
        renewed = self.leases.renewed(due, answer, sent)
        if renewed.extended:
            self.calls.extend(renewed.extended, renewed.deadline)
        self.machine.loop.call_soon(self.calls.renewed, renewed)
