"""Rows that a client has locked: replicas pass over them, as they do in Postgres."""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from scheduledjob.domain.time.instants import SECOND
from scheduledjob.stores.memory import MemoryDatabase, MemoryStore
from scheduledjob.stores.memory.agendas import earlier

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterable, Sequence

    from scheduledjob.domain.time.instants import Instant, Micros
    from scheduledjob.engine.store import Batch, Renewal, Renewer
    from scheduledjob.engine.stored_row import Key, Settlement

    from .world import World

POLL_AGAIN = SECOND
"""After a claim that has passed over a due row. A client that unlocks a row notifies nobody."""


class RowLocks:
    """The keys of the rows that clients have locked."""

    def __init__(self) -> None:
        self._counts: Counter[Key] = Counter()

    def take(self, keys: Collection[Key]) -> None:
        self._counts.update(keys)

    def release(self, keys: Collection[Key]) -> None:
        self._counts.subtract(keys)

    def __contains__(self, key: Key) -> bool:
        return self._counts[key] > 0


class LockingStore(MemoryStore):
    """A memory store whose replicas pass over locked rows."""

    def __init__(self, database: MemoryDatabase, locks: RowLocks, world: World) -> None:
        super().__init__(database)
        self._locks = locks
        self._world = world

    async def claim(self, replica: str, kinds: Iterable[str], **options: Any) -> Batch:
        hidden = [
            (entry, entry.wake_at)
            for entry in self._tables.keys.values()
            if entry.key in self._locks and entry.kind in kinds and entry.wake_at is not None
        ]
        due = self._world.store_clock() + options["ahead"]
        for entry, wake_at in hidden:
            entry.wake_at = None
            if wake_at <= due:
                self._world.strikes.effect("lock rows: a claim passed over a due row")
        owners = {entry.key: entry.owner for entry in self._tables.keys.values() if entry.owner is not None}
        batch = await super().claim(replica, kinds, **options)
        for row in batch.rows:
            if row.recovered:
                self._world.recovered(row, owners[int(row.key)])
        for entry, wake_at in hidden:
            entry.wake_at = wake_at
            self._tables.enter(entry)
        if len(batch.rows) < options["limit"]:
            for entry, wake_at in hidden:
                batch.next_wake = earlier(
                    batch.next_wake, _next_poll(wake_at, entry.owner is not None, batch.now, options["ahead"])
                )
        return batch

    async def settle(self, replica: str, settlements: Sequence[Settlement]) -> list[bool | None]:  # type: ignore[override]
        free = [settlement for settlement in settlements if settlement.key not in self._locks]
        strikes, answers = self._world.strikes, iter(await super().settle(replica, free))
        answered = [None if settlement.key in self._locks else next(answers) for settlement in settlements]
        for settlement, done in zip(settlements, answered, strict=True):
            if done is None:
                strikes.effect("lock rows: a write waited")
            elif not done and (settlement.key, settlement.version) in strikes.unknown_writes:
                strikes.effect("lost answer: a repeated write was refused")
        return answered

    @asynccontextmanager
    async def renewer(self, replica: str) -> AsyncIterator[Renewer]:
        async with super().renewer(replica) as renewer:
            yield _LockingRenewer(renewer, self._locks, self._world)


class _LockingRenewer:
    def __init__(self, renewer: Renewer, locks: RowLocks, world: World) -> None:
        self._renewer = renewer
        self._locks = locks
        self._world = world

    async def renew(self, owned: Sequence[tuple[Key, int]], lease: Micros) -> Renewal:
        answer = await self._renewer.renew([row for row in owned if row[0] not in self._locks], lease)
        answer.busy = [key for key, _ in owned if key in self._locks]
        if answer.busy:
            self._world.strikes.effect("lock rows: a renewal waited")
        return answer


def _next_poll(wake_at: Instant, owned: bool, now: Instant, ahead: Micros) -> Instant:
    """Return the ``next_wake`` for a locked row: when it may be claimed, or soon if it may be claimed now."""
    claimable = wake_at + ahead if owned else wake_at
    return claimable if claimable > now + ahead else now + POLL_AGAIN + ahead
