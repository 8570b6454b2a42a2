"""SIGTERM: one handler for all schedulers of a program, which ends each of them cleanly.

A scheduler cancels the task that entered its context. When the last of them has ended, it raises ``SystemExit``. If the
first did, the event loop would stop while the others still let their jobs finish. A SIGTERM that arrives while a
scheduler ends does not hurry it: shells and process managers often send the signal twice. A program that has a handler
of its own for SIGTERM keeps it.
"""

from __future__ import annotations

import asyncio
import signal
import threading

_watches: list[SigtermWatch] = []
"""Of the schedulers in the main thread that have not ended."""


class SigtermWatch:
    """Cancels one task when SIGTERM arrives."""

    def __init__(self, task: asyncio.Task[object], loop: asyncio.AbstractEventLoop) -> None:
        self._task = task
        self._loop = loop
        self._ended = asyncio.Event()
        self._listening = True
        self._cancelled = False
        self.terminated = False
        """SIGTERM arrived."""

    def release(self) -> None:
        """Only note SIGTERM from now on, because the scheduler is ending."""
        self._listening = False

    def ended(self) -> None:
        """The scheduler has ended. The last one gives the handler back."""
        _watches.remove(self)
        if not any(watch._loop is self._loop for watch in _watches):
            self._loop.remove_signal_handler(signal.SIGTERM)
        self._ended.set()
        _cancel_once()

    async def is_last(self) -> bool:
        """Wait for the schedulers that are ending, too. Return whether SIGTERM has ended all schedulers then."""
        ending = [other for other in _watches if other.terminated and not other._listening]
        for other in ending:
            await other._ended.wait()
        return not any(other.terminated for other in _watches)


def watch_sigterm() -> SigtermWatch | None:
    """Cancel the current task when SIGTERM arrives. Returns None if the program handles it, or in another thread."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    if threading.current_thread() is not threading.main_thread() or task is None:
        return None
    _watches[:] = [watch for watch in _watches if not watch._loop.is_closed()]
    if not _watches:
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            return None
        try:
            loop.add_signal_handler(signal.SIGTERM, _terminate)
        except NotImplementedError:
            return None
    watch = SigtermWatch(task, loop)
    _watches.append(watch)
    return watch


def _terminate() -> None:
    for watch in _watches:
        watch.terminated = True
    _cancel_once()


def _cancel_once() -> None:
    """Cancel each task once, but not while it ends a scheduler, whose jobs that would cut short."""
    ending = {watch._task for watch in _watches if not watch._listening}
    to_cancel = [watch for watch in _watches if watch.terminated and watch._task not in ending]
    for task in {watch._task for watch in to_cancel if not watch._cancelled}:
        task.cancel()
    for watch in to_cancel:
        watch._cancelled = True
