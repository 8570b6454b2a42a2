"""The job kind ``print``: the Python job that the package brings, and how much of it reaches the operator's log."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from scheduledjob.jobs.built_in_kind import BuiltInKind, JobContext

if TYPE_CHECKING:
    from collections.abc import Callable

    from scheduledjob.engine.executor import Executor

WINDOW = 60.0
"""Seconds for which a print budget counts."""
SHARES = 8
"""All namespaces together may write this many times what one may write."""


class PrintBudget:
    """Limits what print jobs write into the log of a program that runs the jobs of many authors.

    Each namespace may write some bytes in a window of ``WINDOW`` seconds, which begins with the first line. What does
    not fit is left out, and a line at the end of the window says for each namespace how much that was.
    """

    def __init__(self, write: Callable[[str], object], size: int) -> None:
        """``size`` is what a namespace may write in a window, in bytes."""
        self._write = write
        self._size = size
        self._left = SHARES * size
        self._spent: dict[str, int] = {}
        self._left_out: dict[str, tuple[int, int]] = {}
        """Lines and bytes, by namespace."""
        self._end: asyncio.TimerHandle | None = None

    def write(self, namespace: str, line: str) -> None:
        """Write a line of a job, or count it as left out. Call it in an event loop."""
        if self._end is None:
            self._end = asyncio.get_running_loop().call_later(WINDOW, self.end_window)
        size = len(line.encode(errors="replace"))
        spent = self._spent.get(namespace, 0)
        if spent + size <= self._size and size <= self._left:
            self._spent[namespace] = spent + size
            self._left -= size
            self._write(line)
        else:
            lines, total = self._left_out.get(namespace, (0, 0))
            self._left_out[namespace] = lines + 1, total + size

    def end_window(self) -> None:
        """Say what was left out, and begin a new window with the next line."""
        if self._end is not None:
            self._end.cancel()
            self._end = None
        left_out, self._left_out = self._left_out, {}
        self._spent.clear()
        self._left = SHARES * self._size
        for namespace, (count, total) in left_out.items():
            lines = "1 line" if count == 1 else f"{count} lines"
            self._write(
                f"left out {lines} ({total} bytes) of the print jobs in namespace {namespace}: a namespace may "
                f"print {self._size} bytes here in {WINDOW:g} s, and all together {SHARES * self._size}; "
                "the output of each run is in its history\n"
            )


def _make_executor(context: JobContext) -> Executor:
    from .python_job import JobExecutor, PrintJob

    if context.print_budget is None:
        return JobExecutor("print", PrintJob(context.write))
    return JobExecutor("print", PrintJob.within(PrintBudget(context.write, context.print_budget)))


PRINT = BuiltInKind(name="print", make_executor=_make_executor, custom=True, text_params=("text",))
