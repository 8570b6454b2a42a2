"""The outbox of hooks: calls that are not delivered yet. ``settling`` adds them.

``due`` has an index that only grows, which allows 500 writes a second: hooks are rare compared with runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scheduledjob.engine.stored_row import HookCall

from .layout import HOOKS, hook_path
from .operations import Query, Write

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.domain.time.instants import Micros
    from scheduledjob.engine.stored_row import HookEnd

    from .clock import FirestoreClock
    from .operations import StoredDocument
    from .wire import Wire


PAGE, PAGES = 100, 10
"""How many calls are read at once, and how often, to find calls of other groups behind those that stay."""


class FirestoreHookCalls:
    """The calls of hooks of one installation."""

    def __init__(self, wire: Wire, clock: FirestoreClock) -> None:
        self._wire = wire
        self._clock = clock

    async def _due(self, limit: int, without: Sequence[str]) -> list[StoredDocument]:
        query = Query(HOOKS, "due", most=self._clock.earliest(), limit=limit)
        found: list[StoredDocument] = []
        for _ in range(PAGES):
            page = await self._wire.query(query)
            found += [document for document in page if document.fields["slug"].partition("/")[0] not in without]
            if len(page) < query.limit or len(found) >= limit:
                break
            query.after, query.limit = (page[-1].fields["due"], page[-1].path), PAGE
        return found[:limit]

    async def claim(self, limit: int, lease: Micros, without: Sequence[str]) -> list[HookCall]:
        found = await self._due(limit, without)
        writes = [
            Write(
                document.path,
                {"due": self._clock.latest() + lease, "attempt": document.fields["attempt"] + 1},
                ("due", "attempt"),
                stamp=document.stamp,
            )
            for document in found
        ]
        stamps = await self._wire.batch_write(writes) if writes else []
        return [
            HookCall(
                run_id=document.fields["run_id"],
                number=document.fields["number"],
                slug=document.fields["slug"],
                uid=document.fields["uid"],
                data=document.fields["data"],
                attempt=document.fields["attempt"] + 1,
            )
            for document, stamp in zip(found, stamps, strict=True)
            if stamp is not None
        ]

    async def settle(self, ends: Sequence[HookEnd]) -> None:
        """Read the calls first, because a call that was claimed again since must stay as it is."""
        by_path = {hook_path(end.run_id, end.number): end for end in ends}
        writes = []
        for path, document in (await self._wire.get(list(by_path), ("attempt",))).items():
            end = by_path[path]
            if document.fields["attempt"] != end.attempt:
                continue
            if end.retry_in is None:
                writes.append(Write(path, stamp=document.stamp))
            else:
                due = self._clock.earliest() + end.retry_in
                writes.append(Write(path, {"due": due}, ("due",), stamp=document.stamp))
        if writes:
            await self._wire.batch_write(writes)
