"""Edits: how an owned schedule receives its new definition.

If no run of a row is active when it is edited, the row is released, and is claimed again with the new definition. A row
with a running attempt can't be released, and a row whose run is about to start would never start it if it were edited
again and again. Such a row is read again, and its schedule uses the new definition from then on, while the running
attempt ends as it began. A report of a change may be wrong or out of date, so only the row itself counts.
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
from .store import StoreUnavailable
from .stored_row import Origin, Row

if TYPE_CHECKING:
    from collections.abc import Callable

    from scheduledjob.domain.schedule.schedule import Schedule
    from scheduledjob.domain.schedule.state import State

    from .owned_schedule import OwnedSchedule
    from .replica_settings import ReplicaContext

log = structlog.get_logger("scheduledjob.edits")

BATCH = 500
"""Rows that are read again at once, at most."""


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
        while (first := await self._changed.get()) is not None:
            reread = {first.row.slug: first}
            while not self._changed.empty() and len(reread) < BATCH:
                following = self._changed.get_nowait()
                if following is None:
                    return
                reread[following.row.slug] = following
            found = {slug: owned for slug, owned in reread.items() if owned.phase < Phase.RELEASED}
            if not found:
                continue
            try:
                rows = await self._context.store.get(list(found))
            except StoreUnavailable:
                continue  # the next renewal reports the edits again
            for owned, row in zip(found.values(), rows, strict=True):
                await asyncio.sleep(0)  # a definition may take milliseconds to read
                self._compare(owned, row)

    def _compare(self, owned: OwnedSchedule, row: Row | None) -> None:
        if owned.phase >= Phase.RELEASED:
            return
        if row is None or row.key != owned.row.key:
            owned.deleted = True
            self._on_lost(owned, "its schedule was deleted")
        elif row.revision != owned.schedule.state.revision and not self._apply(owned, row) and not owned.attempts:
            # A replica that can read the new definition continues.
            if owned.phase is Phase.ACTIVE:
                owned.enter(Phase.DRAINING)
            self._on_edited(owned)

    def _apply(self, owned: OwnedSchedule, row: Row) -> bool:
        """Have the schedule follow the row. Returns False if this version can't."""
        kinds = self._context.kinds
        if row.kind not in kinds:
            return False  # the running attempt ends as it is; a replica that knows the new kind continues
        try:
            definition, slots = kinds[row.kind].read(row)
        except (UnreadableRowError, ValueError) as error:
            log.error(
                "this version can't read an edit, which waits for a newer replica", slug=row.slug, error=str(error)
            )
            return False
        owned.kind = kinds[row.kind]
        if row.payload_revision > owned.row.payload_revision:
            owned.row.payload, owned.row.payload_revision = row.payload, row.payload_revision
            owned.payload, owned.payload_cleared = None, False
        schedule = owned.schedule
        machine.replace_definition(schedule, definition, slots, detached=owned.kind.detached)
        take_in(schedule, row)
        followed_runs.plan_poll(schedule, self._context.clock.now())
        self._on_edited(owned)
        return True


def spec_changed(row: Row, state: State) -> bool:
    """Return whether the definition may have changed since ``state``. A request or a touch raises the revision too."""
    same_generation = bool(row.generation) and row.generation == state.generation
    return row.revision != state.revision and not same_generation


def take_in(schedule: Schedule, row: Row) -> None:
    """Have a schedule, which has the row's definition already, follow the row's revision and manual requests."""
    if row.revision != schedule.state.revision:
        machine.apply_revision(
            schedule,
            row.revision,
            row.edited_at,
            row.first,
            row.generation,
            reopen=row.origin == Origin.LIBRARY,
        )
    elif row.first is not None:
        schedule.state.first_named_at = row.edited_at  # a client may schedule it again as it is, and keeps both
    if row.requests:
        machine.request(schedule, _requests_of(row), row.edited_at)


def _requests_of(row: Row) -> Requests:
    """The manual requests of a row; none if this version can't read them."""
    try:
        return Requests.decode(row.requests)
    except msgspec.MsgspecError as error:
        log.warning("this version can't read the manual requests of a schedule", slug=row.slug, error=str(error))
        return NO_REQUESTS
