"""Reasons: the one line that history, status and the log show for an attempt that failed.

A reason is read in a narrow column by somebody who wants to know what to do, so it is one line, bounded, and a
length of time in it reads as it is written in a manifest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

REASON_LIMIT = 400
"""Characters; what is longer ends in an ellipsis."""

_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000))


def timed_out(seconds: float) -> str:
    """``timed out after 1m30s``."""
    return f"timed out after {length(seconds)}"


def length(seconds: float) -> str:
    """A length of time in the units of a manifest, largest first: ``1h30m``, ``2s``, ``250ms``."""
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
    """``text`` without line breaks and control characters, cut to ``REASON_LIMIT``."""
    # Cut first: joining a message of megabytes only to throw it away would hold up the event loop.
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 2 * REASON_LIMIT]).split())
    if len(line) > REASON_LIMIT or len(text) > 2 * REASON_LIMIT:
        line = line[: REASON_LIMIT - 1] + "…"
    return line


def of_exception(error: BaseException, mask: Callable[[str], str] = str) -> str:
    """``ValueError: message``; of a group with one member, that member. ``mask`` takes secrets out of the message."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    try:
        message = mask(str(error))
    except Exception:  # somebody else's __str__ may do anything
        message = ""
    name = type(error).__name__
    return one_line(f"{name}: {message}" if message else name)
