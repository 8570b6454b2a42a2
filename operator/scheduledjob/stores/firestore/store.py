"""The Firestore store: ``Store`` for one installation, put together from its parts.

A call's way: ``FirestoreStore`` -> the part that knows the rule (``desired_rows`` for clients' writes, ``claiming`` and
``settling`` for an owner's, ``archive`` for history) -> ``wire``, which alone knows Google's client. ``clock`` says
what time it is there, ``layout`` how things are written down, ``owned`` what need not be read again.

**No notifications.** Firestore can push changes of a document ("listen"), so clients could ring a bell. It would be
one more document written for each schedule that is due soon, at one write a second before it becomes a hot spot, read
once by every replica, over a stream that is billed anew when it has been down; and it would have to be polled behind
anyway, because a stream that has silently died looks like one on which nothing happens. A look that finds nothing
costs one document read. So replicas look: every second after something was found that nobody had announced, and less
and less often, down to every five seconds, while nothing is. What is known to be due later is looked for when it is
due, and what this very process schedules it tells its own listeners at once, which costs nothing.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from scheduledjob.domain.time.instants import MINUTE, SECOND
from scheduledjob.engine.store import Origin, StoreError, StoreUnavailable, Wake

from .claims import FirestoreClaims
from .clock import FirestoreClock
from .history import FirestoreHistory
from .layout import document_id, is_row, replica_path, row_of, schedule_path
from .operations import Write
from .owned_rows import OwnedRows
from .presence import FirestorePresence
from .reconciling import FirestoreReconciling
from .schedules import ChangeNotice, FirestoreSchedules, page_query
from .settling import Renewals, Settlements
from .wire import Conflict, Wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from scheduledjob.domain.schedule.state import RunRecord
    from scheduledjob.domain.time.instants import Instant, Micros
    from scheduledjob.engine.store import Batch, NewRow, Presence, Put, Renewer, ReplicaInfo, Row, Settlement

    from .operations import Fields

MOST_SHARDS = 30
NOW_IS_FRESH: Micros = 10 * SECOND
"""How old a measurement of the clock may be for ``now()`` to make no new one."""
CLOCK_IS_KNOWN: Micros = MINUTE
"""How old it may be for a claim: by then the drift allowed for makes it 30 ms late."""
SIGN_OF_LIFE: Micros = 30 * SECOND
"""How often a replica that announces itself is written down."""
QUICK, SLOW, SLOWER = 1.0, 5.0, 1.25
"""Seconds between looks after something was found, and at most; how much longer each vain look makes them."""
RENEWAL_DEADLINE = 4.0
"""Seconds for one call of a renewal: shorter than others, because the lease runs out meanwhile."""


class FirestoreStore:
    """``firestore://project/collection[?database=NAME][&shards=N]``.

    ``shards`` is fixed when an installation first connects: one for each 500 claims and settlements a second, at most
    30; a later URL need not repeat it.
    """

    polls = True

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
            raise ValueError(f"{next(iter(options))!r} in {url!r} is no option: database and shards are")
        if shards is not None and not (shards.isascii() and shards.isdecimal() and 1 <= int(shards) <= MOST_SHARDS):
            raise ValueError(f"shards={shards} in {url!r} must be a number from 1 to {MOST_SHARDS}")
        self._shards_asked = None if shards is None else int(shards)
        self._installation = installation
        self.poll_interval = QUICK
        self._clock = FirestoreClock()
        self._wire = self._new_wire()
        self._owned = OwnedRows()
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
            await self._measure()
        except BaseException:
            await self._wire.close()
            raise
        self._schedules = FirestoreSchedules(self._wire, self._clock, shards)
        self._reconciling = FirestoreReconciling(self._wire, self._clock, shards)
        self._presence = FirestorePresence(self._wire, self._wire.beside(f"{self._collection}/clusters"), self._clock)
        self._claims = FirestoreClaims(self._wire, self._clock, self._owned, shards)
        self._settlements = Settlements(self._wire, self._clock, self._owned, shards)
        self._history = FirestoreHistory(self._wire, self._clock, shards, self._settlements.surplus)

    async def close(self) -> None:
        await self._wire.close()

    async def _register(self) -> int:
        """Make the installation's document if it is the first time; the number of its shards."""
        for _ in range(3):
            if (here := (await self._wire.get([""])).get("")) is not None:
                shards = int(here.fields["shards"])
                if self._shards_asked not in {None, shards}:
                    raise StoreError(
                        f"the installation {self._installation!r} in {self._collection!r} has {shards} shards, which "
                        f"can't be changed to {self._shards_asked}: leave shards out of the store's URL"
                    )
                return shards
            shards = self._shards_asked or 1
            try:
                await self._wire.commit(
                    [Write("", {"installation": self._installation, "shards": shards, "touched": ""}, exists=False)]
                )
            except Conflict:
                continue
            return shards
        raise StoreUnavailable("the installation could not be registered, because others keep writing it: try again")

    async def _measure(self) -> None:
        """Write the installation's document for the sake of the time at which that happens."""
        # Something must change: a write that changes nothing happens at no time.
        await self._write(Write("", {"touched": secrets.token_hex(8)}, ("touched",), exists=True))

    async def _write(self, write: Write) -> None:
        """One write that nobody else's stands against."""
        try:
            await self._wire.commit([write])
        except Conflict as conflict:
            raise StoreUnavailable(f"Firestore gave up the write: {conflict}") from conflict

    async def now(self) -> Instant:
        """At most a round trip's error late, never early."""
        await self._know_the_time(NOW_IS_FRESH)
        return self._clock.earliest()

    async def _know_the_time(self, most: Micros) -> None:
        if self._clock.age > most:
            await self._measure()

    # ---- clients

    async def put(self, rows: Sequence[NewRow], *, replace: bool) -> list[Put]:
        """As ``Store.put``; above 500 rows, or 8 MiB, others may see it half done (``desired_rows`` says how far)."""
        if not rows:
            return []
        await self._know_the_time(CLOCK_IS_KNOWN)
        told = ChangeNotice()
        try:
            return await self._schedules.put(rows, replace=replace, told=told)
        finally:
            self._tell(told)

    async def delete(self, slugs: Sequence[str]) -> list[bool]:
        await self._know_the_time(CLOCK_IS_KNOWN)
        told = ChangeNotice()
        try:
            return await self._schedules.delete(slugs, told)
        finally:
            self._tell(told)

    async def reconcile(self, rows: Sequence[NewRow]) -> list[Put]:
        """As ``Store.reconcile``; all or none holds for 200 rows, or 8 MiB."""
        await self._know_the_time(CLOCK_IS_KNOWN)
        told = ChangeNotice()
        try:
            return await self._reconciling.reconcile(rows, told)
        finally:
            self._tell(told)

    async def tombstone(self, identities: Sequence[tuple[str, str]]) -> list[bool]:
        await self._know_the_time(CLOCK_IS_KNOWN)
        told = ChangeNotice()
        try:
            return await self._reconciling.tombstone(identities, told)
        finally:
            self._tell(told)

    async def touch(self, slugs: Sequence[str]) -> None:
        await self._know_the_time(CLOCK_IS_KNOWN)
        told = ChangeNotice()
        try:
            await self._reconciling.touch(slugs, told)
        finally:
            self._tell(told)

    async def clear(self, origin: Origin | None = None) -> int:
        await self._know_the_time(CLOCK_IS_KNOWN)
        told = ChangeNotice()
        try:
            return await self._schedules.clear(origin, told)
        finally:
            self._tell(told)

    async def get(self, slugs: Sequence[str]) -> list[Row | None]:
        paths = {slug: schedule_path(slug) for slug in slugs}
        found = await self._wire.get(list(paths.values()))
        there = {path: document for path, document in found.items() if is_row(document)}
        return [row_of(there[paths[slug]]) if paths[slug] in there else None for slug in slugs]

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
    ) -> Batch:
        await self._know_the_time(CLOCK_IS_KNOWN)
        batch = await self._claims.claim(replica, kinds, limit=limit, ahead=ahead, lease=lease, by=by)
        self.poll_interval = QUICK if batch.rows else min(SLOW, self.poll_interval * SLOWER)
        return batch

    async def settle(self, replica: str, settlements: Sequence[Settlement]) -> list[bool]:
        for settlement in settlements:
            self._history.note(settlement.records)
        answers, overtaken = await self._settlements.settle(replica, settlements)
        if overtaken:
            told = ChangeNotice()
            told.becomes_due(self._clock.earliest())
            self._tell(told)
        return answers

    @asynccontextmanager
    async def renewer(self, replica: str) -> AsyncIterator[Renewer]:
        wire = self._new_wire(deadline=RENEWAL_DEADLINE)
        await wire.open()
        try:
            yield Renewals(wire, self._clock, self._owned, replica)
        finally:
            await wire.close()

    async def announce(self, replica: ReplicaInfo, poll_at: Instant) -> None:
        """Written down every 30 s at most: nobody is notified, so nobody needs ``poll_at`` to the second."""
        self._poll_at = poll_at
        reading = self._clock.reading()
        if self._announced is not None:
            known, written = self._announced
            if known == replica and reading - written < SIGN_OF_LIFE:
                return
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

    async def withdraw(self, replica: str) -> None:
        await self._write(Write(replica_path(replica)))
        await self._presence.forget(self._installation, replica)
        self._announced = self._poll_at = None

    async def lock(self, name: str, replica: str, length: Micros) -> bool:
        await self._know_the_time(CLOCK_IS_KNOWN)
        return await self._presence.lock(name, replica, length)

    async def unlock(self, name: str, replica: str) -> None:
        await self._presence.unlock(name, replica)

    async def present(self, replica: str, cluster: str, namespaces: Sequence[str], lifetime: Micros) -> list[Presence]:
        await self._know_the_time(CLOCK_IS_KNOWN)
        return await self._presence.present(self._installation, replica, cluster, namespaces, lifetime)

    @asynccontextmanager
    async def listen(self, on_wake: Callable[[Wake], None]) -> AsyncIterator[None]:
        """Tells what this process itself writes; for the rest there is ``polls``."""
        self._listeners.append(on_wake)
        try:
            yield
        finally:
            self._listeners.remove(on_wake)

    def _tell(self, told: ChangeNotice) -> None:
        due = told.due
        if due is not None and self._poll_at is not None and due >= self._poll_at:
            due = None
        if due is None and not told.changed:
            return
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            loop.call_soon(listener, Wake(due, list(told.changed)))

    async def prune(self, limit: int = 1000) -> int:
        await self._know_the_time(CLOCK_IS_KNOWN)
        return await self._history.prune(limit)
