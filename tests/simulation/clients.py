"""Clients in the simulation: they make, edit and delete schedules, and request things by hand.

A call of a client is carried out at once. Its answer may be lost, and then the client repeats the call.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from scheduledjob.domain.schedule.backoff import Backoff, Exponential, Fixed
from scheduledjob.domain.schedule.definition import CatchUp, Concurrency, Definition, Keep, Misfire
from scheduledjob.domain.schedule.machine import first_state
from scheduledjob.domain.schedule.plan import Plan, slots_of
from scheduledjob.domain.schedule.requests import NO_REQUESTS, Requests
from scheduledjob.domain.time.instants import DAY, SECOND, Instant
from scheduledjob.domain.triggers.cron import CronTrigger
from scheduledjob.domain.triggers.every import EveryTrigger
from scheduledjob.domain.triggers.following import FollowingTrigger
from scheduledjob.engine.store import SlugTaken
from scheduledjob.engine.stored_row import NewRow, Origin

from .history import DesiredState
from .network import at_once
from .zone_versions import OFTEN, RARELY, ZONE

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from scheduledjob.domain.triggers.registry import Trigger

    from .scenario import Scenario

BACKOFFS: list[Backoff] = [Exponential(0.5, 4.0, 2.0, 3), Fixed([0.2, 1.0]), Exponential(1.0, 1.0, 1.0, 0)]
ALL = Keep(10**6, 10**6, 365 * DAY)
HOOKS = ({"url": "http://hook"},)
LOST_ANSWERS = 0.1


class Clients:
    """Whoever writes desired states, of the library and of a cluster."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.expressions = self.rng.choice([[OFTEN, RARELY], [RARELY]])

    @property
    def rng(self) -> random.Random:
        return self.scenario.world.random

    def _call(self, name: str, call: Callable[[], None], *, again: Callable[[], bool] = lambda: True) -> None:
        """Carry out a call, and once more if its answer is lost and it still makes sense ``again``."""
        call()
        if self.rng.random() < LOST_ANSWERS:
            self.scenario.world.strikes.strike(f"lost answer: {name}")
            self.scenario.world.after(self.rng.uniform(0.0, 1.0), lambda: call() if again() else None)

    def make_schedule(self) -> None:
        rng, now = self.rng, self.scenario.world.store_clock()
        number = len(self.scenario.desired_rows)
        retry: Backoff = rng.choice(BACKOFFS)
        if rng.random() < 0.35:
            definition = Definition(kind="job", retry=retry, keep=ALL, on_failure=HOOKS)
            first: Instant | None = now + int(rng.uniform(-2, 20) * SECOND)
            slug = f"once-{number}"
        else:
            definition = self.recurring(retry)
            first, slug = None, f"default/job-{number}"
        desired = DesiredState(slug, f"uid{number}", definition, now, first)
        self.scenario.desired_rows.append(desired)
        if first is None:
            desired.generation = 1
            self.reconcile(desired)
        else:
            row = self.row_of(desired, Origin.LIBRARY)
            # A client that repeats this later, after the run, makes another schedule with another uid.
            self._call("put", lambda: self._create(row), again=lambda: self._is_stored(desired))

    def schedule_anew(self) -> None:
        """A client names another slot of a one-shot that has not ended, which may be running."""
        left = [desired for desired in self.scenario.desired_rows if desired.first is not None and not desired.deleted]
        if not left:
            return
        desired = self.rng.choice(left)
        if not self._is_stored(desired):
            return
        desired.named += 1
        row = self.row_of(desired, Origin.LIBRARY)
        row.first = self.scenario.world.store_clock() + int(self.rng.uniform(0, 5) * SECOND)
        row.payload = b"%d" % desired.named
        self.scenario.world.log("named", "", uid=desired.uid, slot=row.first, detail=str(desired.named))
        number = desired.named

        def is_newest() -> bool:
            return self._is_stored(desired) and desired.named == number

        self._call("put", lambda: self._replace(row), again=is_newest)

    def _is_stored(self, desired: DesiredState) -> bool:
        return at_once(self.scenario.client.get([desired.slug])) != [None]

    def _create(self, row: NewRow) -> None:
        with suppress(SlugTaken):  # the first call has created it
            at_once(self.scenario.client.put([row], replace=False))

    def _replace(self, row: NewRow) -> None:
        at_once(self.scenario.client.put([row], replace=True))

    def row_of(self, desired: DesiredState, origin: Origin, requests: Requests = NO_REQUESTS) -> NewRow:
        if alive := self.scenario.alive():  # any replica reconciles the object
            self.scenario.zones.of_clients = self.rng.choice(alive).machine.loop.zone_data
        definition, slug, created = desired.definition, desired.slug, desired.created
        slots = slots_of(Plan(definition), seed=slug, created=created)
        state = first_state(definition, slots, desired.uid, created, desired.first, detached=desired.detached)
        state.generation = desired.generation
        wake = state.next.due if state.next else created
        if requests != NO_REQUESTS:  # the first owner handles the requests
            state.revision, wake = 0, self.scenario.world.store_clock()
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
        if desired.generation and not desired.deleted and not self.scenario.backups.down:
            requests = requests or (desired.requests[-1] if desired.requests else NO_REQUESTS)
            row = self.row_of(desired, Origin.CLUSTER, requests)
            self._call("reconcile", lambda: self._reconcile(row))

    def tombstone(self, desired: DesiredState) -> None:
        at_once(self.scenario.client.tombstone([(desired.slug, desired.uid)]))

    def _delete(self, desired: DesiredState) -> None:
        at_once(self.scenario.client.delete([desired.slug]))

    def _reconcile(self, row: NewRow) -> None:
        at_once(self.scenario.client.reconcile([row]))

    def recurring(self, retry: Backoff) -> Definition:
        rng = self.rng
        concurrency = rng.choice([Concurrency.FORBID, Concurrency.FORBID, *Concurrency])
        catch_up = rng.choice(list(CatchUp))
        upstream = [desired.slug.partition("/")[2] for desired in self.scenario.desired_rows if desired.generation]
        trigger: Trigger = EveryTrigger(rng.choice([1, 2, 3, 5, 11]) * SECOND)
        limit = rng.choice([None, None, None, 7])
        if rng.random() < 0.25:
            trigger = CronTrigger(rng.choice(self.expressions), ZONE)
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
        left = [desired for desired in self.scenario.desired_rows if desired.generation and not desired.deleted]
        if not left:
            return
        desired = rng.choice(left)
        values = dict.fromkeys(("run", "cancel", "resume"), "")
        if desired.requests:
            values = {name: getattr(desired.requests[-1], name) for name in values}
        what = rng.choice(["run", "run", "cancel", "cancel", "resume"])
        values[what] = f"{what}-{len(desired.requests)}"
        if what == "cancel":
            begun = [
                event.run_id
                for event in self.scenario.world.events
                if event.kind == "start" and event.uid == desired.uid
            ]
            values[what] = begun[-1] if begun else "nothing"
        desired.resumed |= what == "resume"
        payload = b"by hand" if what == "run" else None
        made = Requests(run=values["run"], payload=payload, cancel=values["cancel"], resume=values["resume"])
        desired.requests.append(made)
        self.scenario.world.log("request", "", uid=desired.uid, detail=f"{what} {values[what]}")
        self.reconcile(desired)
        if rng.random() < 0.3:
            old = rng.choice(desired.requests)
            self.scenario.world.after(rng.uniform(0, 3), lambda: self.reconcile(desired, old))
            self.scenario.world.after(rng.uniform(3, 6), lambda: self.reconcile(desired))

    def edit_or_delete(self) -> None:
        left = [desired for desired in self.scenario.desired_rows if not desired.deleted]
        if not left:
            return
        desired = self.rng.choice(left)
        if self.rng.random() < 0.4:
            desired.deleted = True
            self.scenario.world.log("deleted", "", uid=desired.uid)
            if desired.generation:
                self._call("tombstone", lambda: self.tombstone(desired))
            else:
                self._call("delete", lambda: self._delete(desired))
            self.scenario.cluster.owner_deleted(desired.uid)
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
        self.scenario.world.log("edited", "", uid=desired.uid, detail=str(changes))
        self.reconcile(desired)
