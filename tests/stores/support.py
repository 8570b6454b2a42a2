"""Helpers of the behavioural tests: desired states, records, claims that wait for a row, and reads of rows.

A test cannot set the clock of a real store. So rows are due in its past or future, relative to ``store.now()``. And
whatever takes time (the end of a lease, a claim that ignores its watermark only once a second) is awaited by asking
again, never by sleeping for a fixed time.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from scheduledjob.domain.schedule.state import Outcome, RunRecord, State
from scheduledjob.domain.time.instants import DAY, HOUR, SECOND, Instant, Micros
from scheduledjob.engine.store import Batch, Put, Renewal, Store, Wake
from scheduledjob.engine.stored_row import Disposition, Key, NewRow, Origin, Row, Settlement

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

KIND = "print"
LEASE: Micros = 60 * SECOND
"""So long that it never ends in a test."""
SHORT_LEASE: Micros = 300_000
"""So short that a test can wait for its end."""
PATIENCE = 60.0
"""Seconds after which a test that waits has failed."""
PLAIN = State(decided_until=0).encode()


def desired(
    slug: str,
    wake_at: Instant | None = None,
    *,
    kind: str = KIND,
    origin: Origin = Origin.LIBRARY,
    definition: str = "",
    state: bytes = PLAIN,
    first: Instant | None = None,
    payload: bytes | None = None,
    created_at: Instant = 0,
) -> NewRow:
    return NewRow(
        slug=slug,
        uid=f"uid-of-{slug}",
        kind=kind,
        origin=origin,
        definition=definition,
        state=state,
        wake_at=wake_at,
        first=first,
        payload=payload,
        created_at=created_at,
    )


def record(
    run_id: str,
    finished: Instant,
    *,
    slug: str = "job",
    outcome: Outcome = Outcome.SUCCEEDED,
    keep: int = 100,
    expires: Instant | None = None,
    reason: str = "",
) -> RunRecord:
    return RunRecord(
        run_id=run_id,
        uid=f"uid-of-{slug}",
        slug=slug,
        slot=finished - SECOND,
        started=finished - 10,
        finished=finished,
        attempt=1,
        outcome=outcome,
        reason=reason,
        keep=keep,
        expires=finished + DAY if expires is None else expires,
    )


async def put_due(store: Store, *slugs: str, kind: str = KIND, state: bytes = PLAIN) -> None:
    """Put rows that are due already, the first one the longest."""
    now = await store.now()
    rows = [desired(slug, now - HOUR + n, kind=kind, state=state) for n, slug in enumerate(slugs)]
    assert await store.put(rows, replace=False) == [Put.CREATED] * len(rows)


async def claim(
    store: Store,
    replica: str = "alice",
    *,
    kinds: Iterable[str] = (KIND,),
    limit: int = 100,
    ahead: Micros = 0,
    lease: Micros = LEASE,
    by: Instant | None = None,
) -> Batch:
    """Make one claim, whatever it returns."""
    return await store.claim(replica, kinds, limit=limit, ahead=ahead, lease=lease, by=by)


async def take(
    store: Store,
    count: int = 1,
    *,
    replica: str = "alice",
    kinds: Iterable[str] = (KIND,),
    ahead: Micros = 0,
    lease: Micros = LEASE,
) -> list[Row]:
    """Claim until there are ``count`` rows, and no more than that."""
    rows: list[Row] = []
    async with asyncio.timeout(PATIENCE):
        while True:
            batch = await claim(store, replica, kinds=kinds, limit=count - len(rows), ahead=ahead, lease=lease)
            rows += batch.rows
            assert len(rows) <= count
            if len(rows) == count:
                return rows
            await asyncio.sleep(0.02)


async def take_one(store: Store, *, replica: str = "alice", lease: Micros = LEASE) -> Row:
    (row,) = await take(store, replica=replica, lease=lease)
    return row


async def take_over(store: Store, row: Row, *, replica: str = "bob", lease: Micros = LEASE) -> Row:
    """Wait for the lease of ``row`` to end, and claim it for ``replica``."""
    taken = await take_one(store, replica=replica, lease=lease)
    assert taken.key == row.key
    return taken


def settlement(
    row: Row,
    disposition: Disposition = Disposition.RELEASE,
    *,
    version: int | None = None,
    state: bytes | None = None,
    wake_at: Instant | None = None,
    revision: int | None = None,
    records: Sequence[RunRecord] = (),
    payload: bytes | None = None,
    result: bytes | None = None,
) -> Settlement:
    """Return a settlement of a claimed row; what is not given is taken from the row."""
    return Settlement(
        key=row.key,
        version=row.version if version is None else version,
        disposition=disposition,
        state=row.state if state is None else state,
        wake_at=wake_at,
        revision=row.revision if revision is None else revision,
        records=records,
        payload=payload,
        result=result,
    )


async def settle(store: Store, settlement: Settlement, *, replica: str = "alice") -> bool:
    """Settle one row, again and again while a client has locked it."""
    while True:
        (done,) = await store.settle(replica, [settlement])
        if done is not None:
            return done


async def read_row(store: Store, slug: str) -> Row:
    """Read a row that exists."""
    (row,) = await store.get([slug])
    assert row is not None
    return row


async def is_gone(store: Store, slug: str) -> bool:
    return await store.get([slug]) == [None]


async def everything(store: Store) -> tuple[list[Row], list[RunRecord]]:
    """Return all rows and history of an installation, to check that nothing has changed."""
    return await store.rows(), await store.history(limit=10_000)


async def renew(store: Store, held: Sequence[tuple[Key, int]], *, replica: str = "alice", lease: Micros) -> Renewal:
    """Renew as the lease thread does, in another thread and event loop than the store's."""

    async def in_own_loop() -> Renewal:
        async with store.renewer(replica) as renewer:
            return await renewer.renew(held, lease)

    return await asyncio.to_thread(lambda: asyncio.run(in_own_loop()))


async def wait_for_lease_end(store: Store, row: Row) -> None:
    """Wait until the row's lease has ended by the store's clock."""
    leased = await read_row(store, row.slug)
    assert leased.wake_at is not None
    end = leased.wake_at

    async def passed() -> bool:
        return await store.now() > end

    await until(passed)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await condition():  # noqa: ASYNC110 - a store notifies nobody of the passing of time
            await asyncio.sleep(0.02)


@dataclass
class ReceivedWakes:
    """The notifications that a listener received."""

    wakes: list[Wake] = field(default_factory=list)
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    def __call__(self, wake: Wake) -> None:
        self.wakes.append(wake)
        self._more.set()

    async def of(self, condition: Callable[[Wake], bool]) -> Wake:
        """Wait for the first wake that meets the condition."""
        async with asyncio.timeout(PATIENCE):
            while True:
                self._more.clear()
                for wake in self.wakes:
                    if condition(wake):
                        return wake
                await self._more.wait()

    async def due_by(self, instant: Instant) -> Wake:
        return await self.of(lambda wake: wake.due is not None and wake.due <= instant)

    async def change_of(self, slug: str) -> Wake:
        return await self.of(lambda wake: slug in wake.changed)


@asynccontextmanager
async def listening(store: Store) -> AsyncIterator[ReceivedWakes]:
    received = ReceivedWakes()
    async with store.listen(received):
        yield received
