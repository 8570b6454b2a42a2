"""What ``run`` tells of the runs that end: a line for each, in the form that was asked for.

This is the output for programs, and for a pipe; the live table of a terminal is in ``live``. Both take lines for
people (``say``) and what ``print`` jobs print (``print``) too, because only who writes the output knows where those
can go without spoiling it.
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

    Ended = tuple[RunRecord, Micros | None]
    """A run, and how late its first attempt started, where this process saw that."""


MOST_STARTED = 100_000
"""Runs whose lateness is remembered until they end."""


class Report(Protocol):
    """Where ``run`` tells what happens."""

    observer: Observer

    def say(self, line: str) -> None:
        """A line for people; from any thread."""

    def print(self, line: str) -> None:
        """What a ``print`` job prints, with its line end."""

    def planned(self, slug: str, wake_at: Instant | None) -> None:
        """A schedule was put into the store."""

    def unplanned(self, slug: str) -> None:
        """A schedule was ended."""

    async def follow(self, store: Store, now: Callable[[], Instant]) -> None:
        """Runs beside the replica, until it is cancelled."""

    def ending(self) -> None:
        """The end has begun."""

    def close(self) -> None:
        """Write what is left, and leave the terminal as it was."""


class Lines:
    """A line for each ended run on standard output; everything else goes to standard error."""

    def __init__(self, output: str, on_broken: Callable[[], object], mask: Callable[[str], str]) -> None:
        """``output``: table, json or yaml. ``on_broken`` is called, from a thread, once nobody reads any more."""
        self._mask = mask
        self._errors: Writer[str] = Writer(sys.stderr.fileno(), "".join)
        self._runs: Writer[Ended] = Writer(
            sys.stdout.fileno(),
            _RENDER[output],
            on_broken,
            lambda lost: self.say(f"standard output is read too slowly: {lost} lines were left out"),
        )
        self._form = output
        self.observer: Observer = Lateness(self._ended)
        if output == "table":
            sys.stdout.write(_table_line(*_HEADING))
            sys.stdout.flush()

    def _ended(self, runs: list[Ended]) -> None:
        self._runs.put(runs)
        if self._form == "table":
            return
        for record, _ in runs:  # what programs are given has no output, and without it nobody can tell why it failed
            if record.outcome is Outcome.FAILED and (last := last_line(record)):
                self.say(f"{rfc3339(record.slot)} {record.slug} failed: {printable(record.reason)}: {last}")

    def say(self, line: str) -> None:
        self._errors.put([self._mask(line) + "\n"])

    def print(self, line: str) -> None:
        self._errors.put([line])

    def planned(self, slug: str, wake_at: Instant | None) -> None:
        """Nothing to do: only what ended is told."""

    def unplanned(self, slug: str) -> None:
        """Nothing to do: only what ended is told."""

    async def follow(self, store: Store, now: Callable[[], Instant]) -> None:
        await asyncio.Event().wait()

    def ending(self) -> None:
        self.say("ending: what still runs has some seconds to end by itself; Ctrl-C again ends at once")

    def close(self) -> None:
        self._runs.close()
        self._errors.close()


class Lateness(Observer):
    """Tells ended runs together with how late they began."""

    def __init__(self, ended: Callable[[list[Ended]], object]) -> None:
        self._ended = ended
        self._late: dict[str, Micros] = {}

    def started(self, attempt: Attempt, due: Instant, late: Micros) -> None:
        if len(self._late) >= MOST_STARTED:  # of runs that were lost and that another process tells of
            self._late.clear()
        self._late.setdefault(attempt.run_id, late)

    def recorded(self, records: Sequence[RunRecord]) -> None:
        self._ended([(record, self._late.pop(record.run_id, None)) for record in records])


_encoder = msgspec.json.Encoder()


def _as_json_lines(runs: Sequence[Ended]) -> str:
    return "".join(_encoder.encode(run_as_json(record)).decode() + "\n" for record, _ in runs)


def _as_yaml_documents(runs: Sequence[Ended]) -> str:
    return "".join(as_yaml(run_as_json(record), explicit_start=True) for record, _ in runs)


def _as_table_lines(runs: Sequence[Ended]) -> str:
    return "".join(_table_line(*cells(record, late)) for record, late in runs)


_RENDER: dict[str, Callable[[Sequence[Ended]], str]] = {
    "json": _as_json_lines,
    "yaml": _as_yaml_documents,
    "table": _as_table_lines,
}

_HEADING = ("STARTED", "JOB", "OUTCOME", "TOOK", "ATTEMPT", "LATE", "REASON")


def cells(record: RunRecord, late: Micros | None) -> tuple[str, str, str, str, str, str, str]:
    """A run as a table shows it."""
    started = record.started
    return (
        rfc3339((record.finished if started is None else started) // 1_000_000 * 1_000_000),
        short_name(record.slug),
        record.outcome.value,
        "" if started is None else length(record.finished - started),
        str(record.attempt),
        "" if late is None else length(late),
        told(record) if record.reason else "",
    )


def told(record: RunRecord) -> str:
    """Why a run failed, and the last line of what it printed."""
    last = last_line(record)
    if not record.reason:
        # A print job says slot and name itself; they stand in the row already.
        return last.removeprefix(f"{rfc3339(record.slot)} {record.slug} ")
    return ": ".join(filter(None, (printable(record.reason), last)))


def last_line(record: RunRecord) -> str:
    """The last line of what a run printed that is not empty."""
    lines = record.output.decode(errors="replace").split("\n")
    return printable(next((line for line in reversed(lines) if line.strip()), ""))


def length(micros: Micros) -> str:
    """A length for people: milliseconds below a second, tenths below a minute."""
    if micros < 1_000_000:
        return f"{micros / 1000:.0f}ms"
    return format_duration(micros // 100_000 * 100_000 if micros < 60_000_000 else micros // 1_000_000 * 1_000_000)


def _table_line(*columns: str) -> str:
    started, job, outcome, took, attempt, late, reason = columns
    return f"{started:20}  {job:30}  {outcome:10}  {took:>8}  {attempt:>7}  {late:>8}  {reason}".rstrip() + "\n"
