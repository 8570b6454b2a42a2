"""Reasons: the line that history, status and the log show for an attempt that failed.

People read a reason in a narrow column to find out what to do. So it is a single line of limited length, and durations
in it look as in a manifest.
"""

from __future__ import annotations

import signal

from scheduledjob.engine.job_errors import REASON_LIMIT, of_exception, one_line

__all__ = ["REASON_LIMIT", "exit_code", "length", "of_exception", "one_line", "signal_name", "timed_out"]

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
