"""The environment of a shell job: a few inherited variables, those of its spec, and those that describe the attempt.

A job gets no other variable of the replica, whose environment may hold the store's password. Everything is bytes,
because environments are, and because the helper process, which passes them on, has no locale.
"""

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING

from scheduledjob.domain.time.instants import rfc3339

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scheduledjob.engine.executor import Attempt

PREFIX = "SCHEDULEDJOB_"

LONGEST_STRING = 128 * 1024 - 1
"""Bytes that Linux allows in an argument or in ``NAME=value``."""

_INHERITED = (b"PATH", b"HOME", b"LANG", b"TZ")
_DEFAULT_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def inherited() -> dict[bytes, bytes]:
    """Return the variables that every job has: PATH, HOME, LANG and TZ of this process, USER and LOGNAME.

    If this process has no HOME, it is that of the password database, as in cron. LANG and TZ may be unset.
    """
    name, home = _user()
    environment = {b"PATH": _DEFAULT_PATH, b"USER": name, b"LOGNAME": name}
    if home:
        environment[b"HOME"] = home
    return environment | {name: os.environb[name] for name in _INHERITED if name in os.environb}


def confined() -> dict[bytes, bytes]:
    """Return the variables of every confined job, besides HOME and TMPDIR: a fixed PATH and LANG, USER and LOGNAME."""
    name, _ = _user()
    return {b"PATH": _DEFAULT_PATH, b"LANG": b"C.UTF-8", b"USER": name, b"LOGNAME": name}


def _user() -> tuple[bytes, bytes]:
    """Return name and home of this process's user. Without an entry for it, the name is the number of the user."""
    uid = os.geteuid()
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return str(uid).encode(), b""
    return os.fsencode(entry.pw_name), os.fsencode(entry.pw_dir)


def given(variables: Mapping[str, str]) -> dict[bytes, bytes]:
    """Return the variables of the spec. Raises ``ValueError``, which names the variable and what is wrong with it."""
    environment: dict[bytes, bytes] = {}
    for name, value in variables.items():
        if not name or "=" in name or "\0" in name:
            raise ValueError(f"env: {name!r} can't be a variable's name: it must not be empty or contain '=' or NUL")
        if name.startswith(PREFIX):
            raise ValueError(f"env {name}: names that begin with {PREFIX} are the scheduler's own; use another")
        environment[name.encode()] = as_string(f"env {name}", value, len(name) + 1)
    return environment


def describe(attempt: Attempt) -> dict[str, str]:
    """Return the variables that describe the attempt, without its payload."""
    described = {
        "NAME": attempt.name,
        "NAMESPACE": attempt.namespace,
        "UID": attempt.uid,
        "SLOT": rfc3339(attempt.slot),
        "ATTEMPT": str(attempt.attempt),
        "RUN_ID": attempt.run_id,
        "VERSION": str(attempt.version),
    }
    return {PREFIX + name: text for name, text in described.items()}


def of_attempt(attempt: Attempt) -> dict[bytes, bytes]:
    """Return the variables that describe the attempt, ``SCHEDULEDJOB_*``.

    A payload that a variable can't hold (it contains NUL, or is larger than 128 KiB) is on standard input only.
    """
    payload = attempt.payload or b""
    environment = {name.encode(): text.encode() for name, text in describe(attempt).items()}
    if b"\0" not in payload and len(payload) + len(f"{PREFIX}PAYLOAD=") <= LONGEST_STRING:
        environment[f"{PREFIX}PAYLOAD".encode()] = payload
    return environment


def as_string(where: str, text: str, before: int = 0) -> bytes:
    """Return ``text`` as bytes for an environment or an argument, in which ``before`` bytes precede it.

    Raises ``ValueError``, which names ``where`` and says what is wrong.
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
