"""The settler: every write of an owner goes through here, batched by what has gathered meanwhile.

While one batch is on its way to the store the next one gathers, so that a lone completion is written at once and a
thousand of them cost one round trip. A write whose fate is unknown (the connection broke) is repeated until the
store answers: the second time it is refused if the first was carried out, and what the store has tells the two cases
apart.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

import structlog

from .store import Disposition, Settlement, Store, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger("scheduledjob.settler")

_T = TypeVar("_T")

BATCH = 1000
WRITERS = 2
GAP = 0.01
"""Seconds between the beginnings of two writes of which neither is full: a lone end is written at once, of two
thousand in a second twenty share a round trip."""
RETRY_AFTER = 0.25
"""Seconds before a write that the store did not answer is repeated."""


class Settler(Generic[_T]):
    """Writes settlements; ``on_settled(owner, settlement, carried_out)`` tells of each, in the event loop.

    The writes of one row must not overlap: who submits waits for one before the next.
    """

    def __init__(self, store: Store, replica: str, on_settled: Callable[[_T, Settlement, bool], None]) -> None:
        self._store = store
        self._replica = replica
        self._on_settled = on_settled
        self._pending: list[tuple[_T, Settlement]] = []
        self._wake = asyncio.Event()
        self._closing = False
        self._next_write = float("-inf")
        """By the event loop's clock; earlier only for a full batch."""

    def submit(self, owner: _T, settlement: Settlement) -> None:
        self._pending.append((owner, settlement))
        if len(self._pending) == 1:  # writers wait for nothing else
            self._wake.set()

    def close(self) -> None:
        """Write what is pending, then end ``run``."""
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
            early = self._next_write - loop.time()
            if early > 0 and len(self._pending) < BATCH and not self._closing:
                await asyncio.sleep(early)
                continue
            self._next_write = loop.time() + GAP
            batch = self._pending[:BATCH]
            del self._pending[:BATCH]
            carried_out = await self._settle([settlement for _, settlement in batch])
            for (owner, settlement), done in zip(batch, carried_out, strict=True):
                self._on_settled(owner, settlement, done)

    async def _settle(self, settlements: list[Settlement]) -> list[bool]:
        unsure = False
        while True:
            try:
                carried_out = await self._store.settle(self._replica, settlements)
            except StoreUnavailable as error:
                log.warning("the store did not answer a write, which is repeated", error=str(error))
                unsure = True
                await asyncio.sleep(RETRY_AFTER)
                continue
            return await self._believe(settlements, carried_out) if unsure else carried_out

    async def _believe(self, settlements: list[Settlement], carried_out: list[bool]) -> list[bool]:
        """After a repeated write: which of those that were refused had been carried out the first time.

        Of one that gives its row away the records are in history then; one that keeps it finds it as it would have
        left it. What can't be read is believed to be refused: that costs an attempt, never a promise.
        """
        refused = [settlement for settlement, done in zip(settlements, carried_out, strict=True) if not done]
        run_ids = sorted(
            {record.run_id for each in refused if each.disposition is not Disposition.KEEP for record in each.records}
        )
        slugs = sorted({each.slug for each in refused if each.disposition is Disposition.KEEP})
        try:
            recorded = await self._store.recorded(run_ids) if run_ids else set()
            rows = {row.slug: row for row in await self._store.get(slugs) if row is not None} if slugs else {}
        except StoreUnavailable:
            return carried_out

        def was_carried_out(settlement: Settlement) -> bool:
            if settlement.disposition is not Disposition.KEEP:
                return bool(settlement.records) and all(record.run_id in recorded for record in settlement.records)
            row = rows.get(settlement.slug)
            return row is not None and (row.key, row.version, row.owner, row.state) == (
                settlement.key,
                settlement.version + 1,
                self._replica,
                settlement.state,
            )

        return [done or was_carried_out(settlement) for settlement, done in zip(settlements, carried_out, strict=True)]
