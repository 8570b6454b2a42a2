"""What ``run`` reports: a line for each run that ends, in the chosen format.

This is the output for programs and pipes. The live table of a terminal is in ``live.py``. Both also print remarks for
people (``say``) and the text of ``print`` jobs (``print``), because only the writer of the output knows where that does
not disturb it.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Protocol

import msgspec

from scheduledjob.cli.shared.formats import as_yaml, printable, short_name
from scheduledjob.domain.schedule.state import Outcome
from scheduledjob.domain.time.durations import format_duration
from scheduledjob.domain.time.instants import rfc3339
from scheduledjob.engine.observer import Observer
from scheduledjob.jobs.hooks import run_as_json

from .writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scheduledjob.domain.schedule.state import RunRecord
    from scheduledjob.domain.time.instants import Instant, Micros
    from scheduledjob.engine.executor import Attempt
    from scheduledjob.engine.store import Store

    EndedRun = tuple[RunRecord, Micros | None]
    """A run, and how late its first attempt started; None if another process started it."""


MOST_STARTED = 100_000
"""Maximum number of runs whose lateness is kept until they end."""


class RunReport(Protocol):
    """Receives what happens in ``run``."""

    observer: Observer

    def say(self, line: str) -> None:
        """Print a remark for people. May be called from any thread."""

    def print(self, line: str) -> None:
        """Print the text of a ``print`` job, which includes its line end."""

    def planned(self, slug: str, wake_at: Instant | None) -> None:
        """Note that a schedule was put into the store and when it is due."""

    def unplanned(self, slug: str) -> None:
        """Note that a schedule was ended."""

    async def follow(self, store: Store, now: Callable[[], Instant]) -> None:
        """Run beside the replica until cancelled."""

    def ending(self) -> None:
        """Announce that the process is shutting down."""

    def close(self) -> None:
        """Write what is left and restore the terminal."""


class ReportLines:
    """Prints a line for each ended run to standard output, and everything else to standard error."""

    def __init__(self, output: str, on_broken: Callable[[], object], mask: Callable[[str], str]) -> None:
        """``output`` is table, json or yaml. ``on_broken`` is called from a thread once the reader is gone."""
        self._mask = mask
        self._errors: Writer[str] = Writer(sys.stderr.fileno(), "".join)
        self._runs: Writer[EndedRun] = Writer(
            sys.stdout.fileno(),
            _RENDER[output],
            on_broken,
            lambda lost: self.say(f"standard output is read too slowly: {lost} lines were dropped"),
        )
        self._form = output
        self.observer: Observer = Lateness(self._ended)
        if output == "table":
            sys.stdout.write(_table_line(*_HEADING))
            sys.stdout.flush()

    def _ended(self, runs: list[EndedRun]) -> None:
        self._runs.put(runs)
        if self._form == "table":
            return
        for record, _ in runs:  # JSON and YAML lines have no output, which often says why a run failed
            if record.outcome is Outcome.FAILED and (last := last_line(record)):
                self.say(f"{rfc3339(record.slot)} {record.slug} failed: {printable(record.reason)}: {last}")

    def say(self, line: str) -> None:
        self._errors.put([self._mask(line) + "\n"])

    def print(self, line: str) -> None:
        self._errors.put([line])

    def planned(self, slug: str, wake_at: Instant | None) -> None:
        """Only ended runs are reported."""

    def unplanned(self, slug: str) -> None:
        """Only ended runs are reported."""

    async def follow(self, store: Store, now: Callable[[], Instant]) -> None:
        await asyncio.Event().wait()

    def ending(self) -> None:
        self.say("shutting down: running jobs get some seconds to finish; press Ctrl-C again to exit at once")

    def close(self) -> None:
        self._runs.close()
        self._errors.close()


class Lateness(Observer):
    """Passes on ended runs together with how late they started."""

    def __init__(self, ended: Callable[[list[EndedRun]], object]) -> None:
        self._ended = ended
        self._late: dict[str, Micros] = {}

    def started(self, attempt: Attempt, due: Instant, late: Micros) -> None:
        if len(self._late) >= MOST_STARTED:  # they belong to runs that were lost and end in another process
            self._late.clear()
        self._late.setdefault(attempt.run_id, late)

    def recorded(self, records: Sequence[RunRecord]) -> None:
        self._ended([(record, self._late.pop(record.run_id, None)) for record in records])


_encoder = msgspec.json.Encoder()


def _as_json_lines(runs: Sequence[EndedRun]) -> str:
    return "".join(_encoder.encode(run_as_json(record)).decode() + "\n" for record, _ in runs)


def _as_yaml_documents(runs: Sequence[EndedRun]) -> str:
    return "".join(as_yaml(run_as_json(record), explicit_start=True) for record, _ in runs)


def _as_table_lines(runs: Sequence[EndedRun]) -> str:
    return "".join(_table_line(*cells(record, late)) for record, late in runs)


_RENDER: dict[str, Callable[[Sequence[EndedRun]], str]] = {
    "json": _as_json_lines,
    "yaml": _as_yaml_documents,
    "table": _as_table_lines,
}

_HEADING = ("STARTED", "JOB", "OUTCOME", "TOOK", "ATTEMPT", "LATE", "REASON")


def cells(record: RunRecord, late: Micros | None) -> tuple[str, str, str, str, str, str, str]:
    """Return the cells of a run's row."""
    started = record.started
    return (
        rfc3339((record.finished if started is None else started) // 1_000_000 * 1_000_000),
        short_name(record.slug),
        record.outcome.value,
        "" if started is None else length(record.finished - started),
        str(record.attempt),
        "" if late is None else length(late),
        summary_of(record) if record.reason else "",
    )


def summary_of(record: RunRecord) -> str:
    """Return why a run failed and the last line that it printed."""
    last = last_line(record)
    if not record.reason:
        # A print job prints its slot and name, which the row already shows.
        return last.removeprefix(f"{rfc3339(record.slot)} {record.slug} ")
    return ": ".join(filter(None, (printable(record.reason), last)))


def last_line(record: RunRecord) -> str:
    """Return the last line of a run's output that is not empty."""
    lines = record.output.decode(errors="replace").split("\n")
    return printable(next((line for line in reversed(lines) if line.strip()), ""))


def length(micros: Micros) -> str:
    """Return a duration for people: milliseconds below a second, tenths of a second below a minute."""
    if micros < 1_000_000:
        return f"{micros / 1000:.0f}ms"
    return format_duration(micros // 100_000 * 100_000 if micros < 60_000_000 else micros // 1_000_000 * 1_000_000)


def _table_line(*columns: str) -> str:
    started, job, outcome, took, attempt, late, reason = columns
    return f"{started:20}  {job:30}  {outcome:10}  {took:>8}  {attempt:>7}  {late:>8}  {reason}".rstrip() + "\n"
