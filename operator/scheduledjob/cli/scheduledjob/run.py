"""``run``: a replica for manifests, from its start to its end, in one process.

The order of things: signals first, so that Ctrl-C ends even a start that hangs; then the store, then what the files
say, then the replica beside the watching of the files and the telling of what happens. The first SIGINT or SIGTERM
ends all in order: what runs gets some seconds, what does not end is handed back to the store. A second Ctrl-C, and a
store that does not answer, end the process at once: shell jobs die with it, and the leases pass by themselves.
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
from scheduledjob.engine.replica_settings import Settings
from scheduledjob.engine.store import Store, StoreError
from scheduledjob.jobs.python.python_job import JobPluginError
from scheduledjob.stores import open_store
from scheduledjob.version import program_version

from .file_schedules import Schedules
from .file_watcher import LOOK_EVERY, Watcher
from .manifest_kinds import manifest_kinds
from .run_report import Lines, Report

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger("scheduledjob.run")

GRACE = 6.0
"""Seconds that running jobs have to end by themselves."""
LATEST_END = 9.0
"""Seconds after the first signal at which the process ends, whatever does not answer."""
COLLECT_AFTER = 100_000
"""New objects between two garbage collections: a collection stops the loop, and what starts then starts late."""
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Asked:
    """What was typed."""

    paths: list[str]
    store: str
    watch: bool
    prune: bool
    plugins: bool
    instance: str
    capacity: int
    output: str | None
    log_level: str


def run_manifests(asked: Asked) -> None:
    """Run until a signal; raises ``CommandError`` for what can't be begun."""
    try:
        store = open_store(asked.store, asked.instance)
    except ValueError as error:
        raise CommandError(f"--store: {error}", 2) from None
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_Running(asked, store).run())


class _Running:
    """One process that runs manifests."""

    def __init__(self, asked: Asked, store: Store) -> None:
        self._asked = asked
        self._store = store
        self._mask = Mask(asked.store)
        self._signals = 0
        self._stopping = asyncio.Event()
        self._replica: Replica | None = None
        self._report: Report | None = None

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled)
        report = self._report = self._new_report(lambda: loop.call_soon_threadsafe(self._stop))
        try:
            command_log.configure(self._asked.log_level, report.say, self._mask)
            await self._begin_and_work(report)
        finally:
            report.close()

    def _new_report(self, on_broken: Callable[[], object]) -> Report:
        output, terminal = self._asked.output, sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        if terminal and output in {None, "table"}:
            from .live import LiveTable

            return LiveTable(self._mask)
        return Lines(output or "json", on_broken, self._mask)

    async def _begin_and_work(self, report: Report) -> None:
        """A start that takes long ends with the signal, too."""
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

    async def _begin(self, report: Report) -> tuple[Schedules, Watcher]:
        asked = self._asked
        try:
            kinds, hook = manifest_kinds(report.print, plugins=asked.plugins)
        except JobPluginError as error:
            raise CommandError("; ".join(str(error).splitlines())) from None
        await self._store.connect()
        schedules = Schedules(asked.paths, self._store, kinds, report.say)
        schedules.on_put, schedules.on_end = report.planned, report.unplanned
        watcher = Watcher(asked.paths)
        if asked.watch:
            await asyncio.to_thread(watcher.begin)
        await schedules.begin(prune=asked.prune)
        if not schedules.count and not asked.watch:
            raise CommandError(f"nothing to run in {', '.join(asked.paths)}: no valid job was found", 2)
        self._replica = Replica(
            self._store,
            kinds,
            Settings(grace=GRACE, capacity=asked.capacity),
            program_version=program_version(),
            observer=report.observer,
            references=schedules.references,
            hook=hook,
            followers=schedules.followers,
        )
        return schedules, watcher

    async def _work(self, report: Report, schedules: Schedules, watcher: Watcher) -> None:
        replica = self._replica
        assert replica is not None
        gc.collect()
        gc.freeze()
        gc.set_threshold(COLLECT_AFTER, 20, 100)
        async with asyncio.TaskGroup() as tasks:
            beside = [tasks.create_task(self._follow(report, replica))]
            if self._asked.watch:
                beside.append(tasks.create_task(self._watch(schedules, watcher, replica)))
            if self._stopping.is_set():
                replica.stop()
            await tasks.create_task(replica.run())
            for task in beside:
                task.cancel()

    async def _follow(self, report: Report, replica: Replica) -> None:
        await replica.ready.wait()
        await report.follow(self._store, replica.clock.now)

    async def _watch(self, schedules: Schedules, watcher: Watcher, replica: Replica) -> None:
        await replica.ready.wait()
        while True:
            await asyncio.sleep(LOOK_EVERY)
            if not await asyncio.to_thread(watcher.look):
                continue
            try:
                await schedules.update(replica)
            except StoreError as error:
                log.warning("changed manifests wait for the store", error=in_one_line(error))
            else:
                watcher.done()

    # ---------------------------------------------------------------- the end

    def _signalled(self) -> None:
        self._signals += 1
        if self._signals > 1:
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
