"""A job in the helper: starts its first process, and keeps the head and the tail of its output.

The payload on standard input is a file in memory and not a pipe: it never fills up, nothing has to write the rest of it
later, and it disappears when the job closes it.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from typing import TYPE_CHECKING, NamedTuple

from .messages import boot_seconds
from .processes import RUN_ID, VERSION, Mark

if TYPE_CHECKING:
    from .messages import Start
    from .sandbox import Sandbox, Sandboxes

_READ = 1 << 16
_LARGEST_PIPE = 1 << 20
"""Bytes to which an unprivileged job can enlarge its pipe."""
_ALL_SIGNALS = tuple(map(int, signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}))
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGXCPU)
"""Signals that the helper ignores. Those of a terminal are for the replica, which ends the helper by closing its
socket. SIGXCPU is sent if the limit that a job inherits is below what the helper itself has used."""


class StartError(Exception):
    """A job could not be started. The message is for the user."""


_HARMLESS = (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC)
"""Limits that do not disturb the helper itself."""


class Limits:
    """Limits of each job, which the helper itself does not have. With ``hard``, a job can't raise them.

    Only root can raise a hard limit again. So the helper gives itself the hard limits that do not disturb it, and sets
    the others right after the start of the job, which would have to be faster than a new shell to raise them first.
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
        """Make the limits hard for a process that has just been started."""
        if self._are_hard:
            for kind, (value, _) in self._jobs:
                with contextlib.suppress(ProcessLookupError):
                    resource.prlimit(pid, kind, (value, value))


class Surroundings(NamedTuple):
    """What the start of a job needs of the helper."""

    limits: Limits
    home: int
    """The helper's own directory."""
    nothing: int
    """``/dev/null``."""
    stdio: tuple[int, int]
    """Two descriptors for a job's input and output, below every limit: the C library refuses to pass on one that is
    above the soft limit."""
    sandboxes: Sandboxes | None
    """None: jobs are not confined."""


class SpawnedJob:
    """A job, from the request to the death of its last process."""

    __slots__ = (
        "cause",
        "deadline",
        "ends_at",
        "head",
        "is_killed",
        "number",
        "output",
        "pid",
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
        """When it is killed unless the lease is renewed: the lease's deadline minus the margin."""
        self.ends_at: float | None = None
        """When the next step of its end is due: TERM at its timeout, then KILL. Seconds of ``time.monotonic``, which
        stands still while the machine sleeps: a timeout is time in which the job could run."""
        self.cause = ""
        self.problem = ""
        self.pid = 0
        """0: not started. Stays after the exit, as long as the session may have members."""
        self.status: int | None = None
        """None while its first process is alive."""
        self.output: int | None = None
        self.sandbox: Sandbox | None = None
        """None: not confined."""
        self.is_killed = False
        """Whether all processes of its sandbox were killed."""
        self.head = bytearray()
        self.tail = bytearray()
        self.total = 0

    @property
    def mark(self) -> Mark:
        """The mark that the environment of each of its processes has."""
        environment = self.request.environment
        return environment.get(RUN_ID, b""), environment.get(VERSION, b"")

    @property
    def next_alarm(self) -> float:
        """When the loop must handle it, in seconds of the boot clock."""
        if self.ends_at is None:
            return self.deadline
        return min(self.deadline, boot_seconds() + self.ends_at - time.monotonic())

    def spawn(self, around: Surroundings) -> None:
        """Start it. Raises ``StartError``, or ``OSError`` if the machine has run out of a resource."""
        request = self.request
        environment = request.environment
        opened: list[int] = []
        try:
            if around.sandboxes is not None:
                self.sandbox = around.sandboxes.make(self.number)
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
            given_in, given_out = around.stdio
            os.dup2(stdin, given_in, inheritable=False)
            os.dup2(writing_end, given_out, inheritable=False)

            def start() -> int:
                return os.posix_spawn(
                    request.command[0],
                    request.command,
                    environment,
                    file_actions=[
                        (os.POSIX_SPAWN_DUP2, given_in, 0),
                        (os.POSIX_SPAWN_DUP2, given_out, 1),
                        (os.POSIX_SPAWN_DUP2, given_out, 2),
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
                # Otherwise the helper would keep the job's output open.
                for descriptor in around.stdio:
                    os.dup2(around.nothing, descriptor, inheritable=False)
        finally:
            for descriptor in opened:
                os.close(descriptor)

    def _harden(self, limits: Limits) -> None:
        try:
            limits.harden(self.pid)
        except OSError:
            # It must not run without its limits, and nothing else watches it yet.
            os.kill(self.pid, signal.SIGKILL)
            self.pid = 0
            raise

    def _enter_directory(self) -> None:
        """Change to the job's working directory. This affects the whole helper, so the caller changes back."""
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
        """Send a signal to its process group. The first process, which holds the group's id, must not be reaped yet."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            pass
        except PermissionError:
            self.problem = f"process {self.pid} runs as another user and can't be killed"

    def read(self) -> bool:
        """Read what it has printed. Returns False at the end of the output."""
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
        """Read what is left in the pipe, and close it, when no process of the job is alive.

        This does not wait for the end of the file, because a process that was given the pipe may keep it open forever.
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
