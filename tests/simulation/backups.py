"""Backups: the store goes back to a backup, while the status of the objects knows better.

The operators are stopped first, as the documentation asks. They shut down cleanly, so that status is complete, or they
are killed, and status lacks what happened in the last second. The first operator that starts again compares each object
with its row before anything runs, as ``PageCheck`` does. Schedules of the library have no status.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

from scheduledjob.domain.schedule.plan import Plan, slots_of
from scheduledjob.domain.schedule.requests import NO_REQUESTS
from scheduledjob.domain.schedule.restore import is_older, restored_state, told_state
from scheduledjob.domain.schedule.state import State, run_id
from scheduledjob.engine.stored_row import Origin

from .history import Restore
from .network import at_once

if TYPE_CHECKING:
    from scheduledjob.stores.memory.rows import Installation

    from .history import DesiredState
    from .scenario import Scenario

LATEST_BACKUP = 30.0
"""Seconds. The restore comes early enough that something goes wrong after it, too."""
LONGEST_SHUTDOWN = 13.0


class Backups:
    """At most one backup of a scenario's store, and its restore."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.restore: Restore | None = None
        self.down = False
        """No operator runs, and none may start."""
        self._saved: Installation
        self._statuses: dict[str, bytes] = {}
        """The states that the status of the objects describes, by uid."""
        self._clean = False

    def take(self) -> None:
        """Take a backup, and restore it some time later."""
        world = self.scenario.world
        if self.restore is None and world.now < LATEST_BACKUP:
            self._saved = deepcopy(self.scenario.client._tables)
            self._clean = world.random.random() < 0.5
            self.restore = Restore(world.store_clock())
            world.log("store", "", detail="backed up")
            world.after(world.random.uniform(2.0, 15.0), self._stop)

    def _stop(self) -> None:
        world, self.down = self.scenario.world, True
        if self._clean:
            for running in self.scenario.alive():
                running.machine.loop.call_soon(running.replica.stop)
            world.after(LONGEST_SHUTDOWN, self._put_back)
        else:
            self._read_statuses()
            world.after(world.random.uniform(0.0, 1.0), self._put_back)

    def _read_statuses(self) -> None:
        scenario, restore = self.scenario, self.restore
        assert restore is not None
        rows = at_once(scenario.client.rows(limit=10_000))
        self._statuses = {row.uid: row.state for row in rows}
        if any(row.owner is not None for row in rows):
            self._clean = False  # a replica had died, and nobody has found out yet what it ran
        restore.told_at = scenario.world.store_clock()
        restore.known = {record.run_id for record in at_once(scenario.client.history(limit=1_000_000))}

    def _put_back(self) -> None:
        scenario, restore, world = self.scenario, self.restore, self.scenario.world
        assert restore is not None
        for running in scenario.alive():
            self._clean = False
            scenario.kill(running)
        if self._clean or not restore.told_at:
            self._read_statuses()
        restore.clean = self._clean
        before = at_once(scenario.client.rows(limit=10_000))
        records = at_once(scenario.client.history(limit=1_000_000))
        tables = vars(scenario.client._tables)
        tables.clear()
        tables.update(vars(self._saved))
        scenario.faults.store_restored()
        restored = {record.run_id for record in at_once(scenario.client.history(limit=1_000_000))}
        restore.lost_records = [record for record in records if record.run_id not in restored]
        stored = {row.uid for row in at_once(scenario.client.rows(limit=10_000))}
        restore.lost_uids = {row.uid for row in before if row.uid not in stored and row.origin == Origin.LIBRARY}
        restore.handled = {uid: State.decode(text).handled for uid, text in self._statuses.items()}
        for desired in scenario.desired_rows:
            newest = desired.requests[-1].run if desired.requests else ""
            restore.replaced[desired.uid] = {made.run for made in desired.requests} - {newest, ""}
        restore.restored_at = world.store_clock()
        world.log("store", "", detail=f"restored, after a {'clean' if restore.clean else 'hard'} end")
        world.strikes.strike(f"restore: after a {'clean' if restore.clean else 'hard'} end")
        self.down = False
        for desired in scenario.desired_rows:
            self._compare(desired)
        for _ in range(scenario.replicas):
            scenario.start_replica()

    def _compare(self, desired: DesiredState) -> None:
        """Do to one object what an operator does before anything runs."""
        scenario, text = self.scenario, self._statuses.get(desired.uid)
        if not desired.generation:
            return
        if desired.deleted:  # the sweep finds out a little later
            world = scenario.world
            world.after(world.random.uniform(4.0, 12.0), lambda: scenario.clients.tombstone(desired))
            return
        (row,) = at_once(scenario.client.get([desired.slug]))
        told = told_state(text.decode()) if text is not None else None
        if told is None or (row is not None and not is_older(State.decode(row.state), told)):
            if not self._clean:
                self._remember_unchanged(desired.uid, told)
            scenario.clients.reconcile(desired)
            return
        if row is not None:
            scenario.world.strikes.effect("restore: a row was older than its status")
            at_once(scenario.client.delete([desired.slug], ends_runs=False))
        else:
            scenario.world.strikes.effect("restore: a row was missing")
        assert text is not None
        requests = desired.requests[-1] if desired.requests else NO_REQUESTS
        new = scenario.clients.row_of(desired, Origin.CLUSTER, requests)
        now = scenario.world.store_clock()
        slots = slots_of(Plan(desired.definition), seed=desired.slug, created=desired.created)
        state, wake_at = restored_state(
            text.decode(),
            desired.definition,
            slots,
            desired.uid,
            now,
            clean_shutdown=self._clean,
            detached=desired.detached,
        )
        for run in [*state.runs, *state.waiting]:
            if run.token and run.token == requests.run:
                run.payload = requests.payload
        unchanged = state.generation == desired.generation and requests == NO_REQUESTS
        new.state, new.wake_at = state.encode(), wake_at if unchanged else now
        at_once(scenario.client.reconcile([new]))

    def _remember_unchanged(self, uid: str, told: State | None) -> None:
        assert self.restore is not None
        self.restore.unchanged.add(uid)
        if told is not None:
            self.restore.told_attempts |= {run_id(uid, run): run.attempt for run in [*told.runs, *told.waiting]}
