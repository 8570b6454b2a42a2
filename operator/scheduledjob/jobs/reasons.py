"""Reasons: the line that history, status and the log show for an attempt that failed.

People read a reason in a narrow column to find out what to do. So it is a single line of limited length, and durations
in it look as in a manifest.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

REASON_LIMIT = 400
"""Characters; a longer reason ends in an ellipsis."""

_EXIT_CODES = {126: "command can't be executed", 127: "command not found"}
"""What these exit codes of a shell mean."""

_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000))


def timed_out(seconds: float) -> str:
    """Return ``timed out after 1m30s``."""
    return f"timed out after {length(seconds)}"


def exit_code(code: int) -> str:
    """Return ``exit code 3``, with the meaning that a shell gives to the code, if it has one."""
    meaning = _EXIT_CODES.get(code)
    return f"exit code {code}" + (f" ({meaning})" if meaning else "")


def signal_name(number: int) -> str:
    """Return ``SIGTERM``, or ``signal 40`` for a signal without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals
        return f"signal {number}"


def length(seconds: float) -> str:
    """Return a duration as in a manifest: ``1h30m``, ``2s``, ``250ms``."""
    left = round(seconds * 1000)
    parts: list[str] = []
    for unit, size in _UNITS:
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    if left or not parts:
        parts.append(f"{left}ms")
    return "".join(parts)


def one_line(text: str) -> str:
    """Return ``text`` without line breaks and control characters, cut to ``REASON_LIMIT``."""
    # Cut first, because to join a message of megabytes would block the event loop.
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 2 * REASON_LIMIT]).split())
    if len(line) > REASON_LIMIT or len(text) > 2 * REASON_LIMIT:
        line = line[: REASON_LIMIT - 1] + "…"
    return line


def of_exception(error: BaseException, mask: Callable[[str], str] = str) -> str:
    """Return ``ValueError: message``; for a group with one member, of the member. ``mask`` masks secrets."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    try:
        message = mask(str(error))
    except Exception:  # the __str__ of a job's exception may raise anything
        message = ""
    name = type(error).__name__
    return one_line(f"{name}: {message}" if message else name)
