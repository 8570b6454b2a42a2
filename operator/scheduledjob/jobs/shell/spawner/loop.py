"""The loop of the helper process: it reads requests, starts, watches and ends jobs, and sends answers.

Each round does a little of everything, in this order: read requests, renewals and output; start a few jobs; reap exited
processes; handle alarms; kill the remaining processes of jobs that are ending; send answers. No step waits, so nothing
delays a deadline by more than a few milliseconds.

How a job ends: its first process exits, and before that process is reaped (so that its id can't be reused yet), its
whole group is killed. Processes that left the group become children of this process, because a subreaper inherits
orphans. The job has ended when none of the children belongs to it. A child that can't be assigned to a job (it has a
session, parents and environment of its own) is killed as soon as any job ends, because otherwise it might outlive its
job. Processes of confined jobs can always be assigned, by their mark.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import heapq
import os
import selectors
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING

from .child import IGNORED, Limits, SpawnedJob, StartError, Surroundings
from .messages import LEASE, Cancel, Ended, Ready, Settings, Start, Started, Unpacker, boot_seconds, pack
from .processes import Mark, cell_of, children, mark_of
from .sandbox import Sandboxes

if TYPE_CHECKING:
    from collections.abc import Callable

    from .messages import Message

_PR_SET_DUMPABLE, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 4, 15, 36

_STARTS_A_ROUND = 8
_ROUND_WHILE_ENDING = 0.005
"""Seconds. Exits wake the loop, so this is for what no signal reports, such as an exec that is under way."""
_LONGEST_WAIT, _LONGEST_WAIT_WITH_JOBS = 3600.0, 1.0
"""Seconds. A selector's clock stands still while the machine sleeps, and leases go on."""
_SWEEPING = 0.005
"""Seconds of a round in which the processes of confined jobs are killed one by one, again and again: a process that
forks and exits without pause has a new process id each time."""
_STRANGER_POLLS = 3
"""A child belongs to no job if its environment has no mark this many times. A process in the middle of an exec has no
environment for a moment."""
_STACK = 256 * 1024
"""Bytes for the thread of a confined job, which does very little."""
_NO_JOB = SpawnedJob(Start(0, [], {}, None, b"", 0.0, None, 0, 0), 0.0)
"""The owner of a child that belongs to no job."""


class ReplicaGoneError(Exception):
    """The replica has closed its socket, or died."""


class Spawner:
    """All jobs of one replica."""

    def __init__(self, requests: socket.socket, leases: int, replica: int) -> None:
        self._requests = requests
        self._leases = leases
        self._unpacker = Unpacker()
        self._answers = bytearray()
        self._waiting: collections.deque[SpawnedJob] = collections.deque()
        self._jobs: dict[int, SpawnedJob] = {}
        """By number, from the request to the answer."""
        self._running: dict[int, SpawnedJob] = {}
        """By process id: the jobs whose first process has not been reaped."""
        self._sessions: dict[int, SpawnedJob] = {}
        """By process id: the jobs whose session may have members."""
        self._marks: dict[Mark, SpawnedJob] = {}
        """By the mark in the environment of its processes."""
        self._ending: set[SpawnedJob] = set()
        """Jobs whose first process is gone, but which may have others."""
        self._owners: dict[int, SpawnedJob] = {}
        """The job of each adopted child. The process id can't be reused before the child is reaped here."""
        self._strangers: collections.Counter[int] = collections.Counter()
        """How often each child was found to belong to no job."""
        self._unkillable: set[int] = set()
        """Children that run as another user, so that this process can't kill them."""
        self._alarms: list[tuple[float, int]] = []
        """A heap of (boot seconds, number of the job)."""
        self._early_leases: dict[int, float] = {}
        """Leases that were renewed before their request was read: the pipe is faster than the socket."""
        self._last_number = 0
        self._settings = Settings({}, 5.0, 1.0, 1.0)
        nothing = os.open(os.devnull, os.O_RDONLY)
        home = os.open(".", os.O_PATH | os.O_DIRECTORY)
        self._surroundings = Surroundings(Limits({}), home, nothing, (os.dup(nothing), os.dup(nothing)), None)
        self._replica = replica

        self._selector = selectors.DefaultSelector()
        self._selector.register(requests, selectors.EVENT_READ, self._read_requests)
        self._selector.register(leases, selectors.EVENT_READ, self._read_leases)
        wake, self._wakeup = socket.socketpair()
        wake.setblocking(False)
        self._wakeup.setblocking(False)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._selector.register(wake, selectors.EVENT_READ, lambda: wake.recv(4096))
        # If the replica forked without an exec, the socket stays open after its end. So its process is watched, too.
        with contextlib.suppress(OSError):
            self._selector.register(os.pidfd_open(replica), selectors.EVENT_READ, self._replica_is_gone)

    def serve(self) -> None:
        """Serve until the replica is gone, then kill everything."""
        self._answer(Ready())
        try:
            while True:
                self._round()
        except ReplicaGoneError:
            self._kill_all()
            for job in self._jobs.values():
                if job.sandbox is not None:
                    job.sandbox.close()
            if self._surroundings.sandboxes is not None:
                self._surroundings.sandboxes.close()

    def _round(self) -> None:
        for key, _ in self._selector.select(self._select_timeout()):
            work: Callable[[], object] = key.data
            work()
        for _ in range(min(_STARTS_A_ROUND, len(self._waiting))):
            self._start(self._waiting.popleft())
        self._reap()
        self._handle_alarms()
        self._end_stragglers()
        self._flush()

    def _select_timeout(self) -> float:
        """Return for how many seconds the loop may wait for something to read."""
        if self._waiting:
            return 0.0
        longest = _LONGEST_WAIT_WITH_JOBS if self._alarms else _LONGEST_WAIT
        if self._ending:
            longest = _ROUND_WHILE_ENDING
        return min(max(0.0, self._alarms[0][0] - boot_seconds()), longest) if self._alarms else longest

    # ---- requests

    def _replica_is_gone(self) -> None:
        raise ReplicaGoneError

    def _read_requests(self) -> None:
        try:
            data = self._requests.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError:
            raise ReplicaGoneError from None
        if not data:
            raise ReplicaGoneError
        for message in self._unpacker.feed(data):
            self._handle_request(message)

    def _handle_request(self, message: Message) -> None:
        if isinstance(message, Start):
            # The margin depends on what is left of the lease now: the request may have waited.
            deadline = max(message.deadline, self._early_leases.pop(message.number, 0.0))
            job = SpawnedJob(message, self._safe(deadline))
            self._last_number = message.number
            self._jobs[job.number] = job
            self._waiting.append(job)
        elif isinstance(message, Cancel):
            cancelled = self._jobs.get(message.number)
            if cancelled is not None:
                self._terminate(cancelled, "cancel", self._settings.cancel_grace)
        elif isinstance(message, Settings):
            self._settings = message
            limits = Limits(message.limits, hard=message.scratches is not None)
            sandboxes = None
            if message.scratches is not None:
                sandboxes = Sandboxes(
                    message.scratches, message.readable, message.landlock, self._replica, message.cells
                )
            self._surroundings = self._surroundings._replace(limits=limits, sandboxes=sandboxes)

    def _read_leases(self) -> None:
        data = os.read(self._leases, LEASE.size << 12)
        if not data:
            raise ReplicaGoneError
        for number, deadline in LEASE.iter_unpack(data):
            job = self._jobs.get(number)
            if job is not None:
                job.deadline = max(job.deadline, self._safe(deadline))
            elif number > self._last_number:
                self._early_leases[number] = deadline

    def _safe(self, deadline: float) -> float:
        """Return when to kill a job whose lease ends at ``deadline``: a margin earlier."""
        left = deadline - boot_seconds()
        return deadline - min(self._settings.margin, max(0.0, left / 4))

    # ---- starts and ends

    def _start(self, job: SpawnedJob) -> None:
        now = boot_seconds()
        if job.cause or now >= job.deadline:
            job.cause = job.cause or "lease"
            self._conclude(job)
            return
        try:
            job.spawn(self._surroundings)
        except StartError as error:
            job.problem = str(error)
        except OSError as error:
            job.problem = f"can't start the job: {error.strerror}"
        if job.problem:
            self._conclude(job)
            return
        self._running[job.pid] = self._sessions[job.pid] = self._marks[job.mark] = job
        if job.request.timeout is not None:
            job.ends_at = time.monotonic() + job.request.timeout
        heapq.heappush(self._alarms, (job.next_alarm, job.number))
        assert job.output is not None
        self._selector.register(job.output, selectors.EVENT_READ, lambda: self._read_output(job))
        self._answer(Started(job.number, job.pid))

    def _read_output(self, job: SpawnedJob) -> None:
        # The job may have ended earlier in this round.
        if job.output is not None and not job.read():
            self._selector.unregister(job.output)
            job.close()

    def _terminate(self, job: SpawnedJob, cause: str, grace: float) -> None:
        """Send TERM now, and KILL after the grace period. A job that is still waiting is not started."""
        ends_at = time.monotonic() + grace
        if job.cause:
            # A job that is ending can only end sooner: a cancel does not wait for the grace period of a timeout.
            job.ends_at = min(ends_at, job.ends_at or ends_at)
        else:
            job.cause = cause
            job.ends_at = ends_at
            if job.pid in self._running:
                job.signal(signal.SIGTERM)
                # A stopped process does not react to TERM.
                job.signal(signal.SIGCONT)
        heapq.heappush(self._alarms, (job.next_alarm, job.number))

    def _kill(self, job: SpawnedJob) -> None:
        """Kill the process group of a job."""
        job.signal(signal.SIGKILL)
        job.ends_at = None
        job.deadline = float("inf")
        if job.problem:
            # It could not be killed. Its run must not wait for it.
            del self._running[job.pid]
            self._unkillable.add(job.pid)
            self._ending.add(job)

    def _handle_alarms(self) -> None:
        """Handle the alarms that are due."""
        now = boot_seconds()
        while self._alarms and self._alarms[0][0] <= now:
            job = self._jobs.get(heapq.heappop(self._alarms)[1])
            if job is None or job.pid not in self._running:
                continue
            if now >= job.deadline:
                job.cause = job.cause or "lease"
                self._kill(job)
            elif job.ends_at is not None and time.monotonic() >= job.ends_at:
                if job.cause:
                    self._kill(job)
                else:
                    self._terminate(job, "timeout", self._settings.timeout_grace)
            elif job.next_alarm < float("inf"):
                heapq.heappush(self._alarms, (job.next_alarm, job.number))

    def _reap(self) -> None:
        while True:
            try:
                exited = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if exited is None:
                return
            pid = exited.si_pid
            job = self._running.pop(pid, None)
            if job is not None:
                job.status = exited.si_status if exited.si_code == os.CLD_EXITED else -exited.si_status
                job.signal(signal.SIGKILL)
                self._ending.add(job)
            os.waitpid(pid, 0)
            self._owners.pop(pid, None)
            self._strangers.pop(pid, None)
            self._unkillable.discard(pid)

    def _end_stragglers(self) -> None:
        """Kill the remaining processes of the jobs that are ending, and conclude the jobs that have none."""
        if not self._ending:
            return
        sandboxes = self._surroundings.sandboxes
        one_by_one = sandboxes is not None and not sandboxes.can_kill_at_once
        until = time.monotonic() + _SWEEPING
        busy = self._sweep()
        while busy and one_by_one and time.monotonic() < until:
            self._reap()
            busy = self._sweep()
        for job in self._ending - busy:
            self._ending.discard(job)
            self._conclude(job)

    def _sweep(self) -> set[SpawnedJob]:
        """Kill the remaining processes of the jobs that are ending. Returns the jobs that had some."""
        threads: list[int] = []
        for job in self._ending:
            if job.sandbox is not None:
                threads.append(job.sandbox.thread)
                if not job.is_killed:
                    job.is_killed = True
                    job.sandbox.kill()
        busy: set[SpawnedJob] = set()
        for pid in children(threads).difference(self._running, self._unkillable):
            owner = self._owners.get(pid) or self._find_owner(pid)
            if owner in self._ending:
                busy.add(owner)
                self._kill_straggler(pid, owner)
            elif owner is _NO_JOB:
                busy |= self._ending
                if self._strangers[pid] >= _STRANGER_POLLS:
                    self._kill_straggler(pid, owner)
        return busy

    def _find_owner(self, pid: int) -> SpawnedJob:
        """Return the job of an adopted child, by its session, its group or its mark; ``_NO_JOB`` if there is none."""
        if self._surroundings.sandboxes is not None:
            job = self._jobs.get(cell_of(pid) - self._settings.cells)
        else:
            try:
                job = self._sessions.get(os.getsid(pid)) or self._sessions.get(os.getpgid(pid))
            except OSError:
                job = None
            if job is None:
                mark = mark_of(pid)
                job = self._marks.get(mark) if mark is not None else None
        if job is None:
            self._strangers[pid] += 1
            return _NO_JOB
        self._owners[pid] = job
        return job

    def _kill_straggler(self, pid: int, owner: SpawnedJob) -> None:
        try:
            os.kill(pid, signal.SIGKILL)
        except PermissionError:
            self._unkillable.add(pid)
            owner.problem = f"process {pid} runs as another user and can't be killed"

    def _conclude(self, job: SpawnedJob) -> None:
        """Report the end of a job that has no process any more."""
        if job.output is not None:
            if job.pid:
                self._selector.unregister(job.output)
            job.drain()
        if job.sandbox is not None:
            job.sandbox.close()
        del self._jobs[job.number]
        self._sessions.pop(job.pid, None)
        if self._marks.get(job.mark) is job:
            del self._marks[job.mark]
        tail = bytes(job.tail[-job.request.tail :])
        self._answer(Ended(job.number, job.status, job.cause, job.problem, bytes(job.head), tail, job.total))

    def _kill_all(self) -> None:
        """Kill all descendants. Orphans become children of this process, so repeat until there are none."""
        for job in self._jobs.values():
            if job.sandbox is not None:
                job.sandbox.kill()
        for job in self._running.values():
            job.signal(signal.SIGKILL)
        threads = [job.sandbox.thread for job in self._jobs.values() if job.sandbox is not None]
        while True:
            self._reap()
            remaining = (children(threads) | self._running.keys()) - self._unkillable
            if not remaining:
                return
            for pid in remaining:
                self._kill_straggler(pid, _NO_JOB)
            time.sleep(_ROUND_WHILE_ENDING)

    # ---- answers

    def _answer(self, message: Message) -> None:
        self._answers += pack(message)

    def _flush(self) -> None:
        """Send the answers. What the socket does not take waits until it is writable."""
        if self._answers:
            try:
                sent = self._requests.send(self._answers)
            except BlockingIOError:
                sent = 0
            except OSError:
                raise ReplicaGoneError from None
            del self._answers[:sent]
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._answers else 0)
        if self._selector.get_key(self._requests).events != events:
            self._selector.modify(self._requests, events, self._read_requests)


def main(requests: int, leases: int, replica: int) -> None:
    """Serve the replica with the process id ``replica``, which has the other ends of the socket and the pipe."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    system = ctypes.CDLL(None, use_errno=True)
    if system.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        sys.exit(f"the helper process can't adopt orphans: {os.strerror(ctypes.get_errno())}")
    system.prctl(_PR_SET_NAME, b"sjob-spawner", 0, 0, 0)
    # Otherwise jobs, which have the same user, could read each other's payloads and Secrets in this process.
    system.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    for descriptor in (requests, leases):
        os.set_blocking(descriptor, False)
        os.set_inheritable(descriptor, False)
    if os.getppid() != replica:
        return
    threading.stack_size(_STACK)
    Spawner(socket.socket(fileno=requests), leases, replica).serve()
