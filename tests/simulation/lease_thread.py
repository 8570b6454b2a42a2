"""The lease thread of a simulated replica: the same pure step, driven by the world.

It goes on while the replica's event loop is blocked, and stands still with everything else while it is paused.
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
        """What ``Replica`` wants as its keeper's constructor."""

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
        asked = [] if self.renewing else self.leases.to_renew(now)
        if asked:
            self.renewing = True
            self.store.renew(
                self.replica, asked, from_seconds(self.leases.length), lambda answer: self._answered(asked, now, answer)
            )

    def _answered(self, asked: Sequence[tuple[Key, int]], sent: float, answer: Renewal | Exception) -> None:
        if self.stopped or self.machine.dead:
            return
        if self.machine.paused:  # it lies in a socket until the process goes on
            self.machine.world.after(0.05, lambda: self._answered(asked, sent, answer))
            return
        self.renewing = False
        if isinstance(answer, Exception):
            return
        renewed = self.leases.renewed(asked, answer, sent)
        if renewed.extended:
            self.calls.extend(renewed.extended, renewed.deadline)
        self.machine.loop.call_soon(self.calls.renewed, renewed)
