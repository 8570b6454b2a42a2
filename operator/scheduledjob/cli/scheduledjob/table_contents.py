"""What the live table shows: the runs of this process, and the next runs of its schedules.

The event loop writes here and the thread that draws reads, so every method returns at once.
"""

from __future__ import annotations

import asyncio
import heapq
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from scheduledjob.domain.schedule.state import State
from scheduledjob.engine.store import StoreError

from .run_report import Lateness

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scheduledjob.domain.schedule.state import Outcome
    from scheduledjob.domain.time.instants import Instant, Micros
    from scheduledjob.engine.executor import Attempt
    from scheduledjob.engine.store import Store
    from scheduledjob.engine.stored_row import Row

    from .run_report import EndedRun

READ_INTERVAL = 1.0
"""Seconds between two reads of the next runs."""
MOST_NEXT = 12
MOST_RAN = 200


@dataclass(frozen=True, slots=True)
class RunningRow:
    """An attempt that runs now."""

    slug: str
    slot: Instant
    attempt: int
    since: float
    """Monotonic seconds."""


@dataclass(frozen=True, slots=True)
class NextRow:
    """The run that a schedule waits for."""

    slug: str
    slot: Instant
    due: Instant
    attempt: int


class Snapshot(NamedTuple):
    """The contents of one frame."""

    lines: list[str]
    """Remarks that have not been printed yet."""
    running: list[RunningRow]
    """Longest running first."""
    ran: list[EndedRun]
    counts: dict[Outcome, int]


class ShownRuns:
    """The runs of this process, and remarks for people. Safe for use from any thread."""

    def __init__(self) -> None:
        self.changed = threading.Event()
        """Set with each change. The reader clears it."""
        self._lock = threading.Lock()
        self._lines: list[str] = []
        self._running: dict[str, RunningRow] = {}
        self._ran: deque[EndedRun] = deque(maxlen=MOST_RAN)
        self._counts: Counter[Outcome] = Counter()

    def say(self, line: str) -> None:
        with self._lock:
            self._lines.append(line)
        self.changed.set()

    def started(self, attempt: Attempt) -> None:
        slug = f"{attempt.namespace}/{attempt.name}"
        with self._lock:
            self._running[attempt.run_id] = RunningRow(slug, attempt.slot, attempt.attempt, time.monotonic())
        self.changed.set()

    def stopped(self, run_id: str) -> None:
        with self._lock:
            self._running.pop(run_id, None)
        self.changed.set()

    def fenced(self, slug: str) -> None:
        with self._lock:
            self._running = {run_id: run for run_id, run in self._running.items() if run.slug != slug}

    def ended(self, runs: Sequence[EndedRun]) -> None:
        with self._lock:
            for record, late in runs:
                self._running.pop(record.run_id, None)
                self._counts[record.outcome] += 1
                self._ran.append((record, late))
        self.changed.set()

    def take(self) -> Snapshot:
        """Return what is shown now. Remarks are returned once."""
        self.changed.clear()
        with self._lock:
            lines, self._lines = self._lines, []
            running = sorted(self._running.values(), key=lambda run: run.since)
            return Snapshot(lines, running, list(self._ran), dict(self._counts))


class NextRuns:
    """The next runs of the schedules: first as this process expects them, then as the store has them."""

    def __init__(self) -> None:
        self.rows: list[NextRow] = []
        """The soonest, in order."""
        self.now: Callable[[], Instant] = lambda: time.time_ns() // 1000
        self._wakes: dict[str, Instant] = {}
        """By slug: when its next run is expected."""

    def planned(self, slug: str, wake_at: Instant | None) -> None:
        """Expect the next run at ``wake_at``; None: no run is expected."""
        if wake_at is None:
            self._wakes.pop(slug, None)
        else:
            self._wakes[slug] = wake_at

    def claimed(self, row: Row) -> None:
        if row.wake_at is not None:
            self._wakes.setdefault(row.slug, row.wake_at)

    async def follow(self, store: Store, now: Callable[[], Instant]) -> None:
        """Read the next runs of the rows that are shown from the store, every second, until cancelled."""
        self.now = now
        while True:
            soonest = heapq.nsmallest(MOST_NEXT, self._wakes.items(), key=lambda item: item[1])
            try:
                rows = await store.get([slug for slug, _ in soonest])
            except StoreError:
                rows = []
            found = [self._next_of(slug, row, expected) for (slug, expected), row in zip(soonest, rows, strict=False)]
            self.rows = sorted(
                (upcoming for upcoming in found if upcoming is not None), key=lambda upcoming: upcoming.due
            )
            await asyncio.sleep(READ_INTERVAL)

    def _next_of(self, slug: str, row: Row | None, expected: Instant) -> NextRow | None:
        try:
            state = None if row is None else State.decode(row.state)
        except ValueError:
            state = None
        run = None if state is None else next(iter([*state.runs, *state.waiting]), None) or state.next
        if run is None:
            if self._wakes.get(slug) == expected:
                del self._wakes[slug]
            return None
        self._wakes[slug] = run.due
        return NextRow(slug, run.slot, run.due, run.attempt)


class TableObserver(Lateness):
    """Passes on what the replica reports."""

    def __init__(self, runs: ShownRuns, next_runs: NextRuns) -> None:
        super().__init__(runs.ended)
        self._runs = runs
        self._next_runs = next_runs

    def claimed(self, row: Row) -> None:
        self._next_runs.claimed(row)

    def started(self, attempt: Attempt, due: Instant, late: Micros) -> None:
        super().started(attempt, due, late)
        self._runs.started(attempt)

    def retrying(self, attempt: Attempt, reason: str, due: Instant) -> None:
        self._runs.stopped(attempt.run_id)

    def released(self, slug: str, wake_at: Instant | None) -> None:
        self._next_runs.planned(slug, wake_at)

    def fenced(self, slug: str, why: str) -> None:
        self._runs.fenced(slug)
