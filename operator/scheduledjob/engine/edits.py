"""Edits: how a schedule whose run is under way comes to its new wish.

A row that is only waited for is given back when its wish changes, and is claimed again under the new one. One that
runs can't be given back: it is read again, and the schedule goes by the new wish from then on, while the attempt that
is under way ends as it began. Whoever told of the change may be wrong or out of date; what the row says counts.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import structlog

from scheduledjob.domain.schedule.requests import NONE, Requests

from .kinds import JobKind, UnreadableRowError
from .store import Row, Store, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .clock import StoreClock
    from .owned_schedule import OwnedSchedule

log = structlog.get_logger("scheduledjob.edits")


class Edits:
    """Reads rows whose wish has changed, while ``run`` runs."""

    def __init__(
        self,
        store: Store,
        kinds: Mapping[str, JobKind],
        clock: StoreClock,
        on_taken: Callable[[OwnedSchedule], None],
        on_lost: Callable[[OwnedSchedule, str], None],
    ) -> None:
        self._store = store
        self._kinds = kinds
        self._clock = clock
        self._on_taken = on_taken
        """Called when a schedule goes by another wish."""
        self._on_lost = on_lost
        """Called when its row is there no longer."""
        self._changed: asyncio.Queue[OwnedSchedule | None] = asyncio.Queue()

    def reread(self, hold: OwnedSchedule) -> None:
        """The wish of this one has changed."""
        self._changed.put_nowait(hold)

    def close(self) -> None:
        self._changed.put_nowait(None)

    async def run(self) -> None:
        while (hold := await self._changed.get()) is not None:
            if hold.gone or not hold.attempts:
                continue
            try:
                (row,) = await self._store.get([hold.row.slug])
            except StoreUnavailable:
                continue  # the next renewal finds the same, and asks again
            if row is None or row.key != hold.row.key:
                hold.deleted = True
                self._on_lost(hold, "its schedule was deleted")
            elif row.revision != hold.schedule.state.revision:
                self._take(hold, row)

    def _take(self, hold: OwnedSchedule, row: Row) -> None:
        if hold.gone or row.kind not in self._kinds:
            return  # the run that is under way ends as it is; who knows the new kind goes on from there
        try:
            definition, slots = self._kinds[row.kind].read(row)
        except (UnreadableRowError, ValueError) as error:
            log.error("an edit is not understood and waits for a newer replica", slug=row.slug, error=str(error))
            return
        hold.kind = self._kinds[row.kind]
        hold.row.payload = row.payload
        schedule = hold.schedule
        schedule.replace_definition(definition, slots, detached=hold.kind.detached)
        schedule.edited(row.revision, row.edited_at, row.first, row.generation)
        if row.requests:
            schedule.asked(requests_of(row), row.edited_at)
        schedule.look(self._clock.now())
        self._on_taken(hold)


def requests_of(row: Row) -> Requests:
    """What is asked for by hand there; nothing where that is not understood."""
    try:
        return Requests.decode(row.requests)
    except msgspec.MsgspecError as error:
        log.warning("what is asked for by hand is not understood", slug=row.slug, error=str(error))
        return NONE
