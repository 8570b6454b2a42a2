"""What the tests of the engine share: replicas on a store in memory, with jobs that the test controls.

Time is real here, so tests wait for events and never for a fixed time. ``PATIENCE`` only ends a test that hangs.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from scheduledjob.domain.schedule.definition import Definition, Keep
from scheduledjob.domain.schedule.machine import first_state
from scheduledjob.domain.schedule.plan import Plan, slots_of
from scheduledjob.domain.schedule.state import State
from scheduledjob.domain.time.instants import DAY, SECOND, Instant
from scheduledjob.domain.triggers.once import AtTrigger
from scheduledjob.engine.executor import Attempt, Executor, Result
from scheduledjob.engine.kinds import JobKind
from scheduledjob.engine.observer import Observer
from scheduledjob.engine.replica import Replica
from scheduledjob.engine.replica_settings import ReplicaHost, ReplicaSettings
from scheduledjob.engine.stored_row import NewRow, Origin, Row

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from scheduledjob.domain.schedule.state import Outcome, RunRecord
    from scheduledjob.domain.time.instants import Micros
    from scheduledjob.engine.store import Store
    from scheduledjob.engine.stored_row import Settlement

PATIENCE = 60.0
"""Seconds after which a waiting test fails."""
KEEP_ALL = Keep(10**6, 10**6, 365 * DAY)


def single_slot(slot: Instant, **fields: Any) -> Definition:
    """A definition with one slot."""
    given: dict[str, Any] = {"kind": "job", "triggers": (AtTrigger(slot),), "keep": KEEP_ALL} | fields
    return Definition(**given)


def desired(slug: str, definition: Definition, created: Instant, *, payload: bytes | None = None) -> NewRow:
    """A row as ``scheduledjob run`` would put it."""
    uid = f"uid-of-{slug}"
    slots = slots_of(Plan(definition), seed=slug, created=created)
    state = first_state(definition, slots, uid, created)
    wake = state.next.due if state.next else None
    text = definition.encode()
    kind = definition.kind
    return NewRow(slug, uid, kind, Origin.MANIFEST, text, state.encode(), wake, None, payload, created)


async def put(
    store: Store, *slugs: str, payload: bytes | None = None, late: Micros = SECOND // 2, **fields: Any
) -> None:
    """Put schedules with a single slot, which was ``late`` microseconds ago."""
    now = await store.now()
    definition = single_slot(now - late, **fields)
    await store.put([desired(slug, definition, now - late - 1, payload=payload) for slug in slugs], replace=True)


async def row_of(store: Store, slug: str) -> Row:
    (row,) = await store.get([slug])
    assert row is not None
    return row


async def ok(attempt: Attempt) -> Result:
    return Result(True)


async def for_ever(attempt: Attempt) -> Result:
    return await asyncio.Event().wait() and Result(True)


class Jobs:
    """An ``Executor`` that calls ``behave`` for each attempt, and records the attempts."""

    def __init__(self, behave: Callable[[Attempt], Awaitable[Result]] = ok) -> None:
        self.behave = behave
        self.begun: asyncio.Queue[Attempt] = asyncio.Queue()
        self.cancelled: asyncio.Queue[Attempt] = asyncio.Queue()
        self.active = 0
        self.most_active = 0
        self.extended: list[tuple[Sequence[str], float]] = []

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def extend(self, run_ids: Sequence[str], deadline: float) -> None:
        self.extended.append((run_ids, deadline))

    async def run(self, attempt: Attempt) -> Result:
        self.active += 1
        self.most_active = max(self.active, self.most_active)
        self.begun.put_nowait(attempt)
        try:
            return await self.behave(attempt)
        except asyncio.CancelledError:
            self.cancelled.put_nowait(attempt)
            raise
        finally:
            self.active -= 1


class Watcher(Observer):
    """Records the events that it is notified of, and lets a test wait for them."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []
        self.records: list[RunRecord] = []
        self.states: dict[str, State] = {}
        """By slug: the state that was written last."""
        self._news = asyncio.Event()

    def _record(self, what: str, detail: Any) -> None:
        self.events.append((what, detail))
        self._news.set()

    def claimed(self, row: Row) -> None:
        self._record("claimed", row.slug)

    def started(self, attempt: Attempt, due: Instant, late: Micros) -> None:
        assert late >= 0
        self._record("started", attempt.attempt)

    def adopted(self, attempt: Attempt) -> None:
        self._record("adopted", attempt.attempt)

    def passed_over(self, slug: str, outcome: Outcome, count: int) -> None:
        self._record("passed over", (slug, outcome.value, count))

    def settled(self, row: Row, settlement: Settlement) -> None:
        self.states[row.slug] = State.decode(settlement.state)
        self._news.set()

    def retrying(self, attempt: Attempt, reason: str, due: Instant) -> None:
        self._record("retrying", (attempt.attempt, reason))

    def recorded(self, records: Sequence[RunRecord]) -> None:
        self.records += records
        self._record("recorded", [record.outcome.value for record in records])

    def released(self, slug: str, wake_at: Instant | None) -> None:
        self._record("released", slug)

    def fenced(self, slug: str, why: str) -> None:
        self._record("fenced", slug)

    def overdue(self, slug: str) -> None:
        self._record("overdue", slug)

    async def until(self, enough: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not enough():
                self._news.clear()
                await self._news.wait()

    async def until_event(self, what: str, times: int = 1) -> None:
        await self.until(lambda: sum(name == what for name, _ in self.events) >= times)

    async def until_recorded(self, count: int = 1) -> None:
        await self.until(lambda: len(self.records) >= count)


def replica_of(
    store: Store,
    executor: Executor,
    *,
    kinds: Sequence[str] = ("job",),
    observer: Observer | None = None,
    detached: bool = False,
    **more: Any,
) -> Replica:
    """A replica that polls often. ``more`` are fields of its settings and its host."""
    settings = {name: more.pop(name) for name in ReplicaSettings.__dataclass_fields__ if name in more}
    return Replica(
        store,
        {kind: JobKind(kind, executor, detached=detached) for kind in kinds},
        ReplicaSettings(**{"heartbeat": 0.2} | settings),
        ReplicaHost(observer=observer or Observer(), **more),
    )


@asynccontextmanager
async def running(replica: Replica) -> AsyncIterator[Replica]:
    """Run a replica until the end of the block, and shut it down cleanly."""
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        tasks.create_task(replica.run())
        await replica.ready.wait()
        try:
            yield replica
        finally:
            replica.stop()
