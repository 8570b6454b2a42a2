"""One job in the helper: how it is started, and what is kept of what it prints.

The payload on standard input is a file in memory and not a pipe: it never fills up, needs nobody to write the rest of
it later, and is forgotten when the job closes it, read or not.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from typing import TYPE_CHECKING, NamedTuple

from .processes import RUN_ID, VERSION, Mark

if TYPE_CHECKING:
    from .messages import Start
    from .sandbox import Sandbox, Sandboxes

_READ = 1 << 16
_LARGEST_PIPE = 1 << 20
"""To which an unprivileged job can enlarge its pipe."""
_ALL_SIGNALS = tuple(map(int, signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}))
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGXCPU)
"""Signals that the helper ignores: a terminal's are for the replica, which ends the helper by closing its socket;
SIGXCPU comes when the limit that a job is to inherit is below what the helper itself has used."""


class StartError(Exception):
    """A job could not be started; the message is for the user."""


_HARMLESS = (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC)
"""Limits that the helper itself can live with."""


class Limits:
    """Soft limits that each job gets and the helper itself has not; with ``hard``, a job can't raise them either.

    Only root can raise a hard limit again, so those that the helper can live with it has too. The others it sets when
    the job has begun: what raises them first is quicker than a shell that has just been executed.
    """

    def __init__(self, limits: dict[int, int], *, hard: bool = False) -> None:
        files = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files[1], files[1]))
        self._own: list[tuple[int, tuple[int, int]]] = []
        self._jobs: list[tuple[int, tuple[int, int]]] = []
        self._are_hard = hard
        for kind, value in limits.items():
            if hard and kind in _HARMLESS:
                most = resource.getrlimit(kind)[1]
                value = value if most == resource.RLIM_INFINITY else min(value, most)
                resource.setrlimit(kind, (value, value))
                continue
            soft, most = resource.getrlimit(kind)
            self._own.append((kind, (soft, most)))
            self._jobs.append((kind, (value if most == resource.RLIM_INFINITY else min(value, most), most)))

    def __enter__(self) -> None:
        for kind, pair in self._jobs:
            resource.setrlimit(kind, pair)

    def __exit__(self, *error: object) -> None:
        for kind, pair in self._own:
            resource.setrlimit(kind, pair)

    def harden(self, pid: int) -> None:
        """Make them hard for a process that has just been started."""
        if self._are_hard:
            for kind, (value, _) in self._jobs:
                with contextlib.suppress(ProcessLookupError):
                    resource.prlimit(pid, kind, (value, value))


class Surroundings(NamedTuple):
    """What of the helper each start of a job needs."""

    limits: Limits
    home: int
    """The helper's own directory."""
    nothing: int
    """``/dev/null``."""
    doors: tuple[int, int]
    """Two descriptors below every limit: with a soft limit in force, the C library refuses to hand on those above."""
    sandboxes: Sandboxes | None
    """None: jobs are not confined."""


class SpawnedJob:
    """A job between its start and the death of the last of its processes."""

    __slots__ = (
        "cause",
        "deadline",
        "ends_at",
        "head",
        "number",
        "output",
        "pid",
        "polls",
        "problem",
        "request",
        "sandbox",
        "status",
        "tail",
        "total",
    )

    def __init__(self, request: Start, deadline: float) -> None:
        self.request = request
        self.number = request.number
        self.deadline = deadline
        """When it is killed unless the lease is renewed: the lease's own deadline less the margin."""
        self.ends_at: float | None = None
        """When the next step of its end is due: TERM for a timeout at first, then KILL."""
        self.cause = ""
        self.problem = ""
        self.pid = 0
        """0: not started; kept after its exit, as long as its session may have members."""
        self.status: int | None = None
        """None while its first process lives."""
        self.output: int | None = None
        self.sandbox: Sandbox | None = None
        """None: not confined."""
        self.polls = 0
        """At what might be left of it, since everybody in its cell was killed."""
        self.head = bytearray()
        self.tail = bytearray()
        self.total = 0

    @property
    def mark(self) -> Mark:
        """Whose a process is that carries this."""
        environment = self.request.environment
        return environment.get(RUN_ID, b""), environment.get(VERSION, b"")

    @property
    def next_alarm(self) -> float:
        """When the loop must look at it, in monotonic seconds."""
        return self.deadline if self.ends_at is None else min(self.deadline, self.ends_at)

    def spawn(self, around: Surroundings) -> None:
        """Start it. Raises ``StartError``, or the ``OSError`` of a machine that has run out of something."""
        request = self.request
        environment = request.environment
        opened: list[int] = []
        try:
            if around.sandboxes is not None:
                self.sandbox = around.sandboxes.make()
                environment = {b"HOME": self.sandbox.home, b"TMPDIR": self.sandbox.home, **environment}
            self.output, writing_end = os.pipe()
            opened.append(writing_end)
            os.set_blocking(self.output, False)
            stdin = around.nothing
            if request.stdin:
                stdin = os.memfd_create("payload")
                opened.append(stdin)
                os.write(stdin, request.stdin)
                os.lseek(stdin, 0, os.SEEK_SET)
            entrance, exit_ = around.doors
            os.dup2(stdin, entrance, inheritable=False)
            os.dup2(writing_end, exit_, inheritable=False)

            def start() -> int:
                return os.posix_spawn(
                    request.command[0],
                    request.command,
                    environment,
                    file_actions=[
                        (os.POSIX_SPAWN_DUP2, entrance, 0),
                        (os.POSIX_SPAWN_DUP2, exit_, 1),
                        (os.POSIX_SPAWN_DUP2, exit_, 2),
                    ],
                    setsid=True,
                    setsigmask=(),
                    setsigdef=_ALL_SIGNALS,
                )

            try:
                self._enter_directory()
                with around.limits:
                    self.pid = start() if self.sandbox is None else self.sandbox.start(start)
                self._harden(around.limits)
            except (OSError, ValueError) as error:
                raise StartError(f"can't start {_text(request.command[0])}: {_why(error)}") from None
            finally:
                os.fchdir(around.home)
                # Else the job's output would not end with it.
                for door in around.doors:
                    os.dup2(around.nothing, door, inheritable=False)
        finally:
            for descriptor in opened:
                os.close(descriptor)

    def _harden(self, limits: Limits) -> None:
        try:
            limits.harden(self.pid)
        except OSError:
            # Nobody watches it yet: it must not go on without its limits.
            os.kill(self.pid, signal.SIGKILL)
            self.pid = 0
            raise

    def _enter_directory(self) -> None:
        """Go where it is to run; that is all of the process, so the caller goes back."""
        directory = self.request.directory
        if self.sandbox is not None:
            os.chdir(self.sandbox.home)
        if directory is None:
            return
        try:
            os.chdir(directory)
        except (OSError, ValueError) as error:
            raise StartError(f"working directory {_text(directory)}: {_why(error)}") from None
        if self.sandbox is not None and not self.sandbox.may_be_in(os.getcwdb()):
            raise StartError(f"working directory {_text(directory)}: belongs to another job")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its process group, while its first process is there to hold the group's id."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            pass
        except PermissionError:
            self.problem = f"process {self.pid} runs as another user and can't be killed"

    def read(self) -> bool:
        """Take what it has printed; False when there will be no more."""
        assert self.output is not None
        try:
            data = os.read(self.output, _READ)
        except BlockingIOError:
            return True
        room = self.request.head - len(self.head)
        if room > 0:
            self.head += data[:room]
        self.tail += data[max(room, 0) :]
        if len(self.tail) > self.request.tail + _READ:
            del self.tail[: -self.request.tail]
        self.total += len(data)
        return bool(data)

    def drain(self) -> None:
        """Take what is left in the pipe when nothing of the job is alive, and close it.

        A process that got the pipe handed on may hold it open for ever, so the end of the file is not waited for.
        """
        if self.output is None:
            return
        for _ in range(_LARGEST_PIPE // _READ):
            seen = self.total
            self.read()
            if self.total == seen:
                break
        self.close()

    def close(self) -> None:
        """Close its output."""
        if self.output is not None:
            os.close(self.output)
            self.output = None


def _text(path: bytes) -> str:
    return path.decode("utf-8", "replace")


def _why(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
