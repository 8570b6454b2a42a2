"""Ownership of rows whose lease is about to end. The machine's clock is turned by hand."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from scheduledjob.domain.schedule.definition import Concurrency
from scheduledjob.domain.schedule.state import Run, State
from scheduledjob.domain.time.instants import SECOND, from_seconds
from scheduledjob.domain.triggers.every import EveryTrigger
from scheduledjob.engine.attempt_preparer import AttemptPreparer
from scheduledjob.engine.attempt_runner import AttemptTasks
from scheduledjob.engine.clock import StoreClock
from scheduledjob.engine.kinds import JobKind
from scheduledjob.engine.leases import Leases, Renewed
from scheduledjob.engine.ownership import Ownership
from scheduledjob.engine.poll_timer import PollTimer
from scheduledjob.engine.replica_settings import ReplicaContext, ReplicaSettings
from scheduledjob.stores.memory import MemoryStore

from .support import PATIENCE, Jobs, Watcher, desired, for_ever, put, single_slot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from scheduledjob.engine.executor import Attempt, Result
    from scheduledjob.engine.stored_row import Row

LENGTH = 15.0


class Scene:
    """Ownership without a claimer: a test hands over the rows that it claims itself."""

    def __init__(self) -> None:
        self.now = 1000.0
        """Seconds of the machine's clock."""
        self.store = MemoryStore()
        self.watcher = Watcher()
        self.jobs = Jobs(for_ever)
        self.leases = Leases(LENGTH)
        self.ownership: Ownership

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        settings, monotonic = ReplicaSettings(lease=LENGTH), lambda: self.now
        clock = StoreClock(monotonic)
        clock.observe(await self.store.now(), self.now, self.now)
        context = ReplicaContext(
            store=self.store,
            replica="me",
            kinds={"job": JobKind("job", self.jobs)},
            settings=settings,
            clock=clock,
            monotonic=monotonic,
            observer=self.watcher,
        )
        async with asyncio.timeout(PATIENCE):
            tasks = AttemptTasks()
            self.ownership = Ownership(
                context,
                tasks=tasks,
                leases=self.leases,
                preparer=AttemptPreparer(),
                poll_timer=PollTimer(clock, monotonic, settings),
            )
            writing = asyncio.create_task(self.ownership.settler.run())
            try:
                yield
            finally:
                self.ownership.stop_attempts()
                self.ownership.close()
                await tasks.end(PATIENCE)
                await writing

    def clean_up_until_told(self) -> asyncio.Event:
        """Let jobs that are stopped clean up until the event that is returned."""
        told = asyncio.Event()

        async def cleans_up(attempt: Attempt) -> Result:
            try:
                return await for_ever(attempt)
            finally:
                await told.wait()

        self.jobs.behave = cleans_up
        return told

    async def claim(self, lease: float = LENGTH) -> Row:
        await put(self.store, "ns/job")
        (row,) = (await self.store.claim("me", ["job"], limit=1, ahead=0, lease=from_seconds(lease))).rows
        return row

    async def claim_when_due(self) -> Row:
        """Claim the row as soon as it is due, or its lease has passed."""
        while True:
            if rows := (await self.store.claim("me", ["job"], limit=1, ahead=0, lease=from_seconds(LENGTH))).rows:
                return rows[0]
            await asyncio.sleep(0)


async def test_a_slot_starts_while_its_lease_is_long_enough() -> None:
    scene = Scene()
    async with scene.running():
        scene.ownership.accept(await scene.claim(), scene.now + scene.leases.margin + 0.01)
        assert (await scene.jobs.begun.get()).attempt == 1


async def test_a_slot_does_not_start_within_the_margin_of_its_lease() -> None:
    """The process was suspended between the claim and this moment. Another replica may claim the row soon."""
    scene = Scene()
    async with scene.running():
        scene.ownership.accept(await scene.claim(), scene.now + scene.leases.margin)
        assert scene.ownership.count == 0
        assert ("fenced", "ns/job") in scene.watcher.events
    assert scene.jobs.begun.empty()


async def test_a_row_is_not_started_again_while_an_attempt_that_was_stopped_here_cleans_up() -> None:
    """The same process knows what other replicas can't know, so it releases the row until the job has ended."""
    scene = Scene()
    cleaned = scene.clean_up_until_told()
    async with scene.running():
        row = await scene.claim(lease=0.01)
        scene.ownership.accept(row, scene.now + LENGTH)
        await scene.jobs.begun.get()
        scene.ownership.leases_expired([row.key])
        again = await scene.claim_when_due()
        assert again.recovered
        scene.ownership.accept(again, scene.now + LENGTH)
        await scene.watcher.until_event("released")
        third = await scene.claim_when_due()
        assert scene.jobs.most_active == 1
        assert scene.jobs.begun.empty()
        cleaned.set()
        await scene.jobs.cancelled.get()
        await scene.ownership.emptied()
        scene.ownership.accept(third, scene.now + LENGTH)
        assert (await scene.jobs.begun.get()).attempt == 2
        assert scene.jobs.most_active == 1


async def test_a_schedule_that_is_made_anew_waits_for_the_attempt_that_its_deletion_stopped() -> None:
    scene = Scene()
    cleaned = scene.clean_up_until_told()
    async with scene.running():
        row = await scene.claim()
        scene.ownership.accept(row, scene.now + LENGTH)
        await scene.jobs.begun.get()
        assert await scene.store.delete([row.slug]) == [True]
        scene.ownership.leases_renewed(Renewed([row.key]))
        await put(scene.store, row.slug)
        anew = await scene.claim_when_due()
        assert anew.key != row.key
        scene.ownership.accept(anew, scene.now + LENGTH)
        try:
            while scene.ownership.count > 1:  # until the new row is released
                assert scene.jobs.begun.empty()
                await asyncio.sleep(0)
        finally:
            cleaned.set()
        await scene.jobs.cancelled.get()
        await scene.ownership.emptied()
        scene.ownership.accept(await scene.claim_when_due(), scene.now + LENGTH)
        assert (await scene.jobs.begun.get()).attempt == 1
        assert scene.jobs.most_active == 1


async def test_slots_of_an_outage_are_caught_up_after_the_run_of_a_dead_owner() -> None:
    """With Forbid, which would skip them if the dead owner's run counted as active."""
    scene = Scene()
    async with scene.running():
        now = await scene.store.now()
        definition = single_slot(now, triggers=(EveryTrigger(SECOND),))
        await scene.store.put([desired("ns/every", definition, now - 9 * SECOND)], replace=False)
        await scene.store.claim("dead", ["job"], limit=1, ahead=0, lease=1)
        row = await scene.claim_when_due()
        row.due_at = now - 5 * SECOND  # as if nobody had been there since
        scene.ownership.accept(row, scene.now + LENGTH)
        assert (await scene.jobs.begun.get()).attempt == 2
        (owned,) = scene.ownership._owned.values()
        state = owned.schedule.state
        assert [run.slot for run in state.waiting] == [state.decided_until]
        assert state.missed >= 3
        assert state.skipped >= 2


async def test_slots_of_an_outage_are_caught_up_after_a_run_that_waits_alone() -> None:
    """With a queue that is full, which would skip them if it had been full during the outage."""
    scene = Scene()
    async with scene.running():
        now = await scene.store.now()
        definition = single_slot(
            now, triggers=(EveryTrigger(SECOND),), concurrency=Concurrency.QUEUE, queue_depth=1, max_concurrent=1
        )
        await scene.store.put([desired("ns/every", definition, now - 9 * SECOND)], replace=False)
        row = await scene.claim_when_due()
        state = State.decode(row.state)
        state.waiting = [Run(slot=now - 10 * SECOND, due=now - 10 * SECOND)]
        row.state, row.due_at = state.encode(), now - 5 * SECOND
        scene.ownership.accept(row, scene.now + LENGTH)
        (owned,) = scene.ownership._owned.values()
        state = owned.schedule.state
        assert [run.slot for run in state.runs] == [now - 10 * SECOND]
        assert [run.slot for run in state.waiting] == [state.decided_until]
        assert state.skipped == 0


async def test_a_row_that_was_lost_within_the_margin_of_its_lease_is_not_written() -> None:
    """Although a slot has come due beside the run that would have started."""
    scene = Scene()
    async with scene.running():
        now = await scene.store.now()
        definition = single_slot(now, triggers=(EveryTrigger(SECOND),), concurrency=Concurrency.ALLOW)
        await scene.store.put([desired("ns/every", definition, now - 9 * SECOND)], replace=False)
        row = await scene.claim_when_due()
        version, state = row.version, State.decode(row.state)
        state.runs = [Run(slot=now - 10 * SECOND, due=now - 10 * SECOND)]
        row.state = state.encode()
        scene.ownership.accept(row, scene.now + scene.leases.margin)
        assert ("fenced", "ns/every") in scene.watcher.events
    (stored,) = await scene.store.get(["ns/every"])
    assert stored is not None
    assert (stored.version, stored.owner) == (version, "me")
    assert scene.jobs.begun.empty()
