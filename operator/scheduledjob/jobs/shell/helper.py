"""The replica's end of a helper process: what is asked of it, and what is done when it dies.

The helper (``spawner``) starts and ends the jobs; here is who talks to it. Its death is noticed by the end of its
socket. It takes no job with it: its jobs go on as orphans, so the replica kills them itself, all of them in one look
over ``/proc``, before any of their attempts is told to have ended. A helper that no longer does what it is told (a job
may have stopped it: it runs as the same user) is killed, and then that is what happens.
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
import time
from pathlib import Path
from typing import TYPE_CHECKING

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
from scheduledjob.jobs.shell.spawner.processes import RUN_ID, VERSION, Mark, exterminate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scheduledjob.engine.executor import Attempt
    from scheduledjob.jobs.shell.spawner.messages import Message

_START_TIMEOUT = 30.0
"""Seconds for a helper to start; on an idle machine it takes some hundredths."""
_PATIENCE = 2.0
"""Seconds beyond the grace of a cancel after which a helper that has not confirmed it counts as stuck."""
_LEAST_PATIENCE = 0.1
_PROGRAM = "import sys; sys.path.append(sys.argv[1]); from spawner.loop import main; main(*map(int, sys.argv[2:]))"


class HelperError(Exception):
    """The helper process could not be started."""


class _Job:
    """What the replica knows of a job that it has asked for."""

    __slots__ = ("deadline", "ended", "mark", "number", "pid")

    def __init__(self, start: Start, ended: asyncio.Future[Ended | None]) -> None:
        self.number = start.number
        self.deadline = start.deadline
        self.mark: Mark = (start.environment[RUN_ID], start.environment[VERSION])
        self.pid: int | None = None
        self.ended = ended


class Helper(asyncio.Protocol):
    """One helper process, from its start to its end; when it has died, another takes its place."""

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
        self._burial: asyncio.Future[None] | None = None
        # The lease thread reads the three below, so they are touched under the lock; none is held for long.
        self._lock = threading.Lock()
        self._numbers: dict[str, int] = {}
        """The newest job of each run."""
        self._unsent: dict[int, float] = {}
        """Renewed leases that the pipe had no room for: the newest deadline of each job."""
        self._leases: int | None = None

    @classmethod
    async def launch(cls, settings: Settings) -> Helper:
        """Start a helper and wait until it listens. Raises ``HelperError``."""
        helper = cls(settings)
        own, its = socket.socketpair()
        with its:
            # First of all, so that nothing is waited for between the start of the process and the ``try`` below.
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
        """Have an attempt's job started and wait until nothing of it is alive; None: the helper has died.

        When cancelled, ends the job and raises ``CancelledError`` after nothing of it is alive.
        """
        run_id = attempt.run_id
        job = _Job(start, asyncio.get_running_loop().create_future())
        self._jobs[job.number] = job
        with self._lock:
            self._numbers[run_id] = job.number
        try:
            if self.dead:
                return None
            # Read only now: a renewal before the line above went to the attempt alone, one after it goes to the pipe.
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
                await self._tombstone()
            del self._jobs[job.number]
            with self._lock:
                if self._numbers.get(run_id) == job.number:
                    del self._numbers[run_id]
                self._unsent.pop(job.number, None)

    def extend(self, run_ids: Iterable[str], deadline: float) -> None:
        """Pass on that leases were renewed; from any thread, without waiting for anything."""
        with self._lock:
            for run_id in run_ids:
                number = self._numbers.get(run_id)
                job = self._jobs.get(number) if number is not None else None
                if job is not None:
                    job.deadline = deadline
                    self._unsent[job.number] = deadline
            self._send_leases()

    async def close(self) -> None:
        """End the helper, and with it whatever is left of its jobs."""
        self._transport.close()
        self._close_leases()
        if self.dead:
            await self._tombstone()
        else:
            self.dead = True
            await outlast(asyncio.get_running_loop().run_in_executor(None, self._wait_or_kill))
        await self._gone.wait()

    # The protocol of asyncio

    def data_received(self, data: bytes) -> None:
        """Take what the helper says."""
        for message in self._unpacker.feed(data):
            self._take(message)

    def pause_writing(self) -> None:
        """The helper reads slower than we write: the next attempts wait."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has died, or we have closed."""
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

    # Ends

    async def _end(self, job: _Job) -> None:
        """Cancel a job and wait until it has ended, however often we are cancelled meanwhile."""
        if not self.dead:
            self._transport.write(pack(Cancel(job.number)))
        # The helper ends what is about to lose its lease at the margin. If half of that has gone by it is stuck.
        last = job.deadline - time.monotonic() - self._settings.margin / 2
        patience = max(_LEAST_PATIENCE, min(self._settings.cancel_grace + _PATIENCE, last))
        doom = asyncio.get_running_loop().call_later(patience, self._process.kill)
        try:
            await outlast(job.ended)
        finally:
            doom.cancel()

    async def _tombstone(self) -> None:
        """Kill what a dead helper has left running, once for all of its attempts."""
        if self._burial is None:
            leaders = {job.pid for job in self._jobs.values() if job.pid is not None}
            marks = {job.mark for job in self._jobs.values()}
            self._burial = asyncio.get_running_loop().run_in_executor(None, self._exterminate, leaders, marks)
        await outlast(self._burial)

    def _exterminate(self, leaders: set[int], marks: set[Mark]) -> None:
        # It may be alive: its socket ended, and nothing else is known of it.
        self._process.kill()
        self._process.wait()
        exterminate(leaders, marks)

    def _wait_or_kill(self) -> None:
        try:
            self._process.wait(self._settings.cancel_grace + _PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    # Leases

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
    """Wait until a future is done however often the waiting is cancelled; a cancellation comes out afterwards."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait({future})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


def _enlarge(pipe: int) -> None:
    # Room for the leases of tens of thousands of jobs at once; with the usual size, some would wait for the next time.
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 1 << 20)


def _popen(requests: int, leases: int) -> subprocess.Popen[bytes]:
    # -I and -S: it imports nothing but the standard library, so it is small and ready in a hundredth of a second.
    arguments = [str(Path(__file__).parent), str(requests), str(leases), str(os.getpid())]
    return subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-I", "-S", "-c", _PROGRAM, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=(requests, leases),
        start_new_session=True,
        # Where Python itself is found by it; the rest of ours is no business of a process beside jobs.
        env={name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},
    )
