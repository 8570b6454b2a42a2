"""Writes output from a thread, so that a slow reader never blocks the event loop.

A pipe that is not read blocks its writer, and a terminal can be stopped with Ctrl-S. No job may start late because of
that. The thread also formats the items, many at once, so that a thousand runs a second cost the event loop a thousand
appends. Memory is bounded: a reader that is too slow loses lines, and their number is reported. History still has every
run.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

T = TypeVar("T")

MOST_WAITING = 200_000
"""Maximum number of items that wait for a slow reader. More are dropped and counted."""
AT_ONCE = 2_000
"""Maximum number of items in one write, so that formatting them blocks the interpreter only briefly."""
LAST_SECONDS = 1.0
"""Seconds that ``close`` waits for the reader."""


class Writer(Generic[T]):
    """Writes items to a file descriptor from a thread of its own."""

    def __init__(
        self,
        descriptor: int,
        render: Callable[[Sequence[T]], str],
        on_broken: Callable[[], object] = lambda: None,
        on_lost: Callable[[int], object] = lambda lost: None,
    ) -> None:
        """``on_broken`` is called once the reader is gone, ``on_lost`` with the number of dropped items. Both are
        called from the thread."""
        self._descriptor = descriptor
        self._render = render
        self._on_broken = on_broken
        self._on_lost = on_lost
        self._waiting: deque[T] = deque()
        self._lost = 0
        self._closing = False
        self._broken = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    def put(self, items: Iterable[T]) -> None:
        """Queue items for writing, in order. May be called from any thread and never blocks."""
        with self._changed:
            if self._broken:
                return
            for item in items:
                if len(self._waiting) < MOST_WAITING:
                    self._waiting.append(item)
                else:
                    self._lost += 1
            self._changed.notify()

    def close(self) -> None:
        """Write what is queued, while the reader keeps up, for at most ``LAST_SECONDS``."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(LAST_SECONDS)

    def _run(self) -> None:
        try:
            while items := self._next():
                self._write(self._render(items).encode("utf-8", "backslashreplace"))
        except OSError:
            with self._changed:
                self._broken = True
                self._waiting.clear()
            self._on_broken()

    def _next(self) -> list[T]:
        """Wait for items and return the next ones; an empty list means the end."""
        with self._changed:
            while not self._waiting and not self._closing:
                self._changed.wait()
            items = [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]
            lost, self._lost = self._lost, 0
        if lost:
            self._on_lost(lost)
        return items

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:  # a process that shares the descriptor made it non-blocking
                select.select([], [self._descriptor], [])
