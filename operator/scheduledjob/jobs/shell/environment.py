"""The environment of a shell job: the little that it inherits, what its spec gives, and what it is told of itself.

Nothing else of the replica's environment goes into a job: it may hold the store's password. Everything is bytes,
because that is what an environment is, and because the helper process, which has no locale, passes it on.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from scheduledjob.domain.time.instants import rfc3339

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scheduledjob.engine.executor import Attempt

PREFIX = "SCHEDULEDJOB_"

LONGEST_STRING = 128 * 1024 - 1
"""Bytes that Linux allows in one argument or ``NAME=value``."""

_INHERITED = (b"PATH", b"HOME", b"LANG", b"TZ")
_DEFAULT_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def inherited() -> dict[bytes, bytes]:
    """What every job has of this process's environment: PATH, HOME, LANG and TZ, where they are set."""
    return {b"PATH": _DEFAULT_PATH} | {name: os.environb[name] for name in _INHERITED if name in os.environb}


def confined() -> dict[bytes, bytes]:
    """What every confined job has besides its scratch as HOME and TMPDIR: a PATH and LANG that are nobody's own."""
    return {b"PATH": _DEFAULT_PATH, b"LANG": b"C.UTF-8"}


def given(variables: Mapping[str, str]) -> dict[bytes, bytes]:
    """What the spec gives. Raises ``ValueError`` that names the variable and what is wrong with it."""
    environment: dict[bytes, bytes] = {}
    for name, value in variables.items():
        if not name or "=" in name or "\0" in name:
            raise ValueError(f"env: {name!r} can't be a variable's name: it must not be empty or contain '=' or NUL")
        if name.startswith(PREFIX):
            raise ValueError(f"env {name}: names that begin with {PREFIX} are the scheduler's own; use another")
        environment[name.encode()] = as_string(f"env {name}", value, len(name) + 1)
    return environment


def of_attempt(attempt: Attempt) -> dict[bytes, bytes]:
    """What the job is told of itself, as ``SCHEDULEDJOB_*``.

    A payload that no variable can hold (NUL, or more than 128 KiB) is on standard input alone.
    """
    payload = attempt.payload or b""
    told = {
        "NAME": attempt.name,
        "NAMESPACE": attempt.namespace,
        "UID": attempt.uid,
        "SLOT": rfc3339(attempt.slot),
        "ATTEMPT": str(attempt.attempt),
        "RUN_ID": attempt.run_id,
        "VERSION": str(attempt.version),
    }
    environment = {(PREFIX + name).encode(): value.encode() for name, value in told.items()}
    if b"\0" not in payload and len(payload) + len(f"{PREFIX}PAYLOAD=") <= LONGEST_STRING:
        environment[f"{PREFIX}PAYLOAD".encode()] = payload
    return environment


def as_string(where: str, text: str, before: int = 0) -> bytes:
    """``text`` as a string of an environment or an argument, with ``before`` bytes in front of it.

    Raises ``ValueError`` that says where it stands and what is wrong with it.
    """
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where}: not valid text: it contains half of a surrogate pair") from None
    if b"\0" in data:
        raise ValueError(f"{where}: contains a NUL character, which no process can be given; leave it out")
    if before + len(data) > LONGEST_STRING:
        raise ValueError(
            f"{where}: {len(data)} bytes; Linux allows {LONGEST_STRING - before} here: "
            "put it into a file or the payload"
        )
    return data
