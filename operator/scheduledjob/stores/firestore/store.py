"""The store in Firestore, put together from its parts.

The parts are beside this file: ``schedules`` (what clients write), ``reconciling`` (what is observed in a cluster),
``claims``, ``settling``, ``presence`` (what replicas do), ``history`` and ``clock``. They use ``layout`` (how values
are stored as documents), ``owned_rows`` (what need not be read again) and ``wire``, the only module that knows
Google's client.

**No notifications.** Firestore can push changes of a document ("listen"), so clients could notify replicas that way.
But each schedule that is due soon would cost one more write of a document that allows one write a second, and a read
by every replica, over a stream that is billed anew after each interruption. And replicas would have to poll anyway,
because a stream that has died silently looks like one without changes. A poll that finds nothing costs one read. So
replicas poll: a second after a claim that found rows, and less and less often, down to every five seconds, while claims
find none. They know when the next row is due, and claim it then. A process notifies its own listeners of what it
schedules itself, which costs nothing.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from scheduledjob.domain.time.instants import MINUTE, SECOND
from scheduledjob.engine.store import StoreError, StoreUnavailable, Wake

from .claims import FirestoreClaims, FirestoreRenewer
from .clock import FirestoreClock
from .history import FirestoreHistory
from .hook_calls import FirestoreHookCalls
from .layout import document_id, is_row, replica_path, row_of, schedule_path
from .operations import Write
from .owned_rows import OwnedRows
from .presence import FirestorePresence
from .reconciling import FirestoreReconciling
from .schedules import FirestoreSchedules, Notices, page_query
from .settling import FirestoreSettling
from .wire import Conflict, Wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from scheduledjob.domain.schedule.state import RunRecord
    from scheduledjob.domain.time.instants import Instant, Micros
    from scheduledjob.engine.store import Batch, Presence, Put, Quotas, Renewer, ReplicaInfo
    from scheduledjob.engine.stored_row import HookCall, HookEnd, NewRow, Origin, Row, Settlement

    from .operations import Fields

MAX_SHARDS = 30
MAX_CLOCK_AGE_FOR_NOW: Micros = 10 * SECOND
"""How old the last measurement of the clock may be when ``now()`` returns an estimate."""
MAX_CLOCK_AGE: Micros = MINUTE
"""How old it may be for all other calls. The drift that has to be allowed for then makes claims up to 30 ms late."""
ANNOUNCE_INTERVAL: Micros = 30 * SECOND
"""How often a replica that announces itself is written."""
MIN_POLL_INTERVAL, MAX_POLL_INTERVAL = 1.0, 5.0
"""Seconds."""
ROW_LIMIT = 960 << 10
"""Bytes. Firestore's limit for a document is 1 MiB, and names, history and tombstones take part of it."""
POLL_INTERVAL_FACTOR = 1.25
"""How much longer the poll interval gets with each poll that finds nothing."""
CLOSE_LIMIT = 1.0
"""Seconds that the last write of a process may take."""
RENEWAL_DEADLINE = 4.0
"""Time limit in seconds of one request of a renewal. It is shorter than others, because the lease is running out."""


class FirestoreStore:
    """``firestore://project/collection[?database=NAME][&shards=N]``.

    ``shards`` is fixed when an installation first connects, and a later URL need not repeat it. One is enough for 500
    claims and settlements a second; the most are 30.
    """

    polls = True
    exclusive = False
    row_limit: int | None = ROW_LIMIT

    def __init__(self, url: str, *, installation: str = "local") -> None:
        parts = urlsplit(url)
        self._project = parts.netloc
        self._collection = unquote(parts.path.strip("/"))
        if parts.scheme != "firestore" or not self._project or not self._collection or "/" in self._collection:
            raise ValueError(f"{url!r} does not name a Firestore collection: write firestore://project/collection")
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        self._database = options.pop("database", "(default)")
        shards = options.pop("shards", None)
        if options:
            raise ValueError(
                f"{next(iter(options))!r} in {url!r} is not an option: the options are database and shards"
            )
        if shards is not None and not (shards.isascii() and shards.isdecimal() and 1 <= int(shards) <= MAX_SHARDS):
            raise ValueError(f"shards={shards} in {url!r} must be a number from 1 to {MAX_SHARDS}")
        self._configured_shards = None if shards is None else int(shards)
        self._installation = installation
        self.poll_interval = MIN_POLL_INTERVAL
        self._clock = FirestoreClock()
        self._wire = self._new_wire()
        self._owned = OwnedRows()
        self._heartbeat_path = replica_path(f"heartbeat/{secrets.token_hex(16)}")
        self._listeners: list[Callable[[Wake], None]] = []
        self._announced: tuple[ReplicaInfo, Micros] | None = None
        self._poll_at: Instant | None = None

    def _new_wire(self, **settings: float) -> Wire:
        root = f"{self._collection}/{document_id(self._installation)}"
        return Wire(project=self._project, database=self._database, root=root, clock=self._clock, **settings)

    async def connect(self) -> None:
        await self._wire.open()
        try:
            shards = await self._register()
            await self._measure_clock()
        except BaseException:
            await self._wire.close()
            raise
        self._schedules = FirestoreSchedules(self._wire, self._clock, shards)
        self._reconciling = FirestoreReconciling(self._wire, self._clock, shards)
        self._presence = FirestorePresence(
            self._wire, self._wire.with_root(f"{self._collection}/clusters"), self._clock
        )
        self._claims = FirestoreClaims(self._wire, self._clock, self._owned, shards)
        self._settling = FirestoreSettling(self._wire, self._clock, self._owned, shards)
        self._history = FirestoreHistory(self._wire, self._clock, shards, self._settling.surplus)
        self._hook_calls = FirestoreHookCalls(self._wire, self._clock)

    async def close(self) -> None:
        try:
            with suppress(StoreError, TimeoutError):
                async with asyncio.timeout(CLOSE_LIMIT):
                    await self._write(Write(self._heartbeat_path))
        finally:
            await self._wire.close()

    async def _register(self) -> int:
        """Create the installation's document at the first start, and return its number of shards."""
        for _ in range(3):
            if (document := (await self._wire.get([""])).get("")) is not None:
                shards = int(document.fields["shards"])
                if self._configured_shards not in {None, shards}:
                    raise StoreError(
                        f"the installation {self._installation!r} in {self._collection!r} has {shards} shards, which "
                        f"can't be changed to {self._configured_shards}: leave shards out of the store's URL"
                    )
                return shards
            shards = self._configured_shards or 1
            try:
                await self._wire.commit(
                    [Write("", {"installation": self._installation, "shards": shards, "touched": ""}, exists=False)]
                )
            except Conflict:
                continue
            return shards
        raise StoreUnavailable("the installation could not be registered, because others keep writing it: try again")

    async def _measure_clock(self) -> None:
        """Write this process's heartbeat document, because the answer has the time of the write.

        A document that all processes shared would allow one write a second, and delay the others: the bounds of the
        clock are as far apart as the write took.
        """
        # The value must change: Firestore reports no new time for a write that changes nothing. ``seen_at`` is the time
        # of this machine. It only tells ``prune`` which processes have ended without a close.
        fields: Fields = {"details": {"touched": secrets.token_hex(8)}, "seen_at": time.time_ns() // 1000}
        await self._write(Write(self._heartbeat_path, fields))

    async def _write(self, write: Write) -> None:
        """Make one write that cannot conflict with others."""
        try:
            await self._wire.commit([write])
        except Conflict as conflict:
            raise StoreUnavailable(f"Firestore gave up the write: {conflict}") from conflict

    async def now(self) -> Instant:
        """Return the earliest time that the clock may show. It is late by a round trip at most, and never early."""
        await self._refresh_clock(MAX_CLOCK_AGE_FOR_NOW)
        return self._clock.earliest()

    async def _refresh_clock(self, max_age: Micros = MAX_CLOCK_AGE) -> None:
        if self._clock.age > max_age:
            await self._measure_clock()

    # ---- clients

    @asynccontextmanager
    async def _notifying(self) -> AsyncIterator[Notices]:
        """Make a client's call with a clock that is known well enough, and then notify the listeners, error or not."""
        await self._refresh_clock()
        notices = Notices()
        try:
            yield notices
        finally:
            self._notify(notices)

    async def put(self, rows: Sequence[NewRow], *, replace: bool) -> list[Put]:
        """As ``Store.put``. All or none holds for 500 rows, or 8 MiB (``schedules`` says more)."""
        if not rows:
            return []
        async with self._notifying() as notices:
            return await self._schedules.put(rows, replace=replace, notices=notices)

    async def delete(self, slugs: Sequence[str], *, ends_runs: bool = True) -> list[bool]:
        async with self._notifying() as notices:
            return await self._schedules.delete(slugs, notices, ends_runs=ends_runs)

    async def reconcile(self, rows: Sequence[NewRow]) -> list[Put]:
        """As ``Store.reconcile``. All or none holds for 200 rows, or 8 MiB."""
        async with self._notifying() as notices:
            return await self._reconciling.reconcile(rows, notices)

    async def tombstone(self, identities: Sequence[tuple[str, str]]) -> list[bool]:
        async with self._notifying() as notices:
            return await self._reconciling.tombstone(identities, notices)

    async def touch(self, slugs: Sequence[str]) -> None:
        async with self._notifying() as notices:
            await self._reconciling.touch(slugs, notices)

    async def clear(self, origin: Origin | None = None) -> int:
        async with self._notifying() as notices:
            return await self._schedules.clear(origin, notices)

    async def get(self, slugs: Sequence[str]) -> list[Row | None]:
        paths = {slug: schedule_path(slug) for slug in slugs}
        found = await self._wire.get(list(paths.values()))
        rows = {path: row_of(document) for path, document in found.items() if is_row(document)}
        return [rows.get(paths[slug]) for slug in slugs]

    async def rows(self, *, origin: Origin | None = None, after: str = "", limit: int = 1000) -> list[Row]:
        if limit <= 0:
            return []
        return [row_of(document) for document in await self._wire.query(page_query(origin, after, limit))]

    async def history(
        self, slug: str | None = None, *, uid: str | None = None, before: Instant | None = None, limit: int = 100
    ) -> list[RunRecord]:
        return await self._history.newest(slug, uid, before, limit)

    async def recorded(self, run_ids: Sequence[str]) -> set[str]:
        return await self._history.recorded(run_ids)

    # ---- replicas

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
        await self._refresh_clock()
        batch = await self._claims.claim(replica, kinds, limit=limit, ahead=ahead, lease=lease, by=by, quotas=quotas)
        longer = min(MAX_POLL_INTERVAL, self.poll_interval * POLL_INTERVAL_FACTOR)
        self.poll_interval = MIN_POLL_INTERVAL if batch.rows else longer
        return batch

    async def queue_position(self, row: Row) -> tuple[int, bool]:
        return await self._claims.queue_position(row)

    async def settle(self, replica: str, settlements: Sequence[Settlement]) -> list[bool | None]:
        for settlement in settlements:
            self._history.note(settlement.records)
        results, outdated = await self._settling.settle(replica, settlements)
        if outdated:
            notices = Notices()
            notices.add_due(self._clock.earliest())
            self._notify(notices)
        return results

    async def claim_hooks(self, *, limit: int, lease: Micros, without: Sequence[str] = ()) -> list[HookCall]:
        await self._refresh_clock()
        return await self._hook_calls.claim(limit, lease, without)

    async def settle_hooks(self, ends: Sequence[HookEnd]) -> None:
        await self._hook_calls.settle(ends)

    @asynccontextmanager
    async def renewer(self, replica: str) -> AsyncIterator[Renewer]:
        wire = self._new_wire(deadline=RENEWAL_DEADLINE)
        await wire.open()
        try:
            yield FirestoreRenewer(wire, self._clock, self._owned, replica)
        finally:
            await wire.close()

    async def announce(self, replica: ReplicaInfo, poll_at: Instant) -> bool:
        """As ``Store.announce``, but write only every 30 s: nothing is notified, so ``poll_at`` need not be exact."""
        self._poll_at = poll_at
        reading = self._clock.reading()
        if self._announced is not None:
            known, written = self._announced
            if known == replica and reading - written < ANNOUNCE_INTERVAL:
                return True
        fields: Fields = {
            "id": replica.id,
            "program_version": replica.program_version,
            "schema_version": replica.schema_version,
            "details": replica.details,
            "looks_at": poll_at,
            "seen_at": self._clock.earliest(),
        }
        await self._write(Write(replica_path(replica.id), fields))
        self._announced = (replica, reading)
        return True

    async def withdraw(self, replica: str) -> None:
        await self._write(Write(replica_path(replica)))
        await self._presence.forget(self._installation, replica)
        self._announced = self._poll_at = None

    async def lock(self, name: str, replica: str, length: Micros) -> bool:
        await self._refresh_clock()
        return await self._presence.lock(name, replica, length)

    async def unlock(self, name: str, replica: str) -> None:
        await self._presence.unlock(name, replica)

    async def present(self, replica: str, cluster: str, namespaces: Sequence[str], lifetime: Micros) -> list[Presence]:
        await self._refresh_clock()
        return await self._presence.present(self._installation, replica, cluster, namespaces, lifetime)

    @asynccontextmanager
    async def listen(self, on_wake: Callable[[Wake], None]) -> AsyncIterator[None]:
        """Call ``on_wake`` for what this process writes. For all other changes, replicas poll."""
        self._listeners.append(on_wake)
        try:
            yield
        finally:
            self._listeners.remove(on_wake)

    def _notify(self, notices: Notices) -> None:
        due = notices.due
        if due is not None and self._poll_at is not None and due >= self._poll_at:
            due = None
        if due is None and not notices.changed:
            return
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            loop.call_soon(listener, Wake(due, list(notices.changed)))

    async def prune(self, limit: int = 1000) -> int:
        await self._refresh_clock()
        return await self._history.prune(limit)
