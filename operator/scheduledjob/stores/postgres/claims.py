"""Claiming due rows, and renewing the leases on them."""

from __future__ import annotations

import asyncio
import json
import random
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from scheduledjob.domain.time.instants import SECOND
from scheduledjob.engine.capacity import tenant_of
from scheduledjob.engine.store import COUNTED, Batch, Quotas, Renewal, Renewer, StoreUnavailable
from scheduledjob.engine.stored_row import Key, Row

from .claim_watermark import BOTTOM
from .part import SEARCH_START, PostgresPart
from .queries import SQL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from scheduledjob.domain.time.instants import Instant, Micros

    from .connections import Connection, PostgresServer

FEW_KINDS = 16
"""Up to this many kinds, a claim reads the index once for each kind, only as far as needed."""

MIN_PART = 2
"""How many rows of each kind a claim reads at least, however many kinds are due."""

MAX_PAIRS = 4096
"""How many pairs of a tenant and a kind one claim looks at. The next one continues there."""

RENEW_TIMEOUT = 4.0
"""Seconds after which an unanswered renewal has failed; a lease lasts several times as long."""

MAX_LOCK_WAIT, MIN_LOCK_WAIT = 0.5, 0.01
"""Seconds that one renewal waits for rows that clients have locked, at most; and seconds for each row, at least."""


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
        quotas: Quotas | None = None,
    ) -> Batch:
        self._replicas.add(replica)
        known = frozenset(kinds)
        in_order = sorted(known)
        if quotas is not None:
            return await self._claim_fairly(replica, in_order, quotas, limit, ahead, lease, by)
        watermark, token = self._watermark.begin(known)
        async with self._pool.connection("claiming") as connection:
            lines = await connection.fetch(
                _claim_query(len(in_order)), self._installation, in_order, replica, limit, ahead, lease, watermark,
                self._watermark.known, by,
            )  # fmt: skip
        first = lines.pop(0)
        now, last_due, next_wake = first["now"], first["last_due"], first["next_wake"]
        # By position: keywords cost about a tenth more CPU for each run in `make bench ARGS="drain-1"`.
        rows = [Row(*line[1:-3]) for line in lines]
        late = by is not None and now > by
        if not late:
            if len(in_order) > FEW_KINDS and MIN_PART <= len(rows) < limit:
                return Batch(rows, now, now)  # there may be more, see `select_due_of_kinds`
            claimed_upto = now if len(rows) < limit else min(now, last_due or BOTTOM)
            self._watermark.finish(token, claimed_upto)
        return Batch(rows, now, next_wake, late)

    async def _claim_fairly(
        self,
        replica: str,
        kinds: list[str],
        quotas: Quotas,
        limit: int,
        ahead: Micros,
        lease: Micros,
        by: Instant | None,
    ) -> Batch:
        watermark, _ = self._watermark.begin(frozenset(kinds))
        async with self._pool.connection("claiming fair shares") as connection:
            lines = await connection.fetch(
                FAIR_CLAIM, self._installation, kinds, replica, limit, ahead, lease, watermark, self._watermark.known,
                by,
                json.dumps(quotas.tenants, ensure_ascii=False), quotas.others, *self._search_from, MAX_PAIRS,
            )  # fmt: skip
        *_, now, _, next_wake, left, ended_at = lines.pop(0)
        self._search_from = ended_at or SEARCH_START
        rows = [Row(*line[1:-5]) for line in lines]
        if ended_at is not None:
            next_wake = now  # other tenants come with the next claim
        return Batch(rows, now, next_wake, by is not None and now > by, frozenset(left or ()))

    async def queue_position(self, row: Row) -> tuple[int, bool]:
        async with self._pool.connection("counting what waits") as connection:
            before = await connection.fetchval(
                SQL["count_before"], self._installation, tenant_of(row), row.kind, row.wake_at or 0, COUNTED
            )
        return before + 1, before < COUNTED

    @asynccontextmanager
    async def renewer(self, replica: str) -> AsyncIterator[Renewer]:
        renewer = _PostgresRenewer(self._server, self._installation, replica, min(self._timeout, RENEW_TIMEOUT))
        try:
            yield renewer
        finally:
            renewer.close()


class _PostgresRenewer:
    """Renews over its own connection, which it opens at the first renewal and again after each failure.

    A row that a client has locked is left out first. Clients that write it again and again would win each time, so the
    renewer then waits for these rows, one after the other and for a short time.
    """

    def __init__(self, server: PostgresServer, installation: int, replica: str, timeout: float) -> None:
        self._server = server
        self._installation = installation
        self._replica = replica
        self._timeout = timeout
        self._connection: Connection | None = None

    async def renew(self, owned: Sequence[tuple[Key, int]], lease: Micros) -> Renewal:
        versions = dict(sorted(owned, key=lambda item: int(item[0])))
        with self._server.translate_errors("renewing leases"):
            try:
                async with asyncio.timeout(self._timeout):
                    if self._connection is None:
                        self._connection = await self._server.open()
                    lines = await self._connection.fetch(
                        SQL["renew"], self._installation, self._replica, list(versions), list(versions.values()), lease
                    )
            except BaseException:
                self.close()
                raise
        revisions = {key: revision for key, revision in lines if revision is not None}
        locked = {key: versions[key] for key, revision in lines if revision is None}
        if locked:
            await self._wait_for(self._connection, locked, revisions, lease)
        return Renewal(revisions, locked.keys())

    async def _wait_for(
        self, connection: Connection, locked: dict[Key, int], revisions: dict[Key, int], lease: Micros
    ) -> None:
        """Move the rows that can be renewed within a short time from ``locked`` to ``revisions``."""
        limit = min(MAX_LOCK_WAIT, lease / SECOND / 24)
        last = time.monotonic() + limit
        try:
            with self._server.translate_errors("renewing leases"):
                async with asyncio.timeout(2 * limit):
                    for key, version in random.sample(list(locked.items()), len(locked)):
                        if (left := last - time.monotonic()) <= 0:
                            break
                        revision = await self._wait_for_row(connection, key, version, lease, left)
                        if revision is not None:
                            revisions[key] = revision
                            del locked[key]
        except StoreUnavailable:
            self.close()  # but the renewals so far count
        except BaseException:
            self.close()
            raise

    async def _wait_for_row(
        self, connection: Connection, key: Key, version: int, lease: Micros, seconds: float
    ) -> int | None:
        """Renew a row within so many seconds, and return its revision; None: it is still locked, or lost."""
        await connection.execute(self._server.begin({"lock_timeout": max(seconds, MIN_LOCK_WAIT)}))
        try:
            revision: int | None = await connection.fetchval(
                SQL["renew_waiting"], self._installation, self._replica, [key], [version], lease, column=1
            )
        except asyncpg.LockNotAvailableError:
            await connection.execute("ROLLBACK")
            return None
        await connection.execute("COMMIT")
        return revision

    def close(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


_claim_queries: dict[int, str] = {}
"""Claim statements by the number of kinds."""


def _claim_query(kinds: int) -> str:
    """Return the claim statement for that many kinds."""
    kinds = min(max(kinds, 1), FEW_KINDS + 1)
    if kinds not in _claim_queries:
        if kinds > FEW_KINDS:
            due = SQL["select_due_of_kinds"]
        else:
            parts = [SQL["select_due_of_kind"].format(number=number + 1) for number in range(kinds)]
            due = "\nUNION ALL\n".join(parts) + ("\nORDER BY 2" if len(parts) > 1 else "")
        _claim_queries[kinds] = SQL["claim"].format(due=due, search="", left="", nothing_left="")
    return _claim_queries[kinds]


FAIR_CLAIM = SQL["claim"].format(
    due=SQL["select_due_of_tenants"],
    search=SQL["search_tenants"] + "\n",
    left=SQL["select_left"],
    nothing_left=SQL["select_nothing_left"],
)
