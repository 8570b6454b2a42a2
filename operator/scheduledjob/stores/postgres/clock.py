"""The store's clock: the server's, which alone decides what is due and which lease has ended.

In SQL it is ``scheduledjob.clock()``, the time at which the transaction began. Renewals use ``clock_timestamp()``, the
time of the write itself (``queries/claims.sql`` says why).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .part import PostgresPart
from .queries import SQL

if TYPE_CHECKING:
    from scheduledjob.domain.time.instants import Instant


class PostgresClock(PostgresPart):
    """The part of the store that reads the clock."""

    async def now(self) -> Instant:
        async with self._pool.connection("reading the clock") as connection:
            now: Instant = await connection.fetchval(SQL["read_clock"])
            return now
