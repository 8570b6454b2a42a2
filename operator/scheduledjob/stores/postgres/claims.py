"""Claiming due rows, and renewing the leases on them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from scheduledjob.engine.store import Batch, Key, Renewal, Renewer, Row

from .claim_watermark import BOTTOM
from .part import PostgresPart
from .queries import SQL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from scheduledjob.domain.time.instants import Instant, Micros

    from .connections import Connection, PostgresServer

RENEW_TIMEOUT = 4.0
"""Seconds after which an unanswered renewal has failed; a lease lasts several times as long."""


class PostgresClaims(PostgresPart):
    """The part of the store that claims rows and renews leases."""

    async def claim(
        self,
        replica: str,
        kinds: Iterable[str],
        *,
        limit: int,
        ahead: Micros,
        lease: Micros,
        by: Instant | None = None,
    ) -> Batch:
        self._replicas.add(replica)
        known = frozenset(kinds)
        in_order = sorted(known)
        watermark, token = self._watermark.begin(known)
        async with self._pool.connection("claiming") as connection:
            lines = await connection.fetch(
                _claim_query(len(in_order)), self._installation, in_order, replica, limit, ahead, lease, watermark,
                self._watermark.known, by,
            )  # fmt: skip
        now, last_due, next_wake = lines[0][:3]
        # By position: keywords cost about a tenth more CPU for each run in `make bench ARGS="drain-1"`.
        rows = [] if lines[0]["id"] is None else [Row(*line[4:]) for line in lines]
        late = by is not None and now > by
        if not late:
            claimed_upto = now if len(rows) < limit else min(now, last_due or BOTTOM)
            self._watermark.finish(token, claimed_upto)
        return Batch(rows, now, next_wake, late)

    @asynccontextmanager
    async def renewer(self, replica: str) -> AsyncIterator[Renewer]:
        renewer = _PostgresRenewer(self._server, self._installation, replica, min(self._timeout, RENEW_TIMEOUT))
        try:
            yield renewer
        finally:
            renewer.close()


class _PostgresRenewer:
    """Renews over its own connection, which it opens at the first renewal and again after each failure."""

    def __init__(self, server: PostgresServer, installation: int, replica: str, timeout: float) -> None:
        self._server = server
        self._installation = installation
        self._replica = replica
        self._timeout = timeout
        self._connection: Connection | None = None

    async def renew(self, owned: Sequence[tuple[Key, int]], lease: Micros) -> Renewal:
        in_order = sorted(owned, key=lambda item: int(item[0]))
        keys = [key for key, _ in in_order]
        versions = [version for _, version in in_order]
        with self._server.translate_errors("renewing leases"):
            try:
                async with asyncio.timeout(self._timeout):
                    if self._connection is None:
                        self._connection = await self._server.open()
                    lines = await self._connection.fetch(
                        SQL["renew"], self._installation, self._replica, keys, versions, lease
                    )
            except BaseException:
                self.close()
                raise
        return Renewal(dict(map(tuple, lines)))

    def close(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


_claim_queries: dict[int, str] = {}
"""Claim statements by the number of kinds."""


def _claim_query(kinds: int) -> str:
    """Return the claim statement for that many kinds."""
    if kinds not in _claim_queries:
        parts = [SQL["select_due_of_kind"].format(number=number + 1) for number in range(max(kinds, 1))]
        due = "\nUNION ALL\n".join(parts) + ("\nORDER BY wake_at" if len(parts) > 1 else "")
        _claim_queries[kinds] = SQL["claim"].format(due=due)
    return _claim_queries[kinds]
