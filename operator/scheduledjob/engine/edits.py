"""Edits: how an owned schedule receives its new definition.

If no attempt of a row runs when it is edited, the row is released, and is claimed again with the new definition. A row
with a running attempt can't be released. It is read again, and its schedule uses the new definition from then on, while
the running attempt ends as it began. A report of a change may be wrong or out of date, so only the row itself counts.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import structlog

from scheduledjob.domain.schedule import followed_runs, machine
from scheduledjob.domain.schedule.requests import NO_REQUESTS, Requests

from .kinds import UnreadableRowError
from .owned_schedule import Phase
from .store import Row, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from .owned_schedule import OwnedSchedule
    from .replica_settings import ReplicaContext

log = structlog.get_logger("scheduledjob.edits")


class Edits:
    """Reads rows whose desired state has changed, while ``run`` runs."""

    def __init__(
        self,
        context: ReplicaContext,
        on_edited: Callable[[OwnedSchedule], None],
        on_lost: Callable[[OwnedSchedule, str], None],
    ) -> None:
        self._context = context
        self._on_edited = on_edited
        """Called when a schedule follows a new definition."""
        self._on_lost = on_lost
        """Called when the row of a schedule was deleted."""
        self._changed: asyncio.Queue[OwnedSchedule | None] = asyncio.Queue()

    def reread(self, owned: OwnedSchedule) -> None:
        """Read this row again soon."""
        self._changed.put_nowait(owned)

    def close(self) -> None:
        self._changed.put_nowait(None)

    async def run(self) -> None:
        while (owned := await self._changed.get()) is not None:
            if owned.phase is Phase.LOST or not owned.attempts:
                continue
            try:
                (row,) = await self._context.store.get([owned.row.slug])
            except StoreUnavailable:
                continue  # the next renewal reports the edit again
            if row is None or row.key != owned.row.key:
                owned.deleted = True
                self._on_lost(owned, "its schedule was deleted")
            elif row.revision != owned.schedule.state.revision:
                self._apply(owned, row)

    def _apply(self, owned: OwnedSchedule, row: Row) -> None:
        kinds = self._context.kinds
        if owned.phase is Phase.LOST or row.kind not in kinds:
            return  # the running attempt ends as it is; a replica that knows the new kind continues
        try:
            definition, slots = kinds[row.kind].read(row)
        except (UnreadableRowError, ValueError) as error:
            log.error(
                "this version can't read an edit, which waits for a newer replica", slug=row.slug, error=str(error)
            )
            return
        owned.kind = kinds[row.kind]
        owned.row.payload = row.payload
        schedule = owned.schedule
        machine.replace_definition(schedule, definition, slots, detached=owned.kind.detached)
        machine.apply_revision(schedule, row.revision, row.edited_at, row.first, row.generation)
        if row.requests:
            machine.request(schedule, requests_of(row), row.edited_at)
        followed_runs.plan_poll(schedule, self._context.clock.now())
        self._on_edited(owned)


def requests_of(row: Row) -> Requests:
    """The manual requests of a row; none if this version can't read them."""
    try:
        return Requests.decode(row.requests)
    except msgspec.MsgspecError as error:
        log.warning("this version can't read the manual requests of a schedule", slug=row.slug, error=str(error))
        return NO_REQUESTS
