"""The outbox of hooks: calls that are not delivered yet. ``settling`` adds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scheduledjob.engine.stored_row import HookCall, HookEnd

from .connections import retry_rollbacks
from .part import PostgresPart
from .queries import SQL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.domain.time.instants import Micros


class PostgresHookCalls(PostgresPart):
    """The part of the store that hands out calls of hooks."""

    async def claim_hooks(self, *, limit: int, lease: Micros, without: Sequence[str] = ()) -> list[HookCall]:
        async with self._pool.connection("claiming calls of hooks") as connection:
            lines = await connection.fetch(SQL["claim_hook_calls"], self._installation, limit, lease, without)
        return [HookCall(*line) for line in lines]

    @retry_rollbacks()
    async def settle_hooks(self, ends: Sequence[HookEnd]) -> None:
        in_order = sorted(ends, key=lambda end: (end.run_id, end.number))
        deleted = [(end.run_id, end.number, end.attempt) for end in in_order if end.retry_in is None]
        delayed = [(end.run_id, end.number, end.attempt, end.retry_in) for end in in_order if end.retry_in is not None]
        async with self._pool.connection("settling calls of hooks") as connection:
            if deleted:
                await connection.execute(SQL["delete_hook_calls"], self._installation, *zip(*deleted, strict=True))
            if delayed:
                await connection.execute(SQL["delay_hook_calls"], self._installation, *zip(*delayed, strict=True))
