"""``run``: runs the jobs of manifests in one process, from its start to its end.

Signal handlers are installed first, so that Ctrl-C ends even a start that hangs. Then the store is opened, the files
are read, and the replica runs beside the file watcher and the report. The first SIGINT or SIGTERM shuts down cleanly:
running jobs get ``GRACE`` seconds, and unfinished work goes back to the store. A second Ctrl-C, or a shutdown that
takes longer than ``LATEST_END`` seconds, ends the process at once: its shell jobs die with it, and its leases expire.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import structlog
import uvloop

from scheduledjob.cli.shared import command_log
from scheduledjob.cli.shared.command_errors import CommandError, Mask, in_one_line
from scheduledjob.engine.replica import Replica
from scheduledjob.engine.replica_settings import ReplicaHost, ReplicaSettings
from scheduledjob.engine.shutdown import shutdown_limit
from scheduledjob.engine.store import Store, StoreError
from scheduledjob.engine.threads import wait_apart
from scheduledjob.jobs.built_in_kind import JobContext
from scheduledjob.jobs.job_registry import make_kinds
from scheduledjob.jobs.python.python_job import JobPluginError
from scheduledjob.stores import open_store
from scheduledjob.version import program_version

from .file_schedules import STORED_PREFIX, FileSchedules
from .file_watcher import POLL_INTERVAL, FileWatcher
from .run_report import ReportLines, RunReport

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger("scheduledjob.run")

GRACE = 6.0
"""Seconds that running jobs get to finish after the first signal. If the store answers, the process ends before the
10 seconds of ``docker stop`` are over."""
LATEST_END = shutdown_limit(GRACE)
"""Seconds after the first signal at which the process exits, even if the store does not answer."""
COLLECT_AFTER = 100_000
"""New objects between two garbage collections. A collection stops the event loop and delays the starts of jobs."""
INTERRUPTED = 130
"""The exit code after a second Ctrl-C, as shells report SIGINT."""

FENCED = 3
"""The exit code after a job has blocked the event loop for longer than its lease, which could not be renewed."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options of ``run``."""

    paths: list[str]
    store: str
    watch: bool
    prune: bool
    plugins: bool
    instance: str
    capacity: int
    output: str | None
    log_level: str


def run_manifests(options: RunOptions) -> None:
    """Run until a signal. Raises ``CommandError`` if it can't start."""
    try:
        store = open_store(options.store, options.instance)
    except ValueError as error:
        raise CommandError(f"--store: {error}", 2) from None
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_RunProcess(options, store).run())


class _RunProcess:
    """One process that runs manifests."""

    def __init__(self, options: RunOptions, store: Store) -> None:
        self._options = options
        self._store = store
        self._mask = Mask(options.store)
        self._stopping = asyncio.Event()
        self._replica: Replica | None = None
        self._report: RunReport | None = None

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled, number)
        report = self._report = self._new_report(lambda: loop.call_soon_threadsafe(self._stop))
        try:
            command_log.configure(self._options.log_level, report.say, self._mask)
            await self._begin_and_work(report)
        finally:
            report.close()

    def _new_report(self, on_broken: Callable[[], object]) -> RunReport:
        """Return the report for the output. It calls ``on_broken`` from a thread once its reader is gone."""
        output, terminal = self._options.output, sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        if terminal and output in {None, "table"}:
            from .live import LiveTable

            return LiveTable(self._mask)
        return ReportLines(output or "json", on_broken, self._mask)

    async def _begin_and_work(self, report: RunReport) -> None:
        """Start and run. A signal also ends a start that is still under way."""
        beginning = asyncio.create_task(self._begin(report))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([beginning, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not beginning.done():
                beginning.cancel()
                await asyncio.wait([beginning])
                return
            schedules, watcher = beginning.result()
            await self._work(report, schedules, watcher)
        finally:
            stopping.cancel()
            await self._store.close()

    async def _begin(self, report: RunReport) -> tuple[FileSchedules, FileWatcher]:
        options = self._options
        try:
            kinds, hook = make_kinds(STORED_PREFIX, JobContext(write=report.print, plugins=options.plugins))
        except JobPluginError as error:
            raise CommandError("; ".join(str(error).splitlines())) from None
        await self._store.connect()
        schedules = FileSchedules(options.paths, self._store, kinds, report.say)
        schedules.on_put, schedules.on_end = report.planned, report.unplanned
        watcher = FileWatcher(options.paths)
        if options.watch:
            await wait_apart(watcher.begin)
        await schedules.begin(prune=options.prune)
        if not schedules.count and not options.watch:
            raise CommandError(f"nothing to run in {', '.join(options.paths)}: no valid job was found", 2)
        host = ReplicaHost(
            program_version=program_version(),
            observer=report.observer,
            references=schedules.references,
            hook=hook,
            followers=schedules.followers,
            on_outlived=lambda slug: self._end_at_once(FENCED),
        )
        settings = ReplicaSettings(grace=GRACE, capacity=options.capacity)
        self._replica = Replica(self._store, kinds, settings, host)
        return schedules, watcher

    async def _work(self, report: RunReport, schedules: FileSchedules, watcher: FileWatcher) -> None:
        replica = self._replica
        assert replica is not None
        gc.collect()
        gc.freeze()
        gc.set_threshold(COLLECT_AFTER, 20, 100)
        async with asyncio.TaskGroup() as tasks:
            beside = [tasks.create_task(self._follow(report, replica))]
            if self._options.watch:
                beside.append(tasks.create_task(self._watch(schedules, watcher, replica)))
            if self._stopping.is_set():
                replica.stop()
            await tasks.create_task(replica.run())
            for task in beside:
                task.cancel()

    async def _follow(self, report: RunReport, replica: Replica) -> None:
        await replica.ready.wait()
        await report.follow(self._store, replica.clock.now)

    async def _watch(self, schedules: FileSchedules, watcher: FileWatcher, replica: Replica) -> None:
        await replica.ready.wait()
        while True:
            await asyncio.sleep(POLL_INTERVAL)
            if not await wait_apart(watcher.poll):
                continue
            try:
                await schedules.update(replica)
            except StoreError as error:
                log.warning("changed manifests wait for the store", error=in_one_line(error))
            else:
                watcher.done()

    # ---------------------------------------------------------------- the end

    def _signalled(self, number: signal.Signals) -> None:
        # Process managers and shells may send SIGTERM twice. Only a person who presses Ctrl-C is impatient.
        if number is signal.SIGINT and self._stopping.is_set():
            self._end_at_once(INTERRUPTED)
        self._stop()

    def _stop(self) -> None:
        if self._stopping.is_set():
            return
        self._stopping.set()
        asyncio.get_running_loop().call_later(LATEST_END, self._end_at_once, 0)
        if self._report is not None:
            self._report.ending()
        if self._replica is not None:
            self._replica.stop()

    def _end_at_once(self, code: int) -> NoReturn:
        if self._report is not None:
            self._report.close()
        sys.stderr.flush()
        os._exit(code)
