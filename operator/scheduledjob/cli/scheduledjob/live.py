"""The live table of a terminal: what ran, what is running and what is next, drawn at most four times a second.

Drawing takes milliseconds, and a terminal may be slow or stopped, so a thread draws. The event loop only updates the
contents (``table_contents.py``). The replica reports what ran. The next runs are first those that the replica expects
for the rows that it released, and are then read from the store for the few rows that are shown. The store knows them
whichever process owns a schedule, and its answer includes edits, suspensions and backoff.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from scheduledjob.cli.shared.formats import printable, short_name
from scheduledjob.domain.schedule.state import Outcome
from scheduledjob.domain.time.durations import format_duration
from scheduledjob.domain.time.instants import SECOND, to_datetime

from .run_report import length, summary_of
from .table_contents import MOST_NEXT, NextRuns, ShownRuns, TableObserver
from .writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scheduledjob.domain.time.instants import Instant
    from scheduledjob.engine.observer import Observer
    from scheduledjob.engine.store import Store

    from .run_report import EndedRun
    from .table_contents import NextRow, RunningRow

FRAME = 0.25
"""Minimum seconds between two frames."""
COUNTDOWN = 1.0
"""Maximum seconds between two frames, so that countdowns move."""
MIN_WIDTH = {"started": 8, "job": 16, "outcome": 9, "took": 6, "attempt": 7, "late": 6}
"""Minimum width of each column in characters, so that columns do not move with each new row."""
STYLES = {Outcome.SUCCEEDED: "green", Outcome.FAILED: "red", Outcome.CANCELLED: "yellow"}


class LiveTable:
    """A ``RunReport`` that draws on the terminal of standard output."""

    def __init__(self, mask: Callable[[str], str]) -> None:
        self._mask = mask
        self._console = Console(highlight=False)
        self._errors: Writer[str] | None = None if sys.stderr.isatty() else Writer(sys.stderr.fileno(), "".join)
        self._runs = ShownRuns()
        self._next_runs = NextRuns()
        self.observer: Observer = TableObserver(self._runs, self._next_runs)
        self._closing = threading.Event()
        self._ending = False
        self._thread = threading.Thread(target=self._draw, name="table", daemon=True)
        self._thread.start()

    # ---------------------------------------------------------------- contents, from the event loop

    def say(self, line: str) -> None:
        line = self._mask(line)
        if self._errors is not None:
            self._errors.put([line + "\n"])
        else:
            self._runs.say(line)

    def print(self, line: str) -> None:
        """Do nothing: the table shows the output with its run."""

    def planned(self, slug: str, wake_at: Instant | None) -> None:
        self._next_runs.planned(slug, wake_at)

    def unplanned(self, slug: str) -> None:
        self._next_runs.planned(slug, None)

    async def follow(self, store: Store, now: Callable[[], Instant]) -> None:
        await self._next_runs.follow(store, now)

    def ending(self) -> None:
        self._ending = True
        self._runs.changed.set()

    # ---------------------------------------------------------------- frames, from the thread

    def close(self) -> None:
        self._closing.set()
        self._runs.changed.set()
        self._thread.join(1.0)
        if self._errors is not None:
            self._errors.close()

    def _draw(self) -> None:
        live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        # OSError: the terminal is gone. The jobs continue until the signal that follows.
        with contextlib.suppress(OSError), live:
            while not self._closing.is_set():
                self._frame(live)
                self._closing.wait(FRAME)
                self._runs.changed.wait(COUNTDOWN - FRAME)
            self._frame(live)

    def _frame(self, live: Live) -> None:
        lines, running, ran, counts = self._runs.take()
        for line in lines:
            self._console.print(Text(printable(line)), soft_wrap=True)
        active = {run.slug for run in running}
        coming = [run for run in self._next_runs.rows if run.slug not in active and not self._ending]
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

    def _next_table(self, running: Sequence[RunningRow], coming: Sequence[NextRow]) -> RenderableType:
        table = _table(self._console.width, "next")
        table.add_column("in", ratio=1, no_wrap=True)
        now, passed = self._next_runs.now(), time.monotonic()
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
