"""What replicas do: claim, settle, renew, announce themselves."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec

from scheduledjob.engine.store import Batch, Disposition, Key, Renewal, Renewer, ReplicaInfo, Row, Settlement

from .claim_watermark import BOTTOM
from .columns import Columns, record_columns, shortened
from .connections import repeated
from .migrations import SCHEMA_VERSION
from .part import Part
from .queries import load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Sequence

    from scheduledjob.domain.schedule.state import RunRecord
    from scheduledjob.domain.time.instants import Instant, Micros

    from .connections import Connection, Server

_SQL = load("replicas")
_HISTORY = load("history")

CHUNK = 1000
RENEW_TIMEOUT = 4.0
"""Seconds after which a renewal that was not answered has failed; a lease lasts for several of them."""


class Replicas(Part):
    """The part of the store that replicas use."""

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
                _claim_of(len(in_order)), self._installation, in_order, replica, limit, ahead, lease, watermark,
                self._watermark.known, by,
            )  # fmt: skip
        now, last_due, next_wake = lines[0][:3]
        rows = [] if lines[0]["id"] is None else [Row(*line[4:]) for line in lines]
        late = by is not None and now > by
        if not late:
            taken_upto = now if len(rows) < limit else min(now, last_due or BOTTOM)
            self._watermark.finish(token, taken_upto)
        return Batch(rows, now, next_wake, late)

    async def settle(self, replica: str, settlements: Sequence[Settlement]) -> list[bool]:
        done: list[bool] = []
        for chunk in _chunks(settlements):
            in_order = sorted(chunk, key=_key)  # in one order everywhere, so that two writers never wait for each other
            removed = [each for each in in_order if each.disposition is Disposition.REMOVE]
            gone = await self._settle("settle_removed", replica, removed) if removed else set()
            # A removal is refused where the wish has changed too: then the row is released, as the other query does.
            written = [each for each in in_order if each.key not in gone]
            gone |= await self._settle("settle_written", replica, written) if written else set()
            done += [each.key in gone for each in chunk]
        released = (
            each.wake_at for each in settlements if each.disposition is Disposition.RELEASE and each.wake_at is not None
        )
        if (due := min(released, default=None)) is not None:
            self._watermark.lower(due)
        return done

    @repeated
    async def _settle(self, query: str, replica: str, chunk: list[Settlement]) -> set[Key]:
        columns: Columns = [
            [each.key for each in chunk],
            [each.version for each in chunk],
            [each.revision for each in chunk],
            *record_columns([each.records[0] if each.records else None for each in chunk]),
        ]
        if query == "settle_written":
            columns += [
                [each.disposition for each in chunk],
                [each.state for each in chunk],
                [each.wake_at for each in chunk],
                [each.payload for each in chunk],
                [each.result for each in chunk],
            ]
        columns = shortened(columns)
        several = any(len(each.records) > 1 for each in chunk)
        async with self._pool.connection("completing") as connection:
            if not several:
                lines = await connection.fetch(_SQL[query], self._installation, replica, *columns)
            else:
                async with connection.transaction():
                    lines = await connection.fetch(_SQL[query], self._installation, replica, *columns)
                    await self._record_the_others({line[0] for line in lines}, chunk, connection)
        return {line[0] for line in lines}

    async def _record_the_others(self, done: set[Key], chunk: list[Settlement], connection: Connection) -> None:
        """A settlement's first record goes with it; few have more."""
        others: list[RunRecord] = [record for each in chunk if each.key in done for record in each.records[1:]]
        if others:
            await connection.execute(_HISTORY["record"], self._installation, *record_columns(others))

    @asynccontextmanager
    async def renewer(self, replica: str) -> AsyncIterator[Renewer]:
        renewer = _PostgresRenewer(self._server, self._installation, replica, min(self._timeout, RENEW_TIMEOUT))
        try:
            yield renewer
        finally:
            renewer.close()

    async def announce(self, replica: ReplicaInfo, looks_at: Instant) -> None:
        self._replicas.add(replica.id)
        async with self._pool.connection("announcing the replica") as connection:
            await connection.execute(
                _SQL["announce"], self._installation, replica.id, replica.program_version,
                replica.schema_version or SCHEMA_VERSION, looks_at, msgspec.json.encode(replica.details).decode(),
            )  # fmt: skip

    async def withdraw(self, replica: str) -> None:
        async with self._pool.connection("withdrawing the replica") as connection:
            await connection.execute(_SQL["withdraw"], self._installation, replica)

    async def now(self) -> Instant:
        async with self._pool.connection("reading the clock") as connection:
            now: Instant = await connection.fetchval(_SQL["now"])
            return now


class _PostgresRenewer:
    """A connection of its own, opened at the first renewal and again after each failure."""

    def __init__(self, server: Server, installation: int, replica: str, timeout: float) -> None:
        self._server = server
        self._installation = installation
        self._replica = replica
        self._timeout = timeout
        self._connection: Connection | None = None

    async def renew(self, held: Sequence[tuple[Key, int]], lease: Micros) -> Renewal:
        in_order = sorted(held, key=lambda each: int(each[0]))
        keys = [key for key, _ in in_order]
        versions = [version for _, version in in_order]
        with self._server.reaching("renewing leases"):
            try:
                async with asyncio.timeout(self._timeout):
                    if self._connection is None:
                        self._connection = await self._server.open()
                    lines = await self._connection.fetch(
                        _SQL["renew"], self._installation, self._replica, keys, versions, lease
                    )
            except BaseException:
                self.close()
                raise
        return Renewal(dict(map(tuple, lines)))

    def close(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


def _key(settlement: Settlement) -> int:
    return int(settlement.key)


def _chunks(settlements: Sequence[Settlement]) -> Iterator[list[Settlement]]:
    """Of a size for one statement, none with two settlements of the same row: these follow each other."""
    chunk: dict[Key, Settlement] = {}
    for settlement in settlements:
        if settlement.key in chunk or len(chunk) == CHUNK:
            yield list(chunk.values())
            chunk = {}
        chunk[settlement.key] = settlement
    if chunk:
        yield list(chunk.values())


_claims: dict[int, str] = {}


def _claim_of(kinds: int) -> str:
    """The claim for that many kinds."""
    if kinds not in _claims:
        parts = [_SQL["due_of_kind"].format(number=number + 1) for number in range(max(kinds, 1))]
        due = "\nUNION ALL\n".join(parts) + ("\nORDER BY wake_at" if len(parts) > 1 else "")
        _claims[kinds] = _SQL["claim"].format(due=due)
    return _claims[kinds]
