"""The store in memory, put together from its parts.

The parts are beside this file: ``schedules`` (what clients write), ``reconciling`` (what is observed in a cluster),
``claims``, ``settling``, ``presence`` (what replicas do), ``wakes`` (what they are notified of) and ``history``. Their
data is in ``rows`` and ``database``.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from scheduledjob.engine.store import Presence, ReplicaInfo, Wake

from .claims import MemoryClaims
from .reconciling import MemoryReconciling
from .schedules import MemorySchedules
from .settling import MemorySettling
from .wakes import Listener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from scheduledjob.domain.schedule.state import RunRecord
    from scheduledjob.domain.time.instants import Instant, Micros
    from scheduledjob.engine.stored_row import HookCall, HookEnd


class MemoryStore(MemorySchedules, MemoryReconciling, MemoryClaims, MemorySettling):
    """One installation of a ``MemoryDatabase``, or of a new one. Implements ``Store``."""

    polls = False
    poll_interval = 1.0

    async def connect(self) -> None:
        """There is nothing to connect to."""

    async def close(self) -> None:
        """The data stays, for the other stores on the same database."""

    async def now(self) -> Instant:
        with self._lock:
            return self._clock()

    # ---- history

    async def history(
        self, slug: str | None = None, *, uid: str | None = None, before: Instant | None = None, limit: int = 100
    ) -> list[RunRecord]:
        with self._lock:
            return self._tables.history.newest(slug, uid, before, limit)

    async def recorded(self, run_ids: Sequence[str]) -> set[str]:
        with self._lock:
            return self._tables.history.recorded(run_ids)

    async def prune(self, limit: int = 1000) -> int:
        with self._lock:
            now = self._clock()
            self._tables.forget_tombstones(now, limit)
            return self._tables.history.prune(now, limit)

    # ---- hooks

    async def claim_hooks(self, *, limit: int, lease: Micros, without: Sequence[str] = ()) -> list[HookCall]:
        with self._lock:
            return self._tables.hook_calls.claim(self._clock(), limit, lease, without)

    async def settle_hooks(self, ends: Sequence[HookEnd]) -> None:
        with self._lock:
            self._tables.hook_calls.settle(ends, self._clock())

    # ---- presence

    async def announce(self, replica: ReplicaInfo, poll_at: Instant) -> bool:
        with self._lock:
            poll_times = self._wakes.poll_times
            # An announcement that was delayed is older than the stored one.
            poll_times[replica.id] = max(poll_times.get(replica.id, poll_at), poll_at)
        return True

    async def withdraw(self, replica: str) -> None:
        with self._lock:
            self._wakes.poll_times.pop(replica, None)
            self._tables.locks.forget(replica)
            self._database.presences.forget(self._installation, replica)

    async def lock(self, name: str, replica: str, length: Micros) -> bool:
        with self._lock:
            now = self._clock()
            return self._tables.locks.take(name, replica, now, now + length)

    async def unlock(self, name: str, replica: str) -> None:
        with self._lock:
            self._tables.locks.release(name, replica)

    async def present(self, replica: str, cluster: str, namespaces: Sequence[str], lifetime: Micros) -> list[Presence]:
        with self._lock:
            now = self._clock()
            mine = Presence(self._installation, replica, tuple(namespaces), now)
            return self._database.presences.announce(mine, cluster, now, now + lifetime)

    # ---- notifications

    def listen(self, on_wake: Callable[[Wake], None]) -> AbstractAsyncContextManager[None]:
        return self._listen(on_wake)

    @asynccontextmanager
    async def _listen(self, on_wake: Callable[[Wake], None]) -> AsyncIterator[None]:
        listener = Listener(self, self._lock, on_wake)
        with self._lock:
            self._wakes.listeners.append(listener)
        try:
            yield
        finally:
            with self._lock:
                self._wakes.listeners.remove(listener)
                listener.forget()
