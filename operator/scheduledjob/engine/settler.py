"""The settler sends every write of the owned rows to the store, in batches.

While one batch is in flight the next one fills. So a single settlement is written at once, and a thousand of them cost
one round trip. A batch is bounded in bytes, too, because a slow link must carry it within the store's time limit.

No write stands in the way of others. One that the store did not answer, refused or left out, or that is large, goes
into a second lane with a writer of its own. If the store answers other calls, such a batch is halved before it is
repeated, until the write that can't be carried out is alone. The writes that failed least come first.

If the connection breaks, the result of a write is unknown. The settler then repeats the write until the store answers.
The store refuses a repeated write that it had carried out the first time. To distinguish that from a real refusal, the
settler reads what is stored.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec
import structlog

from .store import Store, StoreError, StoreUnavailable
from .stored_row import Disposition, Settlement
from .timing import MIN_WRITE_INTERVAL, WRITE_RETRY_DELAY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

log = structlog.get_logger("scheduledjob.settler")

_T = TypeVar("_T")

BATCH = 1000
"""Settlements in one write, at most."""
BATCH_BYTES = 512 * 1024
"""Bytes in one write, at most, unless a single settlement has more."""
LARGE = 64 * 1024
"""Bytes from which a settlement is written beside the others."""
WRITERS = 2
"""Writes in flight at once, at most, beside that of the second lane."""


class _Batch(msgspec.Struct, Generic[_T]):
    """A write of the second lane."""

    entries: list[tuple[_T, Settlement]]
    failures: int = 0
    """How often it failed although the store answered other calls."""
    repeated: bool = False
    """An earlier write of it was not answered, and may have been carried out."""


class Settler(Generic[_T]):
    """Writes settlements, and calls ``on_settled(owner, settlement, carried_out)`` for each, in the event loop.

    The writes of one row must not overlap: submit the next one only after ``on_settled`` was called for the last.
    """

    def __init__(self, store: Store, replica: str, on_settled: Callable[[_T, Settlement, bool], None]) -> None:
        self._store = store
        self._replica = replica
        self._on_settled = on_settled
        self._pending: list[tuple[_T, Settlement]] = []
        self._wake = asyncio.Event()
        self._second_lane: list[tuple[int, int, _Batch[_T]]] = []
        """A heap, ordered by failures and then by age."""
        self._second_wake = asyncio.Event()
        self._numbers = itertools.count()
        self._writing = 0
        """First writes in flight, whose batches may still come into the second lane."""
        self._closing = False
        self._next_write = float("-inf")
        """Seconds of the event loop's clock. A full batch is written earlier."""

    def submit(self, owner: _T, settlement: Settlement) -> None:
        if (settlement.result is not None or settlement.payload is not None) and size_of(settlement) >= LARGE:
            self._defer(_Batch([(owner, settlement)]))
            return
        self._pending.append((owner, settlement))
        if len(self._pending) == 1:  # the writers only wait for a first one
            self._wake.set()

    def close(self) -> None:
        """Write what is pending; then ``run`` returns."""
        self._closing = True
        self._wake.set()
        self._second_wake.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(WRITERS):
                tasks.create_task(self._write())
            tasks.create_task(self._write_second_lane())

    async def _write(self) -> None:
        while True:
            if not self._pending:
                if self._closing:
                    self._wake.set()  # for the other writers
                    self._second_wake.set()
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            loop = asyncio.get_running_loop()
            wait = self._next_write - loop.time()
            if wait > 0 and len(self._pending) < BATCH and not self._closing:
                await asyncio.sleep(wait)
                continue
            self._next_write = loop.time() + MIN_WRITE_INTERVAL
            count = _count_of_batch(self._pending)
            batch = _Batch(self._pending[:count])
            del self._pending[:count]
            self._writing += 1
            await self._settle(batch)
            self._writing -= 1

    async def _write_second_lane(self) -> None:
        while True:
            if not self._second_lane:
                if self._closing and not self._pending and not self._writing:
                    return
                self._second_wake.clear()
                await self._second_wake.wait()
                continue
            if not await self._settle(self._pop_second_lane()):
                await asyncio.sleep(WRITE_RETRY_DELAY)

    def _pop_second_lane(self) -> _Batch[_T]:
        """Return the next batch. After an outage there are many small ones, which are written together again."""
        _, _, batch = heapq.heappop(self._second_lane)
        while self._second_lane and not batch.failures:
            failures, _, following = self._second_lane[0]
            entries = batch.entries + following.entries
            if failures or _count_of_batch(entries) < len(entries):
                break
            heapq.heappop(self._second_lane)
            batch = _Batch(entries, 0, batch.repeated or following.repeated)
        return batch

    def _defer(self, batch: _Batch[_T]) -> None:
        heapq.heappush(self._second_lane, (batch.failures, next(self._numbers), batch))
        self._second_wake.set()

    async def _settle(self, batch: _Batch[_T]) -> bool:
        """Write a batch, and return whether the store carried out or refused all of it. The rest is deferred."""
        settlements = [settlement for _, settlement in batch.entries]
        try:
            answer = await self._store.settle(self._replica, settlements)
        except StoreUnavailable as error:
            log.warning("the store did not answer a write: retrying", error=str(error))
            await self._defer_unanswered(batch)
            return False
        except StoreError as error:
            if not await self._store_answers(batch):
                raise  # it is not because of a write: the schema or the permissions are wrong, for example
            log.error(
                "the store refused a write: retrying in parts", first=settlements[0].slug, writes=len(settlements),
                error=str(error),
            )  # fmt: skip
            self._defer_halves(batch)
            return False
        if batch.repeated and not all(answer):
            answer = await self._resolve(settlements, answer)
        for (owner, settlement), done in zip(batch.entries, answer, strict=True):
            if done is None:
                self._defer(_Batch([(owner, settlement)], batch.failures, batch.repeated))
            else:
                self._on_settled(owner, settlement, done)
        return None not in answer

    async def _defer_unanswered(self, batch: _Batch[_T]) -> None:
        """Repeat a batch later: as a whole after an outage, in halves if the store answers other calls."""
        if not await self._store_answers(batch):
            self._defer(_Batch(batch.entries, batch.failures, True))
        else:
            self._defer_halves(batch)

    def _defer_halves(self, batch: _Batch[_T]) -> None:
        half = (len(batch.entries) + 1) // 2
        for entries in (batch.entries[:half], batch.entries[half:]):
            if entries:
                self._defer(_Batch(entries, batch.failures + 1, True))

    async def _store_answers(self, batch: _Batch[_T]) -> bool:
        try:
            await self._store.get([batch.entries[0][1].slug])
        except StoreError:
            return False
        return True

    async def _resolve(
        self, settlements: Sequence[Settlement], carried_out: Sequence[bool | None]
    ) -> Sequence[bool | None]:
        """After a repeated write: also True for refused settlements that the first write had carried out.

        History has the records of a settlement that released its row. A row that was kept, or released without
        records, is as the settlement left it. If neither can be read, the settlement counts as refused: that costs an
        attempt, but breaks no promise.
        """
        refused = [settlement for settlement, done in zip(settlements, carried_out, strict=True) if done is False]
        run_ids = sorted(
            {
                record.run_id
                for settlement in refused
                if settlement.disposition is not Disposition.KEEP
                for record in settlement.records
            }
        )
        slugs = sorted({settlement.slug for settlement in refused if _shows_in_row(settlement)})
        try:
            recorded = await self._store.recorded(run_ids) if run_ids else set()
            rows = {row.slug: row for row in await self._store.get(slugs) if row is not None} if slugs else {}
        except StoreUnavailable:
            return carried_out

        def was_carried_out(settlement: Settlement) -> bool:
            if not _shows_in_row(settlement):
                return bool(settlement.records) and all(record.run_id in recorded for record in settlement.records)
            row = rows.get(settlement.slug)
            kept = settlement.disposition is Disposition.KEEP
            return row is not None and (row.key, row.version, row.owner, row.state) == (
                settlement.key,
                settlement.version + kept,
                self._replica if kept else None,
                settlement.state,
            )

        return [
            was_carried_out(settlement) if done is False else done
            for settlement, done in zip(settlements, carried_out, strict=True)
        ]


def _shows_in_row(settlement: Settlement) -> bool:
    """Return whether the row, not history, shows that the settlement was carried out."""
    disposition = settlement.disposition
    return disposition is Disposition.KEEP or (disposition is Disposition.RELEASE and not settlement.records)


def size_of(settlement: Settlement) -> int:
    """Return about how many bytes the settlement takes on the wire."""
    size = len(settlement.state)
    for record in settlement.records:
        size += len(record.output) + len(record.reason)
    if settlement.payload is not None:
        size += len(settlement.payload)
    if settlement.result is not None:
        size += len(settlement.result)
    if settlement.hooks:
        size += sum(len(hook.data) for hook in settlement.hooks)
    return size


def _count_of_batch(entries: Sequence[tuple[object, Settlement]]) -> int:
    """Return how many of the entries fit into one write, at least one."""
    size = 0
    for count, (_, settlement) in enumerate(entries[:BATCH]):
        size += size_of(settlement)
        if size > BATCH_BYTES and count:
            return count
    return min(len(entries), BATCH)
