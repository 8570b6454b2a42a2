"""The messages between a replica and its helper process.

Requests and their answers go over a stream socket, as marshalled tuples with their length before them: both ends are
the same interpreter, and bytes need no quoting. Renewed leases go over a pipe, as records of a fixed size: a write of
at most ``PIPE_BUF`` bytes to a pipe is all or nothing, so the replica's lease thread can write there without a lock on
the stream, and never blocks.
"""

from __future__ import annotations

import marshal
import select
import struct
import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator


def boot_seconds() -> float:
    """Return the seconds since this machine was started, suspended time included: the clock of leases.

    As ``scheduledjob.engine.clock.boot_seconds``, which this package can't import.
    """
    return time.clock_gettime(_BOOT_CLOCK)


_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Settings(NamedTuple):
    """The replica's first message."""

    limits: dict[int, int]
    """Limits of each job, by ``resource.RLIMIT_*``."""
    timeout_grace: float
    """Seconds between TERM and KILL of a job that timed out."""
    cancel_grace: float
    """Seconds between TERM and KILL of a job that was cancelled."""
    margin: float
    """A job is killed this many seconds before its lease deadline; less if the lease is short."""
    scratches: bytes | None = None
    """The folder in which each job gets its own folder; None: jobs are not confined."""
    readable: tuple[bytes, ...] = ()
    """What a confined job may read and execute."""
    landlock: bool = True
    """False: jobs are confined without Landlock."""
    cells: int = 0
    """Each process of a confined job is marked with this plus the job's number; see ``processes``."""


class Start(NamedTuple):
    """Start a job."""

    number: int
    """Identifies the job in every message; never reused."""
    command: list[bytes]
    """Path and arguments."""
    environment: dict[bytes, bytes]
    """The whole environment. The run id and version in it show to which job a process belongs."""
    directory: bytes | None
    """None: where the replica was started, or in the scratch folder of a confined job."""
    stdin: bytes
    deadline: float
    """Monotonic seconds; the clock is the same in both processes."""
    timeout: float | None
    """Seconds from the start."""
    head: int
    """Bytes to keep of the beginning of the output."""
    tail: int
    """Bytes to keep of the end of the output."""


class Cancel(NamedTuple):
    """End a job, which may have ended already."""

    number: int


class Ready(NamedTuple):
    """The helper's first message: it accepts requests."""


class Started(NamedTuple):
    """A job has started."""

    number: int
    pid: int
    """Also its session and process group."""


class Ended(NamedTuple):
    """No process of a job is alive, or it never started."""

    number: int
    status: int | None
    """As in ``subprocess``: an exit code, or the negative number of a signal; None: there was no process."""
    cause: str
    """Why the helper ended it: ``timeout``, ``cancel`` or ``lease``; empty: it ended by itself."""
    problem: str
    """Why it did not start, or what could not be killed."""
    head: bytes
    tail: bytes
    total: int
    """Bytes of the whole output; what is neither in head nor in tail was dropped between them."""


Message = Settings | Start | Cancel | Ready | Started | Ended
_KINDS: tuple[type[Message], ...] = (Settings, Start, Cancel, Ready, Started, Ended)
_LENGTH = struct.Struct("!I")

LEASE = struct.Struct("=Qd")
"""A job's number and its new deadline."""
LEASES_AT_ONCE = select.PIPE_BUF // LEASE.size


def pack(message: Message) -> bytes:
    """Return the message as bytes for the socket."""
    body = marshal.dumps((_KINDS.index(type(message)), *message))
    return _LENGTH.pack(len(body)) + body


class Unpacker:
    """Puts messages together from the pieces that the socket delivers."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """Yield the messages that ``data`` completes."""
        self._data += data
        position = 0
        while len(self._data) - position >= _LENGTH.size:
            body = position + _LENGTH.size
            end = body + _LENGTH.unpack_from(self._data, position)[0]
            if len(self._data) < end:
                break
            fields: tuple[Any, ...] = marshal.loads(self._data[body:end])  # noqa: S302 - both ends are this program
            yield _KINDS[fields[0]](*fields[1:])
            position = end
        del self._data[:position]
