"""The settler sends every write of the owned rows to the store, in batches.

While one batch is in flight the next one fills. So a single settlement is written at once, and a thousand of them cost
one round trip. If the connection breaks, the result of a write is unknown. The settler then repeats the write until the
store answers. The store refuses a repeated write that it had carried out the first time. To distinguish that from a
real refusal, the settler reads what is stored.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

import structlog

from .store import Disposition, Settlement, Store, StoreUnavailable
from .timing import MIN_WRITE_INTERVAL, WRITE_RETRY_DELAY

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger("scheduledjob.settler")

_T = TypeVar("_T")

BATCH = 1000
"""Settlements in one write, at most."""
WRITERS = 2
"""Writes in flight at once, at most."""


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
        self._closing = False
        self._next_write = float("-inf")
        """Seconds of the event loop's clock. A full batch is written earlier."""

    def submit(self, owner: _T, settlement: Settlement) -> None:
        self._pending.append((owner, settlement))
        if len(self._pending) == 1:  # the writers only wait for a first one
            self._wake.set()

    def close(self) -> None:
        """Write what is pending; then ``run`` returns."""
        self._closing = True
        self._wake.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(WRITERS):
                tasks.create_task(self._write())

    async def _write(self) -> None:
        while True:
            if not self._pending:
                if self._closing:
                    self._wake.set()  # for the other writers
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
            batch = self._pending[:BATCH]
            del self._pending[:BATCH]
            carried_out = await self._settle([settlement for _, settlement in batch])
            for (owner, settlement), done in zip(batch, carried_out, strict=True):
                self._on_settled(owner, settlement, done)

    async def _settle(self, settlements: list[Settlement]) -> list[bool]:
        repeated = False
        while True:
            try:
                carried_out = await self._store.settle(self._replica, settlements)
            except StoreUnavailable as error:
                log.warning("the store did not answer a write: retrying", error=str(error))
                repeated = True
                await asyncio.sleep(WRITE_RETRY_DELAY)
                continue
            return await self._resolve(settlements, carried_out) if repeated else carried_out

    async def _resolve(self, settlements: list[Settlement], carried_out: list[bool]) -> list[bool]:
        """After a repeated write: also True for refused settlements that the first write had carried out.

        History has the records of a settlement that released its row. A row that was kept, or released without
        records, is as the settlement left it. If neither can be read, the settlement counts as refused: that costs an
        attempt, but breaks no promise.
        """
        refused = [settlement for settlement, done in zip(settlements, carried_out, strict=True) if not done]
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

        return [done or was_carried_out(settlement) for settlement, done in zip(settlements, carried_out, strict=True)]


def _shows_in_row(settlement: Settlement) -> bool:
    """Return whether the row, not history, shows that the settlement was carried out."""
    disposition = settlement.disposition
    return disposition is Disposition.KEEP or (disposition is Disposition.RELEASE and not settlement.records)
