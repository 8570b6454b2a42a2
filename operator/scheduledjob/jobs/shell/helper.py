"""The replica's side of a helper process: sends it requests, and cleans up when it dies.

The helper (``spawner``) starts and ends the jobs. If its socket ends, it has died. Its jobs do not die with it: they go
on as orphans, so the replica finds them all in ``/proc`` and kills them before it reports that any of their attempts
has ended. A helper that does not react (a job runs as the same user, and may have stopped it) is killed, and its jobs
are killed in the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from scheduledjob.engine.clock import boot_seconds
from scheduledjob.engine.threads import wait_apart
from scheduledjob.jobs.shell.spawner.messages import (
    LEASE,
    LEASES_AT_ONCE,
    Cancel,
    Ended,
    Ready,
    Settings,
    Start,
    Started,
    Unpacker,
    pack,
)
from scheduledjob.jobs.shell.spawner.processes import CELLS, RUN_ID, VERSION, Mark, kill_orphans

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scheduledjob.engine.executor import Attempt
    from scheduledjob.jobs.shell.spawner.messages import Message

_START_TIMEOUT = 30.0
"""Seconds for a helper to start; on an idle machine it takes a few hundredths."""
_PATIENCE = 2.0
"""A helper that has not confirmed a cancel this many seconds after the grace period counts as stuck."""
_LEAST_PATIENCE = 0.1
_PROGRAM = "import sys; sys.path.append(sys.argv[1]); from spawner.loop import main; main(*map(int, sys.argv[2:]))"


class HelperError(Exception):
    """The helper process could not be started."""


class _Job:
    """A job that the replica has requested."""

    __slots__ = ("deadline", "ended", "mark", "number", "pid")

    def __init__(self, start: Start, ended: asyncio.Future[Ended | None]) -> None:
        self.number = start.number
        self.deadline = start.deadline
        self.mark: Mark = (start.environment[RUN_ID], start.environment[VERSION])
        self.pid: int | None = None
        self.ended = ended


class Helper(asyncio.Protocol):
    """A helper process, from its start to its end. When it has died, another ``Helper`` takes its place."""

    _process: subprocess.Popen[bytes]
    _transport: asyncio.WriteTransport

    def __init__(self, settings: Settings) -> None:
        self.dead = False
        self._settings = settings
        self._unpacker = Unpacker()
        self._jobs: dict[int, _Job] = {}
        self._ready = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._gone = asyncio.Event()
        self._orphans_killed: asyncio.Future[None] | None = None
        # The lease thread uses the three below, so the lock guards them. It is never held for long.
        self._lock = threading.Lock()
        self._numbers: dict[str, int] = {}
        """The newest job of each run."""
        self._unsent: dict[int, float] = {}
        """Renewed leases for which the pipe had no room: the newest deadline of each job."""
        self._leases: int | None = None

    @classmethod
    async def launch(cls, settings: Settings) -> Helper:
        """Start a helper and wait until it listens. Raises ``HelperError``."""
        helper = cls(settings)
        own, its = socket.socketpair()
        with its:
            # This comes first, so that there is no await between the start of the process and the ``try`` below.
            loop = asyncio.get_running_loop()
            helper._transport, _ = await loop.create_unix_connection(lambda: helper, sock=own)
            leases, helper._leases = os.pipe()
            try:
                os.set_blocking(helper._leases, False)
                _enlarge(helper._leases)
                helper._process = _popen(its.fileno(), leases)
            except OSError as error:
                helper._transport.close()
                helper._close_leases()
                raise HelperError(f"the helper process can't be started: {error}") from None
            finally:
                os.close(leases)
        helper._transport.write(pack(settings))
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                await helper._ready.wait()
        except TimeoutError:
            await helper.close()
            raise HelperError(f"the helper process did not answer within {_START_TIMEOUT:g} s") from None
        except asyncio.CancelledError:
            await helper.close()
            raise
        if helper.dead:
            await helper.close()
            raise HelperError(f"the helper process ended at once with status {helper._process.returncode}")
        return helper

    async def run(self, attempt: Attempt, start: Start) -> Ended | None:
        """Start the job of an attempt and wait until none of its processes is alive. None: the helper has died.

        If it is cancelled, it ends the job, and raises ``CancelledError`` when none of its processes is alive.
        """
        run_id = attempt.run_id
        job = _Job(start, asyncio.get_running_loop().create_future())
        self._jobs[job.number] = job
        with self._lock:
            self._numbers[run_id] = job.number
        try:
            if self.dead:
                return None
            # The deadline is read here because a renewal before ``_numbers`` was set reached only the attempt; a later
            # renewal goes through the pipe.
            self._transport.write(pack(start._replace(deadline=attempt.deadline)))
            try:
                await self._writable.wait()
                await asyncio.wait({job.ended})
            except asyncio.CancelledError:
                await self._end(job)
                raise
            return job.ended.result()
        finally:
            if self.dead:
                await self._kill_orphans()
            del self._jobs[job.number]
            with self._lock:
                if self._numbers.get(run_id) == job.number:
                    del self._numbers[run_id]
                self._unsent.pop(job.number, None)

    def extend(self, run_ids: Iterable[str], deadline: float) -> None:
        """Tell the helper that leases were renewed. Can be called from any thread, and does not block."""
        with self._lock:
            for run_id in run_ids:
                number = self._numbers.get(run_id)
                job = self._jobs.get(number) if number is not None else None
                if job is not None:
                    job.deadline = deadline
                    self._unsent[job.number] = deadline
            self._send_leases()

    async def close(self) -> None:
        """End the helper and all that is left of its jobs."""
        self._transport.close()
        self._close_leases()
        if self.dead:
            await self._kill_orphans()
        else:
            self.dead = True
            await outlast(wait_apart(self._wait_or_kill))
        await self._gone.wait()

    # ---- asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        """Handle messages of the helper."""
        for message in self._unpacker.feed(data):
            self._take(message)

    def pause_writing(self) -> None:
        """Let new attempts wait: the helper reads slower than this process writes."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let new attempts go on: the helper has caught up."""
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note that the helper has died, or that ``close`` was called."""
        self.dead = True
        self._close_leases()
        for event in (self._ready, self._writable, self._gone):
            event.set()
        for job in self._jobs.values():
            if not job.ended.done():
                job.ended.set_result(None)

    def _take(self, message: Message) -> None:
        if isinstance(message, Ready):
            self._ready.set()
        elif isinstance(message, Started | Ended):
            job = self._jobs.get(message.number)
            if job is None:
                return
            if isinstance(message, Started):
                job.pid = message.pid
            elif not job.ended.done():
                job.ended.set_result(message)

    # ---- ends

    async def _end(self, job: _Job) -> None:
        """Cancel a job and wait until it has ended, however often this task is cancelled meanwhile."""
        if not self.dead:
            self._transport.write(pack(Cancel(job.number)))
        # The helper kills a job at the margin before its lease ends. If it has not by half the margin, it is stuck.
        last = job.deadline - boot_seconds() - self._settings.margin / 2
        patience = max(_LEAST_PATIENCE, min(self._settings.cancel_grace + _PATIENCE, last))
        kill_timer = asyncio.get_running_loop().call_later(patience, self._process.kill)
        try:
            await outlast(job.ended)
        finally:
            kill_timer.cancel()

    async def _kill_orphans(self) -> None:
        """Kill the jobs that a dead helper has left running, once for all of its attempts."""
        if self._orphans_killed is None:
            leaders = {job.pid for job in self._jobs.values() if job.pid is not None}
            marks = {job.mark for job in self._jobs.values()}
            self._orphans_killed = wait_apart(self._kill_all, leaders, marks)
        await outlast(self._orphans_killed)

    def _kill_all(self, leaders: set[int], marks: set[Mark]) -> None:
        # The helper may be alive: all that is known is that its socket has ended.
        self._process.kill()
        self._process.wait()
        first = self._settings.cells
        kill_orphans(leaders, marks, range(first, first + CELLS) if first else range(0))

    def _wait_or_kill(self) -> None:
        try:
            self._process.wait(self._settings.cancel_grace + _PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    # ---- leases

    def _send_leases(self) -> None:
        if self._leases is None:
            self._unsent.clear()
            return
        while self._unsent:
            batch = list(self._unsent.items())[:LEASES_AT_ONCE]
            try:
                os.write(self._leases, b"".join(LEASE.pack(*item) for item in batch))
            except BlockingIOError:
                return
            except BrokenPipeError:
                self._unsent.clear()
                return
            for number, _ in batch:
                del self._unsent[number]

    def _close_leases(self) -> None:
        with self._lock:
            if self._leases is not None:
                os.close(self._leases)
                self._leases = None


async def outlast(future: asyncio.Future[None] | asyncio.Future[Ended | None]) -> None:
    """Wait until a future is done, however often this is cancelled; then raise the last cancellation."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait({future})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


def _enlarge(pipe: int) -> None:
    # Room for the leases of tens of thousands of jobs. With the default size, some would wait for the next renewal.
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 1 << 20)


def _popen(requests: int, leases: int) -> subprocess.Popen[bytes]:
    # -I and -S: it imports only the standard library, so it is small and starts in a hundredth of a second.
    arguments = [str(Path(__file__).parent), str(requests), str(leases), str(os.getpid())]
    return subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-I", "-S", "-c", _PROGRAM, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=(requests, leases),
        start_new_session=True,
        # Python itself may need this variable. The others may hold secrets, and the helper does not need them.
        env={name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},
    )
