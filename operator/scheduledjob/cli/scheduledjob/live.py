"""The live table of a terminal: what ran, what is running and what is next, drawn at most four times a second.

Drawing takes milliseconds and a terminal may be slow or stopped, so a thread draws; the event loop only leaves notes.
The replica reports what ran. What is next is guessed from the rows that the replica released, and then read from the
store for the few rows that are shown. The store knows it for whichever process owns a schedule, and shows edits,
suspensions and backoff as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import sys
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from scheduledjob.cli.shared.formats import printable, short_name
from scheduledjob.domain.schedule.state import Outcome, State
from scheduledjob.domain.time.durations import format_duration
from scheduledjob.domain.time.instants import SECOND, to_datetime
from scheduledjob.engine.store import StoreError

from .run_report import Lateness, length, summary_of
from .writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scheduledjob.domain.time.instants import Instant, Micros
    from scheduledjob.engine.executor import Attempt
    from scheduledjob.engine.observer import Observer
    from scheduledjob.engine.store import Row, Store

    from .run_report import EndedRun

FRAME = 0.25
"""Least seconds between two frames."""
COUNTDOWN = 1.0
"""Most seconds between two frames, so that countdowns move."""
READ_EVERY = 1.0
MOST_NEXT = 12
MOST_RAN = 200
MIN_WIDTH = {"started": 8, "job": 16, "outcome": 9, "took": 6, "attempt": 7, "late": 6}
"""Least characters of each column, so that columns do not move with each new row."""
STYLES = {Outcome.SUCCEEDED: "green", Outcome.FAILED: "red", Outcome.CANCELLED: "yellow"}


@dataclass(frozen=True, slots=True)
class _Next:
    """The run that a schedule waits for."""

    slug: str
    slot: Instant
    due: Instant
    attempt: int


@dataclass(frozen=True, slots=True)
class _RunningRow:
    slug: str
    slot: Instant
    attempt: int
    since: float


class LiveTable:
    """A ``RunReport`` that draws on the terminal of standard output."""

    def __init__(self, mask: Callable[[str], str]) -> None:
        self._mask = mask
        self._console = Console(highlight=False)
        self._errors: Writer[str] | None = None if sys.stderr.isatty() else Writer(sys.stderr.fileno(), "".join)
        self.observer: Observer = _Notes(self)
        self._lock = threading.Lock()
        self._noted = threading.Event()
        self._closing = threading.Event()
        self._ran: deque[EndedRun] = deque(maxlen=MOST_RAN)
        self._counts: Counter[Outcome] = Counter()
        self._running: dict[str, _RunningRow] = {}
        self._wakes: dict[str, Instant] = {}
        """By slug: when its next run is expected."""
        self._next: list[_Next] = []
        self._lines: list[str] = []
        self._ending = False
        self._now: Callable[[], Instant] = lambda: time.time_ns() // 1000
        self._thread = threading.Thread(target=self._draw, name="table", daemon=True)
        self._thread.start()

    # ---------------------------------------------------------------- notes, from the event loop

    def say(self, line: str) -> None:
        line = self._mask(line)
        if self._errors is not None:
            self._errors.put([line + "\n"])
            return
        with self._lock:
            self._lines.append(line)
        self._noted.set()

    def print(self, line: str) -> None:
        """Do nothing: the table shows the output with its run."""

    def planned(self, slug: str, wake_at: Instant | None) -> None:
        if wake_at is None:
            self._wakes.pop(slug, None)
        else:
            self._wakes[slug] = wake_at

    def unplanned(self, slug: str) -> None:
        self.planned(slug, None)

    def claimed(self, row: Row) -> None:
        if row.wake_at is not None:
            self._wakes.setdefault(row.slug, row.wake_at)

    def started(self, attempt: Attempt) -> None:
        slug = f"{attempt.namespace}/{attempt.name}"
        with self._lock:
            self._running[attempt.run_id] = _RunningRow(slug, attempt.slot, attempt.attempt, time.monotonic())
        self._noted.set()

    def stopped(self, run_id: str) -> None:
        with self._lock:
            self._running.pop(run_id, None)
        self._noted.set()

    def fenced(self, slug: str) -> None:
        with self._lock:
            self._running = {key: run for key, run in self._running.items() if run.slug != slug}

    def ended(self, runs: Sequence[EndedRun]) -> None:
        with self._lock:
            for record, late in runs:
                self._running.pop(record.run_id, None)
                self._counts[record.outcome] += 1
                self._ran.append((record, late))
        self._noted.set()

    def ending(self) -> None:
        self._ending = True
        self._noted.set()

    async def follow(self, store: Store, now: Callable[[], Instant]) -> None:
        """Read the next runs of the rows that are shown from the store, every second."""
        self._now = now
        while True:
            soonest = heapq.nsmallest(MOST_NEXT, self._wakes.items(), key=lambda item: item[1])
            try:
                rows = await store.get([slug for slug, _ in soonest])
            except StoreError:
                rows = []
            found = [self._next_of(slug, row, guess) for (slug, guess), row in zip(soonest, rows, strict=False)]
            self._next = sorted(
                (upcoming for upcoming in found if upcoming is not None), key=lambda upcoming: upcoming.due
            )
            await asyncio.sleep(READ_EVERY)

    def _next_of(self, slug: str, row: Row | None, guess: Instant) -> _Next | None:
        try:
            state = None if row is None else State.decode(row.state)
        except ValueError:
            state = None
        run = None if state is None else next(iter([*state.runs, *state.waiting]), None) or state.next
        if run is None:
            if self._wakes.get(slug) == guess:
                del self._wakes[slug]
            return None
        self._wakes[slug] = run.due
        return _Next(slug, run.slot, run.due, run.attempt)

    # ---------------------------------------------------------------- frames, from the thread

    def close(self) -> None:
        self._closing.set()
        self._noted.set()
        self._thread.join(1.0)
        if self._errors is not None:
            self._errors.close()

    def _draw(self) -> None:
        live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        # OSError: the terminal is gone. The jobs go on until the signal that follows.
        with contextlib.suppress(OSError), live:
            while not self._closing.is_set():
                self._frame(live)
                self._closing.wait(FRAME)
                self._noted.wait(COUNTDOWN - FRAME)
            self._frame(live)

    def _frame(self, live: Live) -> None:
        self._noted.clear()
        with self._lock:
            lines, self._lines = self._lines, []
            running = sorted(self._running.values(), key=lambda run: run.since)
            ran, counts = list(self._ran), dict(self._counts)
        for line in lines:
            self._console.print(Text(printable(line)), soft_wrap=True)
        active = {run.slug for run in running}
        coming = [run for run in self._next if run.slug not in active and not self._ending]
        room = max(self._console.size.height - 7, 4)
        below = min(len(running) + len(coming), MOST_NEXT, max(2, room // 3))
        above = max(room - below, 2)
        live.update(
            Group(
                _ran_table(ran[-above:], self._console.width),
                Text(),
                *([self._next_table(running[:below], coming[: max(0, below - len(running))])] if below else []),
                Text(self._summary(counts, len(running)), style="bold yellow" if self._ending else "dim"),
            ),
            refresh=True,
        )

    def _next_table(self, running: Sequence[_RunningRow], coming: Sequence[_Next]) -> RenderableType:
        table = _table(self._console.width, "next")
        table.add_column("in", ratio=1, no_wrap=True)
        now, passed = self._now(), time.monotonic()
        for run in running:
            took = format_duration(int(passed - run.since) * SECOND)
            attempt = f", attempt {run.attempt}" if run.attempt > 1 else ""
            table.add_row(_clock(run.slot, now), Text(printable(short_name(run.slug))), f"running for {took}{attempt}")
        for upcoming in coming:
            left = -(-max(0, upcoming.due - now) // SECOND) * SECOND
            attempt = f"attempt {upcoming.attempt} in " if upcoming.attempt > 1 else ""
            when = attempt + format_duration(left) if left else "now"
            table.add_row(_clock(upcoming.slot, now), Text(printable(short_name(upcoming.slug))), when)
        return table

    def _summary(self, counts: dict[Outcome, int], running: int) -> str:
        ended = ", ".join(f"{count} {outcome.value.lower()}" for outcome, count in counts.items()) or "no runs yet"
        if self._closing.is_set():
            return f"stopped: {ended}"
        if self._ending:
            return f"{ended}; shutting down, {running} still running; Ctrl-C again exits at once"
        return f"{ended}; press Ctrl-C to stop"


class _Notes(Lateness):
    """Passes what the replica reports on to the table."""

    def __init__(self, table: LiveTable) -> None:
        super().__init__(table.ended)
        self._table = table

    def claimed(self, row: Row) -> None:
        self._table.claimed(row)

    def started(self, attempt: Attempt, due: Instant, late: Micros) -> None:
        super().started(attempt, due, late)
        self._table.started(attempt)

    def retrying(self, attempt: Attempt, reason: str, due: Instant) -> None:
        self._table.stopped(attempt.run_id)

    def released(self, slug: str, wake_at: Instant | None) -> None:
        self._table.planned(slug, wake_at)

    def fenced(self, slug: str, why: str) -> None:
        self._table.fenced(slug)


def _ran_table(runs: Sequence[EndedRun], width: int) -> Table:
    table = _table(width)
    for name in ("outcome", "took", "attempt", "late"):
        table.add_column(
            name, justify="left" if name == "outcome" else "right", min_width=MIN_WIDTH[name], no_wrap=True
        )
    table.add_column("reason or output", ratio=1, no_wrap=True, overflow="ellipsis")
    for record, late in runs:
        begun = record.finished if record.started is None else record.started
        table.add_row(
            _clock(begun, record.finished),
            Text(printable(short_name(record.slug))),
            Text(record.outcome.value, style=STYLES.get(record.outcome, "")),
            "" if record.started is None else length(record.finished - record.started),
            str(record.attempt),
            "" if late is None else length(late),
            Text(summary_of(record), style="" if record.reason else "dim"),
        )
    return table


def _table(width: int, first: str = "started") -> Table:
    """Return a table for a terminal of this width, with the first two columns of both tables."""
    table = Table(box=None, expand=True, header_style="bold", pad_edge=False, padding=(0, 1))
    table.add_column(first, min_width=MIN_WIDTH["started"], no_wrap=True)
    table.add_column("job", min_width=MIN_WIDTH["job"], max_width=max(MIN_WIDTH["job"], width // 3), no_wrap=True)
    return table


def _clock(instant: Instant, now: Instant) -> str:
    """Return the local time of day, with the date if it is not today."""
    moment, today = to_datetime(instant).astimezone(), to_datetime(now).astimezone()
    if moment.date() == today.date():
        return moment.strftime("%H:%M:%S")
    return moment.strftime("%d %b %H:%M" if moment.year == today.year else "%Y-%m-%d")
