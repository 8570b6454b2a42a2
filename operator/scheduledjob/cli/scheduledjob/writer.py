"""Writing without waiting: lines go to a thread, which waits for slow readers in place of the event loop.

A pipe that nobody reads blocks whoever writes to it, and a terminal may be stopped with Ctrl-S; a job must not start
late for that. What is handed over is turned into text by the thread, many at once, so that a thousand runs a second
cost the loop a thousand appends. A reader that is too far behind loses lines and is told how many: memory is bounded,
and history has every run.
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
"""Items that wait for a slow reader."""
AT_ONCE = 2_000
"""Items of one write: small enough that turning them into text does not keep the loop from its turn for long."""
LAST_SECONDS = 1.0
"""How long the end waits for a reader."""


class Writer(Generic[T]):
    """Writes items to a file descriptor, from a thread of its own."""

    def __init__(
        self,
        descriptor: int,
        render: Callable[[Sequence[T]], str],
        on_broken: Callable[[], object] = lambda: None,
        on_lost: Callable[[int], object] = lambda lost: None,
    ) -> None:
        """``on_broken`` is called once the reader has gone, ``on_lost`` with how many items were left out; both from
        the thread."""
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
        """Have these written, in order; from any thread, never blocking."""
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
        """Write what waits, for as long as the reader keeps reading."""
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
        """The next items; none at the end."""
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
            except BlockingIOError:  # somebody who shares it made it non-blocking
                select.select([], [self._descriptor], [])
