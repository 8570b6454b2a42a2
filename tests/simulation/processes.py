"""Jobs in the simulation: processes beside the replica, supervised like those of shell jobs.

A process belongs to the world and not to its replica. If the replica is killed, its helper kills the process at once.
If the replica is stopped (SIGSTOP), the process continues until its deadline, which only a renewal moves. If the
machine is suspended, the process does nothing meanwhile. If its deadline has passed then, it does nothing any more.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scheduledjob.engine.executor import CANCELLED, Attempt, Result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.domain.time.instants import Instant

    from .world import Machine, World


@dataclass(slots=True, eq=False)
class Process:
    number: int
    attempt: Attempt
    machine: Machine
    deadline: float
    """By the machine's monotonic clock."""
    done: asyncio.Future[Result]
    alive: bool = True


class SimulatedExecutor:
    """An executor whose jobs take a random time and end as the seed decides."""

    def __init__(self, world: World, machine: Machine, *, fail: float, longest: float) -> None:
        self.world = world
        self.machine = machine
        self.fail = fail
        self.longest = longest
        self.processes: dict[str, Process] = {}

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def run(self, attempt: Attempt) -> Result:
        world, machine = self.world, self.machine
        process = Process(next(world.numbers), attempt, machine, attempt.deadline, machine.loop.create_future())
        self.processes[attempt.run_id] = process
        self._log("start", process, (attempt.payload or b"").decode())
        rng = world.random
        takes = rng.uniform(0.0, self.longest) if rng.random() < 0.3 else rng.uniform(0.0, 0.3)
        ok = rng.random() >= self.fail
        result = Result(ok, "" if ok else "exit code 1", 0 if ok else 1)
        if ok and attempt.payload is not None and not attempt.namespace:
            result.payload = attempt.payload + b"+"
        world.after(takes, lambda: self._end(process, result))
        self._watch(process)
        try:
            return await process.done
        except asyncio.CancelledError:
            if attempt.ending == CANCELLED:
                self._log("cancel", process)
            self._kill(process, attempt.ending)
            raise
        finally:
            self.processes.pop(attempt.run_id, None)

    def extend(self, run_ids: Sequence[str], deadline: float) -> None:
        for run_id in run_ids:
            if (process := self.processes.get(run_id)) is not None:
                process.deadline = max(process.deadline, deadline)

    def machine_woke(self, suspended_at: Instant) -> None:
        """End the processes whose deadline passed while the machine was suspended. They did nothing meanwhile."""
        for process in list(self.processes.values()):
            if process.deadline - 0.5 <= self.machine.monotonic():
                self.world.strikes.effect("suspend: the deadline of a process passed")
                self._kill(process, "deadline", suspended_at)

    def replica_died(self, at: Instant) -> None:
        for process in list(self.processes.values()):
            self._kill(process, "replica died", at)

    def _watch(self, process: Process) -> None:
        """Kill the process shortly before its deadline, as the helper does."""
        left = process.machine.global_time(process.deadline - 0.5) - self.world.now

        def check() -> None:
            if process.alive and self.machine.suspended:
                self.world.after(0.05, check)
            elif process.alive and self.machine.global_time(process.deadline - 0.5) <= self.world.now + 1e-6:
                self._kill(process, "deadline")
            elif process.alive:
                self._watch(process)

        self.world.after(max(0.01, left), check)

    def _end(self, process: Process, result: Result) -> None:
        if process.machine.suspended:
            self.world.after(0.05, lambda: self._end(process, result))
        elif process.alive:
            process.alive = False
            self._log("end", process, "ok" if result.ok else "failed")
            self._set_result(process, result)

    def _kill(self, process: Process, why: str, at: Instant | None = None) -> None:
        if process.alive:
            process.alive = False
            self._log("killed", process, why, at)
            self._set_result(process, Result(False, f"killed: {why}", lost=True))

    def _set_result(self, process: Process, result: Result) -> None:
        if not self.machine.dead:
            done = process.done
            self.machine.loop.call_soon(lambda: None if done.done() else done.set_result(result))

    def _log(self, kind: str, process: Process, detail: str = "", at: Instant | None = None) -> None:
        attempt = process.attempt
        self.world.log(
            kind,
            self.machine.name,
            at=at,
            uid=attempt.uid,
            run_id=attempt.run_id,
            slot=attempt.slot,
            attempt=attempt.attempt,
            version=attempt.version,
            detail=detail,
            process=process.number,
        )
