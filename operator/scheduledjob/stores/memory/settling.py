"""Settling in the memory store: an owner's writes of its rows, with the history that belongs to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scheduledjob.engine.stored_row import Disposition, Settlement

from .agendas import earlier
from .database import MemoryPart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.domain.time.instants import Instant


class MemorySettling(MemoryPart):
    """The part of the store that settles rows."""

    async def settle(self, replica: str, settlements: Sequence[Settlement]) -> list[bool]:
        tables = self._tables
        with self._lock:
            now = self._clock()
            settled = []
            released: Instant | None = None
            changed: Instant | None = None
            for settlement in settlements:
                entry = tables.owned(settlement.key, replica, settlement.version)
                settled.append(entry is not None)
                if entry is None:
                    continue
                tables.history.add(settlement.records)
                if settlement.hooks:
                    tables.hook_calls.add(settlement.hooks, now)
                if settlement.disposition is Disposition.REMOVE and entry.revision == settlement.revision:
                    tables.remove(entry)
                    continue
                entry.write_state(settlement)
                if settlement.disposition is Disposition.KEEP:
                    entry.version += 1
                    continue
                entry.owner = None
                if entry.revision == settlement.revision:
                    entry.wake_at = settlement.wake_at
                    released = earlier(released, entry.wake_at)
                else:
                    entry.wake_at = changed = now
                tables.enter(entry)
            # The replica that releases a row knows when it is due, unless the desired state has changed meanwhile.
            self._wakes.notify(released, except_for=self)
            self._wakes.notify(changed)
            return settled
