"""What an exception means that leaves a job, and the line that describes it.

Whatever a job raises is the failure of its attempt, ``BaseException`` included: pytest, anyio, gevent and PyO3 define
such classes. Only an exception that did not come from the job must reach the event loop: a cancellation by the replica,
Ctrl-C, or the end of the event loop. ``is_from_outside`` distinguishes them.
"""

from __future__ import annotations

import asyncio
import dis
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

REASON_LIMIT = 400
"""Characters; a longer reason ends in an ellipsis."""

_RAISE = dis.opmap["RAISE_VARARGS"]
"""The instruction of a ``raise`` statement."""


class JobTaskExitError(Exception):
    """A task that a job has started raised what would end the event loop: its cause."""


def is_from_outside(error: BaseException) -> bool:
    """Return whether an exception that left a job was not raised by the job. Call this in the task of the job."""
    if isinstance(error, asyncio.CancelledError):
        # A job that awaits something cancelled raises this, too.
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    if isinstance(error, GeneratorExit):
        return not _in_a_task()
    return isinstance(error, KeyboardInterrupt) and _raised_by_signal(error)


def _in_a_task() -> bool:
    """Return whether a task is running. If not, the coroutine is being closed."""
    try:
        return asyncio.current_task() is not None
    except RuntimeError:  # the event loop has ended
        return False


def _raised_by_signal(error: KeyboardInterrupt) -> bool:
    """Return whether a signal handler raised this: the one of asyncio, or Python's own, which has no frame."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return True
    code = trace.tb_frame.f_code
    return code.co_filename == asyncio.runners.__file__ or code.co_code[trace.tb_lasti] != _RAISE


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
    if isinstance(error, JobTaskExitError) and error.__cause__ is not None:
        error = error.__cause__
    try:
        message = mask(str(error))[: 2 * REASON_LIMIT + 1]
    except BaseException:  # the __str__ of a job's exception may raise anything
        message = ""
    name = type(error).__name__
    return one_line(f"{name}: {message}" if message else name)
