"""The messages between a replica and its helper process.

Two ways lead from the replica to the helper. Requests, and the answers to them, go over a stream socket as marshalled
tuples, each with its length before it: both ends are the same interpreter, and bytes need no quoting. Renewed leases
go over a pipe as records of one size: a write of at most ``PIPE_BUF`` bytes to a pipe is all or nothing, so the
replica's lease thread can write there without a lock on the stream and without ever blocking.
"""

from __future__ import annotations

import marshal
import select
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator


class Settings(NamedTuple):
    """The replica's first message."""

    limits: dict[int, int]
    """Soft limits of each job by ``resource.RLIMIT_*``."""
    timeout_grace: float
    """Seconds between TERM and KILL of a job that took too long."""
    cancel_grace: float
    """The same for a job that was cancelled."""
    margin: float
    """Seconds before its lease deadline at which a job is killed; less where the lease is short."""
    scratches: bytes | None = None
    """The folder in which each job gets one of its own; None: jobs are not confined."""
    readable: tuple[bytes, ...] = ()
    """What a confined job may read and execute."""
    landlock: bool = True
    """False: confined by everything else."""


class Start(NamedTuple):
    """Start a job."""

    number: int
    """Names the job in every message; never used twice."""
    command: list[bytes]
    """Path and arguments."""
    environment: dict[bytes, bytes]
    """All of it. The run id and version in it tell whose a process is, wherever it has gone."""
    directory: bytes | None
    """None: where the replica was started, or in the job's own scratch if it is confined."""
    stdin: bytes
    deadline: float
    """Monotonic seconds, the same clock in both processes."""
    timeout: float | None
    """Seconds from the start."""
    head: int
    """Bytes of output to keep of its beginning."""
    tail: int
    """Bytes of output to keep of its end."""


class Cancel(NamedTuple):
    """End a job that may have ended already."""

    number: int


class Ready(NamedTuple):
    """The helper's first message: it listens."""


class Started(NamedTuple):
    """A job has started."""

    number: int
    pid: int
    """Also its session and process group."""


class Ended(NamedTuple):
    """Nothing of a job is alive, or it never started."""

    number: int
    status: int | None
    """As ``subprocess`` gives it: an exit code, or a signal's number negated; None: there was no process."""
    cause: str
    """Why the helper ended it: ``timeout``, ``cancel``, ``lease``; empty: it ended by itself."""
    problem: str
    """What kept it from starting, or what could not be killed."""
    head: bytes
    tail: bytes
    total: int
    """Bytes of output altogether; what is neither in head nor in tail was dropped between them."""


Message = Settings | Start | Cancel | Ready | Started | Ended
_KINDS: tuple[type[Message], ...] = (Settings, Start, Cancel, Ready, Started, Ended)
_LENGTH = struct.Struct("!I")

LEASE = struct.Struct("=Qd")
"""A job's number and its new deadline."""
LEASES_AT_ONCE = select.PIPE_BUF // LEASE.size


def pack(message: Message) -> bytes:
    """The message as it goes over the socket."""
    body = marshal.dumps((_KINDS.index(type(message)), *message))
    return _LENGTH.pack(len(body)) + body


class Unpacker:
    """Puts messages together from whatever pieces the socket gives."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that ``data`` completes."""
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
