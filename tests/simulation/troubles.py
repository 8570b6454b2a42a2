"""Troubles: what goes wrong in a scenario, by the seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .network import at_once
from .zone_versions import RELEASES

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from .network import Faults
    from .scenario import Running, Scenario
    from .world import World

TROUBLE = 60.0
"""Seconds in which faults happen."""
LONG = 30.0
"""Seconds from which rows count as locked for long."""


class Troubles:
    """Faults of the replicas, of the network, and of clients."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario

    @property
    def world(self) -> World:
        return self.scenario.world

    @property
    def rng(self) -> random.Random:
        return self.scenario.world.random

    @property
    def faults(self) -> Faults:
        return self.scenario.faults

    def all(self) -> list[Callable[[], None]]:
        """Return what may go wrong. A trouble that is listed twice is twice as likely."""
        return [
            self.crash,
            self.crash,
            self.pause,
            self.block,
            self.cut,
            self.bad_network,
            self.restart,
            self.update_zones,
            self.store_stands_still,
            self.hold_back,
            self.answers_are_late,
            self.lose_answers_of_one_kind,
            self.lock_rows,
            self.scenario.backups.take,
            self.suspend,
            self.lease_thread_dies,
        ]

    def _any_replica(self) -> Running | None:
        alive = self.scenario.alive()
        return self.rng.choice(alive) if alive else None

    # ---------------------------------------------------------------- replicas

    def crash(self) -> None:
        if running := self._any_replica():
            self.world.afflict(running.machine.name, "crash", 0.0, "killed")
            self.scenario.kill(running)
            self.world.after(self.rng.uniform(0, 10), self.scenario.start_replica)

    def pause(self) -> None:
        if running := self._any_replica():
            machine, seconds = running.machine, self.rng.choice([0.5, 4.0, 12.0, 25.0, 40.0])
            self.world.afflict(machine.name, "pause", seconds)
            machine.paused = True
            self.world.after(seconds, lambda: setattr(machine, "paused", False))

    def block(self) -> None:
        if running := self._any_replica():
            machine, seconds = running.machine, self.rng.choice([0.5, 5.0, 20.0, 90.0])
            self.world.afflict(machine.name, "block", seconds)
            machine.blocked = True

            def unblock() -> None:
                if machine.blocked and machine.loop.has_work():
                    self.world.strikes.effect("block: a timer was late")
                machine.blocked = False

            self.world.after(seconds, unblock)

    def suspend(self) -> None:
        """A machine is suspended, with the processes on it."""
        if awake := [running for running in self.scenario.alive() if not running.machine.suspended]:
            running, seconds = self.rng.choice(awake), self.rng.choice([0.3, 4.0, 12.0, 40.0])
            self.world.afflict(running.machine.name, "suspend", seconds)
            running.machine.suspend()
            self.world.at(min(self.world.now + seconds, TROUBLE), lambda: self.wake(running))

    @staticmethod
    def wake(running: Running) -> None:
        machine = running.machine
        if machine.suspended and not machine.dead:
            suspended_at = machine.active_until()
            machine.wake()
            running.executor.machine_woke(suspended_at)

    def lease_thread_dies(self) -> None:
        if alive := [running for running in self.scenario.alive() if running.machine.lease_thread is not None]:
            running, seconds = self.rng.choice(alive), self.rng.choice([0.1, 3.0, 12.0])
            self.world.afflict(running.machine.name, "lease thread dies", seconds)
            assert running.machine.lease_thread is not None
            running.machine.lease_thread.die(seconds)

    def restart(self) -> None:
        """A rolling update: one replica shuts down while another starts."""
        if running := self._any_replica():
            self.replace(running)

    def replace(self, running: Running) -> None:
        self.world.afflict(running.machine.name, "restart", 0.0, "shuts down")
        running.machine.loop.call_soon(running.replica.stop)
        self.world.after(self.rng.uniform(0, 3), self.scenario.start_replica)

    def update_zones(self) -> None:
        """Start replicas with newer zone data from now on. Some of the others are replaced, one after the other."""
        scenario = self.scenario
        if scenario.release + 1 < len(RELEASES):
            scenario.release += 1
            self.world.log("zones", "", detail=RELEASES[scenario.release])
            self.world.strikes.strike("update zones")
            for running in scenario.alive():
                if self.rng.random() < 0.5:
                    self.world.after(self.rng.uniform(0, 20), lambda running=running: self._replace_living(running))  # type: ignore[misc]  # mypy knows no default in a lambda

    def _replace_living(self, running: Running) -> None:
        if running in self.scenario.alive():
            self.replace(running)

    # ---------------------------------------------------------------- the network

    def cut(self) -> None:
        if running := self._any_replica():
            name, seconds = running.machine.name, self.rng.choice([1.0, 6.0, 20.0])
            self.world.afflict(name, "cut off", seconds)
            self.faults.cut.add(name)
            self.world.after(seconds, lambda: self.faults.cut.discard(name))

    def store_stands_still(self) -> None:
        """No call is carried out for a while, and then all of them at once."""
        self._hold_back([running.machine.name for running in self.scenario.alive()])

    def hold_back(self) -> None:
        """The calls of one replica are held back on their way, and arrive when nobody waits for them any more."""
        if running := self._any_replica():
            self._hold_back([running.machine.name])

    def _hold_back(self, names: list[str]) -> None:
        seconds = self.rng.choice([0.5, 3.0, 12.0, 25.0])
        self.world.log("network", "", detail=f"{' '.join(names)} held back for {seconds} s")
        self.world.strikes.strike("hold back")
        self.faults.hold_back(names)
        self.world.after(seconds, self.let_through)

    def let_through(self) -> None:
        for carry_out in self.faults.let_through():
            self.world.after(self.rng.uniform(0, 0.005), carry_out)

    def bad_network(self) -> None:
        rng, faults = self.rng, self.faults
        faults.latency = rng.choice([0.002, 0.02, 0.2])
        faults.lose_request = rng.choice([0.0, 0.05, 0.3])
        faults.lose_reply = rng.choice([0.0, 0.05, 0.3])
        faults.late_reply = rng.choice([0.0, 0.0, 0.05, 0.3])
        faults.lose_wake = rng.choice([0.0, 0.5])
        shares = f"{faults.lose_request} {faults.lose_reply} {faults.late_reply}"
        self.world.log("network", "", detail=f"{faults.latency} {shares}")
        self.world.strikes.strike("bad network")
        self.world.after(rng.uniform(1, 15), faults.heal)

    def answers_are_late(self) -> None:
        """Many answers arrive after seconds, although the call was carried out at once."""
        rng, faults = self.rng, self.faults
        faults.late_reply = rng.choice([0.3, 0.8])
        self.world.log("network", "", detail=f"late answers: {faults.late_reply}")
        self.world.strikes.strike("late answers")
        self.world.after(rng.uniform(5, 15), faults.heal)

    def lose_answers_of_one_kind(self) -> None:
        """Most calls of one kind are carried out, and their callers do not learn that."""
        calls = ["claim", "renew", "settle", "claim_hooks", "settle_hooks", "announce", "lock", "withdraw"]
        self.faults.lose_replies_of = self.rng.choice(calls)
        self.world.log("network", "", detail=f"answers of {self.faults.lose_replies_of} are lost")
        self.world.strikes.strike("answers of one kind are lost")
        self.world.after(self.rng.uniform(2, 20), self.faults.heal)

    # ---------------------------------------------------------------- clients

    def lock_rows(self) -> None:
        """A client locks some rows and stands still."""
        scenario, rng = self.scenario, self.rng
        keys = [row.key for row in at_once(scenario.client.rows(limit=10_000))]
        if keys:
            some = rng.sample(keys, rng.choice([1, len(keys)]))
            seconds = min(rng.choice([0.5, 3.0, 12.0, 25.0, 60.0]), TROUBLE - self.world.now)
            self.world.log("client", "", detail=f"locks {len(some)} rows for {seconds:.1f} s")
            self.world.strikes.strike("lock rows")
            if seconds > LONG:
                self.world.strikes.strike("lock rows for long")
            scenario.locks.take(some)
            self.world.after(seconds, lambda: scenario.locks.release(some))

    # ---------------------------------------------------------------- the end of it

    def end(self) -> None:
        self.faults.heal()
        self.faults.cut.clear()
        self.let_through()
        for running in self.scenario.running:
            self.wake(running)
            running.machine.paused = running.machine.blocked = False
