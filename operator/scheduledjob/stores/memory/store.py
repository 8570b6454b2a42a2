"""The store in memory: what each call of ``Store`` does to the tables of its installation.

Everything is a dictionary under one lock. A lock of threads rather than of tasks, because leases are renewed from a
thread with an event loop of its own; nothing waits while it is held. Several stores may stand on one
``MemoryDatabase``, as several replicas would on one server.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

from scheduledjob.domain.time.instants import Instant, Micros
from scheduledjob.engine.store import (
    Batch,
    Disposition,
    Key,
    NewRow,
    Origin,
    Presence,
    Put,
    Renewal,
    Renewer,
    ReplicaInfo,
    Row,
    Settlement,
    SlugTaken,
    Wake,
)
from scheduledjob.stores.tombstones import decide_upsert, each_once, no_object

from .presence import Presences
from .rows import Entry, Installation, due_rows, earlier, next_wake
from .wakes import Listener, Wakes

if TYPE_CHECKING:
    from scheduledjob.domain.schedule.state import RunRecord

Clock: TypeAlias = Callable[[], Instant]


def steady_clock() -> Clock:
    """The wall clock as it is now, carried on by the monotonic one: setting the system's clock moves nothing."""
    start = time.time_ns() - time.monotonic_ns()
    return lambda: (start + time.monotonic_ns()) // 1000


class MemoryDatabase:
    """What several memory stores share: installations, by name, under one lock and one clock."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or steady_clock()
        self.lock = threading.Lock()
        self.presences = Presences()
        self._installations: dict[str, tuple[Installation, Wakes]] = {}

    def installation(self, name: str) -> tuple[Installation, Wakes]:
        with self.lock:
            return self._installations.setdefault(name, (Installation(), Wakes()))


class MemoryStore:
    """``Store`` for one installation of a ``MemoryDatabase``; without one, of a database of its own."""

    polls = False
    poll_interval = 1.0

    def __init__(self, database: MemoryDatabase | None = None, *, installation: str = "local") -> None:
        self._database = database or MemoryDatabase()
        self._clock = self._database.clock
        self._lock = self._database.lock
        self._installation = installation
        self._here, self._wakes = self._database.installation(installation)

    async def connect(self) -> None:
        """There is nothing to connect to."""

    async def close(self) -> None:
        """What is stored stays, for the other stores on the same database."""

    async def now(self) -> Instant:
        return self._clock()

    # ---- clients

    async def put(self, rows: Sequence[NewRow], *, replace: bool) -> list[Put]:
        slugs = each_once(rows)
        here = self._here
        with self._lock:
            if not replace and (taken := [slug for slug in slugs if slug in here.slugs]):
                raise SlugTaken(taken)
            now = self._clock()
            written: list[Entry] = []
            answers: list[Put] = []
            for row in rows:
                entry = here.slugs.get(row.slug)
                if entry is not None and not entry.differs(row):
                    answers.append(Put.UNCHANGED)
                    continue
                desired = no_object(row)
                if entry is None:
                    entry = here.create(desired, now)
                    answers.append(Put.CREATED)
                else:
                    here.edit(entry, desired, now)
                    answers.append(Put.UPDATED)
                written.append(entry)
            self._tell(written)
        return answers

    async def reconcile(self, rows: Sequence[NewRow]) -> list[Put]:
        each_once(rows)
        here = self._here
        with self._lock:
            now = self._clock()
            answers = [
                decide_upsert(here.slugs.get(row.slug), row, tombstoned=here.is_tombstoned(row.uid, now))
                for row in rows
            ]
            asked = list(zip(rows, answers, strict=True))
            self._end(
                [here.slugs[row.slug] for row, put in asked if put is Put.CREATED and row.slug in here.slugs], now
            )
            written: list[Entry] = []
            for row, put in asked:
                if put is Put.CREATED:
                    written.append(here.create(row, now))
                elif put is Put.UPDATED:
                    entry = here.slugs[row.slug]
                    payload = entry.payload if entry.generation == row.generation else row.payload
                    here.edit(entry, dataclasses.replace(row, payload=payload), now)
                    written.append(entry)
            self._tell(written)
        return answers

    async def tombstone(self, identities: Sequence[tuple[str, str]]) -> list[bool]:
        here = self._here
        with self._lock:
            now = self._clock()
            there = [
                (slug, uid) if (entry := here.slugs.get(slug)) is not None and entry.uid == uid else None
                for slug, uid in identities
            ]
            self._end([here.slugs[slug] for slug, _ in dict.fromkeys(filter(None, there))], now)
            for _, uid in identities:
                here.tombstone(uid, now)
        return [each is not None for each in there]

    def _end(self, entries: Sequence[Entry], now: Instant) -> None:
        """Remove the row and leave a tombstone, with a record of each run that this ends."""
        self._remove(entries, now)
        for entry in entries:
            self._here.tombstone(entry.uid, now, entry.definition)

    async def touch(self, slugs: Sequence[str]) -> None:
        with self._lock:
            now = self._clock()
            found = [entry for slug in dict.fromkeys(slugs) if (entry := self._here.slugs.get(slug)) is not None]
            for entry in found:
                self._here.touch(entry, now)
            self._tell(found)

    def _tell(self, written: Sequence[Entry]) -> None:
        due: Instant | None = None
        changed: list[str] = []
        for entry in written:
            if entry.owner is not None:
                changed.append(entry.slug)
            else:
                due = earlier(due, entry.wake_at)
        self._wakes.tell(due, changed)

    async def delete(self, slugs: Sequence[str]) -> list[bool]:
        with self._lock:
            return self._delete(slugs)

    async def clear(self, origin: Origin | None = None) -> int:
        with self._lock:
            entries = self._here.slugs.values()
            return len(self._delete([each.slug for each in entries if origin is None or each.origin == origin]))

    def _delete(self, slugs: Sequence[str]) -> list[bool]:
        found = {slug: entry for slug in slugs if (entry := self._here.slugs.get(slug)) is not None}
        self._remove(list(found.values()), self._clock())
        return [slug in found for slug in slugs]

    def _remove(self, entries: Sequence[Entry], now: Instant) -> None:
        # All records are made before anything goes: a state that can't be read must not leave half of it done.
        records = [record for entry in entries for record in entry.cut_off(now)]
        self._here.history.add(records)
        for entry in entries:
            self._here.remove(entry)
        self._wakes.tell(None, [entry.slug for entry in entries])

    async def get(self, slugs: Sequence[str]) -> list[Row | None]:
        with self._lock:
            found = map(self._here.slugs.get, slugs)
            return [None if entry is None else entry.row() for entry in found]

    async def rows(self, *, origin: Origin | None = None, after: str = "", limit: int = 1000) -> list[Row]:
        with self._lock:
            return [entry.row() for entry in self._here.page(origin, after, limit)]

    async def history(
        self, slug: str | None = None, *, uid: str | None = None, before: Instant | None = None, limit: int = 100
    ) -> list[RunRecord]:
        with self._lock:
            return self._here.history.newest(slug, uid, before, limit)

    async def recorded(self, run_ids: Sequence[str]) -> set[str]:
        with self._lock:
            return self._here.history.recorded(run_ids)

    # ---- replicas

    async def claim(
        self,
        replica: str,
        kinds: Iterable[str],
        *,
        limit: int,
        ahead: Micros,
        lease: Micros,
        by: Instant | None = None,
    ) -> Batch:
        """As ``Store.claim``; ``next_wake`` looks at the kinds asked for only.

        A lease can't be claimed ahead of its end, so there it counts as ``ahead`` later than it ends: whoever looks
        again at ``next_wake - ahead`` finds what is next, of either sort.
        """
        here = self._here
        with self._lock:
            now = self._clock()
            agendas = here.agendas_of(kinds)
            rows: list[Row] = []
            in_time = by is None or now <= by
            for entry in due_rows(agendas, now + ahead, now, limit) if in_time else ():
                recovered = entry.owner is not None
                entry.owner = replica
                entry.version += 1
                entry.wake_at = now + lease
                rows.append(entry.row(recovered))
            # After the last was taken: what has just been leased must not be found again.
            for row in rows:
                here.enter(here.slugs[row.slug])
            return Batch(rows, now, next_wake(agendas, now, ahead), not in_time)

    async def settle(self, replica: str, settlements: Sequence[Settlement]) -> list[bool]:
        here = self._here
        with self._lock:
            now = self._clock()
            answers = []
            released: Instant | None = None
            overtaken: Instant | None = None
            for settlement in settlements:
                entry = here.owned(settlement.key, replica, settlement.version)
                answers.append(entry is not None)
                if entry is None:
                    continue
                here.history.add(settlement.records)
                if settlement.disposition is Disposition.REMOVE and entry.revision == settlement.revision:
                    here.remove(entry)
                    continue
                entry.take(settlement)
                if settlement.disposition is Disposition.KEEP:
                    entry.version += 1
                    continue
                entry.owner = None
                if entry.revision == settlement.revision:
                    entry.wake_at = settlement.wake_at
                    released = earlier(released, entry.wake_at)
                else:
                    entry.wake_at = overtaken = now
                here.enter(entry)
            # The replica that releases a row knows when it is due, unless the definition has changed meanwhile.
            self._wakes.tell(released, besides=self)
            self._wakes.tell(overtaken)
            return answers

    @asynccontextmanager
    async def renewer(self, replica: str) -> AsyncIterator[Renewer]:
        yield _MemoryRenewer(self._database, self._here, replica)

    async def announce(self, replica: ReplicaInfo, looks_at: Instant) -> None:
        with self._lock:
            poll_times = self._wakes.poll_times
            # One that was held back on its way is older than what it finds.
            poll_times[replica.id] = max(poll_times.get(replica.id, looks_at), looks_at)

    async def withdraw(self, replica: str) -> None:
        with self._lock:
            self._wakes.poll_times.pop(replica, None)
            self._here.locks.forget(replica)
            self._database.presences.forget(self._installation, replica)

    async def lock(self, name: str, replica: str, length: Micros) -> bool:
        with self._lock:
            now = self._clock()
            return self._here.locks.take(name, replica, now, now + length)

    async def unlock(self, name: str, replica: str) -> None:
        with self._lock:
            self._here.locks.give_up(name, replica)

    async def present(self, replica: str, cluster: str, namespaces: Sequence[str], lifetime: Micros) -> list[Presence]:
        with self._lock:
            now = self._clock()
            me = Presence(self._installation, replica, tuple(namespaces), now)
            return self._database.presences.say(me, cluster, now, now + lifetime)

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

    async def prune(self, limit: int = 1000) -> int:
        with self._lock:
            now = self._clock()
            self._here.forget_tombstones(now, limit)
            return self._here.history.prune(now, limit)


class _MemoryRenewer:
    """Renews under the lock that the store uses, so any thread may call it."""

    def __init__(self, database: MemoryDatabase, here: Installation, replica: str) -> None:
        self._database = database
        self._here = here
        self._replica = replica

    async def renew(self, held: Sequence[tuple[Key, int]], lease: Micros) -> Renewal:
        revisions: dict[Key, int] = {}
        with self._database.lock:
            wake_at = self._database.clock() + lease
            for key, version in held:
                entry = self._here.owned(key, self._replica, version)
                if entry is not None:
                    entry.wake_at = wake_at
                    self._here.enter(entry)
                    revisions[key] = entry.revision
        return Renewal(revisions)
