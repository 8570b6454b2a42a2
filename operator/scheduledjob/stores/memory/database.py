"""What memory stores share: the database, and the base of the parts that a store is put together from.

All data is in dictionaries under one lock. It is a lock of threads rather than of tasks, because the lease thread
renews in an event loop of its own. Nothing waits while it holds the lock.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from .agendas import earlier
from .clock import Clock, WallClock
from .presence import Presences
from .rows import Installation
from .wakes import Wakes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.domain.time.instants import Instant

    from .entries import Entry


class MemoryDatabase:
    """Installations by name, under one lock and one clock. Several stores may share it, as replicas share a server."""

    def __init__(self, clock: Clock | None = None) -> None:
        """``clock`` returns the current time; None: the wall clock."""
        self._clock = clock or WallClock()
        self.lock = threading.Lock()
        self.presences = Presences()
        self._installations: dict[str, tuple[Installation, Wakes]] = {}

    def clock(self) -> Instant:
        """Return the current time. Call it under the lock.

        If the wall clock has jumped, the leases move with it, and all listeners poll.
        """
        now = self._clock()
        if isinstance(self._clock, WallClock) and (jump := self._clock.take_jump()):
            self.presences.move(jump)
            for tables, wakes in self._installations.values():
                tables.move_leases(jump)
                wakes.clock_jumped()
        return now

    def installation(self, name: str) -> tuple[Installation, Wakes]:
        with self.lock:
            return self._installations.setdefault(name, (Installation(), Wakes()))


class MemoryPart:
    """Base of the parts: the tables and listeners of one installation."""

    row_limit: int | None = None

    def __init__(self, database: MemoryDatabase | None = None, *, installation: str = "local") -> None:
        self._database = database or MemoryDatabase()
        self.exclusive = database is None
        self._clock = self._database.clock
        self._lock = self._database.lock
        self._installation = installation
        self._tables, self._wakes = self._database.installation(installation)

    def _remove(self, entries: Sequence[Entry], now: Instant, *, ends_runs: bool = True) -> None:
        """Remove rows, with a record of each run that this ends."""
        # Make all records before removing any row: a state that cannot be read must not leave the work half done.
        records = [record for entry in entries for record in entry.cut_off(now)] if ends_runs else []
        self._tables.history.add(records)
        for entry in entries:
            self._tables.remove(entry)
        self._wakes.notify(None, [entry.slug for entry in entries])

    def _notify_written(self, written: Sequence[Entry]) -> None:
        """Notify replicas of rows whose desired state was written."""
        due: Instant | None = None
        changed: list[str] = []
        for entry in written:
            if entry.owner is not None:
                changed.append(entry.slug)
            else:
                due = earlier(due, entry.wake_at)
        self._wakes.notify(due, changed)
