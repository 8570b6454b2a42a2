"""An owner's writes: settlements, with the history that belongs to them, and renewals.

A settlement and its records are one *unit*: as many units as fit go into one commit, which Firestore carries out
altogether or not at all. When it does not, because one document in it is not as this process last saw it, the rows
of that commit are read: those that are no longer owned at their version are refused, those that a client has edited
are settled with the edit in view, and the rest go into the next try unharmed by their neighbours. So the usual
settlement reads nothing, and the unusual one reads each row of one commit once.

Renewals are independent of each other and go out by ``batch_write``; a renewal that is refused is looked at in the
same way. The end of a lease is the latest the clock can have been when the renewal began, plus the lease (the
opening of ``clock`` says why).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from scheduledjob.engine.store import Disposition, Key, Renewal, Settlement, StoreError, StoreUnavailable

from .layout import path_of, record_writes, removal, run_path, with_records
from .operations import Write, packs
from .owned_rows import NOTHING, SEEN, OwnedRows, owned_by
from .retrying import pause, together
from .wire import Conflict, Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.domain.time.instants import Instant, Micros

    from .clock import FirestoreClock
    from .operations import Fields
    from .owned_rows import Known
    from .wire import Wire

log = structlog.get_logger("scheduledjob.firestore")

TRIES = 8
"""How often one call looks again at rows that others keep writing."""
MOST_COMMITS = 4
"""In flight at once."""
MOST_SURPLUS = 100_000
"""Runs that wait for being pruned; what is forgotten beyond that goes by its age."""
MOST_LEFT = 10_000
"""Removed rows whose history is remembered."""


@dataclass(slots=True)
class Unit:
    """A settlement on its way."""

    settlement: Settlement
    recorded: set[str] = field(default_factory=set)
    """Paths of its records that history has already."""
    recent: Sequence[str] = ()
    surplus: list[str] = field(default_factory=list)
    overtaken: bool = False
    """The definition has changed: the row is released, due at once."""
    slim: bool = False
    """Without the payload and result, with which Firestore refused it."""
    done: bool | None = None


class Settlements:
    """The settlements of one process."""

    def __init__(self, wire: Wire, clock: FirestoreClock, owned: OwnedRows, shards: int) -> None:
        self._wire = wire
        self._clock = clock
        self._owned = owned
        self._shards = shards
        self._commits = asyncio.Semaphore(MOST_COMMITS)
        self._left: OrderedDict[str, Sequence[str]] = OrderedDict()
        """By slug, ``recent`` of rows that were removed: the slug may be scheduled again, and its history goes on."""
        self.surplus: deque[str] = deque(maxlen=MOST_SURPLUS)
        """Paths of runs that newer ones have pushed out of history, for ``prune``."""

    async def settle(self, replica: str, settlements: Sequence[Settlement]) -> tuple[list[bool], bool]:
        """Return the result of each, and whether a row was released whose definition has changed meanwhile."""
        units = [Unit(settlement) for settlement in settlements]
        while todo := [unit for unit in units if unit.done is None]:
            # A document can be written once in a commit: what concerns the same row or run waits for its turn.
            wave: list[Unit] = []
            taken: set[Key] = set()
            for unit in todo:
                names = {unit.settlement.key, *(record.run_id for record in unit.settlement.records)}
                if taken.isdisjoint(names):
                    wave.append(unit)
                taken |= names
            await self._settle(replica, wave)
        return [bool(unit.done) for unit in units], any(unit.overtaken and unit.done for unit in units)

    async def _settle(self, replica: str, units: Sequence[Unit]) -> None:
        await self._learn(replica, [unit for unit in units if self._known(replica, unit) is None])
        for attempt in range(TRIES):
            todo = [unit for unit in units if unit.done is None]
            writes = [self._writes(unit, self._known(replica, unit) or NOTHING) for unit in todo]
            # Each part ends on its own: an error of one must not leave another's fate unknown.
            ends = await together(
                self._commit(replica, [todo[number] for number in numbers], [writes[number] for number in numbers])
                for numbers in packs(writes)
            )
            for end in ends:
                if isinstance(end, StoreError):
                    raise end
            if all(unit.done is not None for unit in units):
                return
            await pause(attempt)
        left = sum(unit.done is None for unit in units)
        raise StoreUnavailable(f"{left} rows could not be settled, because others keep writing them")

    async def _commit(self, replica: str, units: Sequence[Unit], writes: Sequence[Sequence[Write]]) -> None:
        try:
            async with self._commits:
                stamps = await self._wire.commit([write for some in writes for write in some])
        except Conflict as conflict:
            if conflict.aborted:
                return
            # Which document it was is not said, but whether it is a row or a record.
            if not conflict.taken or not await self._learn_recorded(units, writes):
                await self._learn(replica, units)
            return
        except Refused:
            if len(units) == 1:
                self._slim(units[0])
                return
            # One of them is at fault; the others must not wait for it.
            half = len(units) // 2
            ends = await together(
                self._commit(replica, units[part], writes[part]) for part in (slice(half), slice(half, None))
            )
            for end in ends:
                if isinstance(end, StoreError):
                    raise end from None
            return
        position = 0
        for unit, some in zip(units, writes, strict=True):
            settlement = unit.settlement
            unit.done = True
            self.surplus += unit.surplus
            if settlement.disposition is Disposition.REMOVE:
                self._leave(settlement, unit.recent)
            if settlement.disposition is Disposition.KEEP:
                self._owned.settled(settlement.key, stamps[position], unit.recent)
            else:
                self._owned.forget(settlement.key)
            position += len(some)

    def _leave(self, settlement: Settlement, recent: Sequence[str]) -> None:
        if settlement.records:
            self._left[settlement.records[0].slug] = recent
            while len(self._left) > MOST_LEFT:
                self._left.popitem(last=False)

    def _slim(self, unit: Unit) -> None:
        """Do without what a job may have made too large; a run must end even so."""
        key = unit.settlement.key
        if unit.slim:
            log.error("Firestore refuses the end of a run, which is given up", key=key)
            unit.done = False
            self._owned.forget(key)
        else:
            log.warning("a job's payload or result is dropped: with it the row is above Firestore's 1 MiB", key=key)
            unit.slim = True

    async def _learn_recorded(self, units: Sequence[Unit], writes: Sequence[Sequence[Write]]) -> bool:
        """Look which of the records history has already; whether there are any."""
        there = set(await self._wire.get([write.path for some in writes for write in some[1:]], ()))
        for unit, some in zip(units, writes, strict=True):
            unit.recorded |= there & {write.path for write in some[1:]}
        return bool(there)

    async def _learn(self, replica: str, units: Sequence[Unit]) -> None:
        """Read the rows and refuse what is not ours any longer."""
        if not units:
            return
        documents = await self._wire.get([path_of(unit.settlement.key) for unit in units], SEEN)
        for unit in units:
            key = unit.settlement.key
            document = documents.get(path_of(key))
            if document is not None and owned_by(document, key, replica, unit.settlement.version):
                self._owned.see(document)
            else:
                unit.done = False
                self._owned.forget(key)

    def _known(self, replica: str, unit: Unit) -> Known | None:
        return self._owned.get(unit.settlement.key, replica, unit.settlement.version)

    def _writes(self, unit: Unit, known: Known) -> list[Write]:
        """The row's write first, then its records."""
        settlement = unit.settlement
        records = [
            write for write in record_writes(settlement.records, self._shards) if write.path not in unit.recorded
        ]
        new = {write.path for write in records}
        recent = known.recent
        if not recent and settlement.records:
            recent = self._left.get(settlement.records[0].slug, ())
        unit.recent, unit.surplus = with_records(
            recent, [record for record in settlement.records if run_path(record.run_id) in new]
        )
        unit.overtaken = settlement.disposition is not Disposition.KEEP and known.revision != settlement.revision
        path = path_of(settlement.key)
        if settlement.disposition is Disposition.REMOVE and not unit.overtaken:
            return [removal(path, known.tombstoned, self._shards, known.stamp), *records]
        fields: Fields = {"state": settlement.state}
        mask = ["state"]
        if new:
            fields["recent"] = unit.recent
            mask.append("recent")
        if settlement.payload is not None and not unit.slim:
            fields["payload"] = settlement.payload
            mask.append("payload")
        if settlement.result is not None and not unit.slim:
            fields["result"] = settlement.result
            mask.append("result")
        if settlement.disposition is Disposition.KEEP:
            fields["version"] = settlement.version + 1
            mask.append("version")
        else:
            wake_at = self._clock.earliest() if unit.overtaken else settlement.wake_at
            if wake_at is not None:
                fields["wake_at"] = wake_at
            mask += ["owner", "wake_at"]
        return [Write(path, fields, mask, stamp=known.stamp), *records]


class Renewals:
    """Renews leases over a wire of its own, opened in the lease thread's event loop."""

    def __init__(self, wire: Wire, clock: FirestoreClock, owned: OwnedRows, replica: str) -> None:
        self._wire = wire
        self._clock = clock
        self._owned = owned
        self._replica = replica

    async def renew(self, held: Sequence[tuple[Key, int]], lease: Micros) -> Renewal:
        revisions: dict[Key, int] = {}
        began = self._clock.reading()
        todo = dict(held)
        await self._learn({key: version for key, version in held if self._known(key, version) is None}, todo)
        for attempt in range(TRIES):
            if not todo:
                break
            jumps = self._clock.jumps
            # Counted from the beginning of the call, as its owner counts.
            until = self._clock.latest(began) + lease
            renewed, refused = await self._write(todo, until)
            if self._clock.jumps == jumps:
                for key in renewed:
                    revisions[key] = renewed[key]
                    del todo[key]
            # Where the clock had stood still ``until`` was too early: those are written again.
            if todo:
                await self._learn({key: todo[key] for key in refused}, todo)
                await pause(attempt)
        if todo:
            raise StoreUnavailable(f"{len(todo)} leases could not be renewed, because others keep writing their rows")
        return Renewal(revisions)

    async def _write(self, held: dict[Key, int], until: Instant) -> tuple[dict[Key, int], list[Key]]:
        writes: list[Write] = []
        revisions: dict[Key, int] = {}
        for key, version in held.items():
            known = self._known(key, version) or NOTHING
            revisions[key] = known.revision
            writes.append(Write(path_of(key), {"wake_at": until}, ("wake_at",), stamp=known.stamp))
        refused: list[Key] = []
        for key, stamp in zip(list(revisions), await self._wire.batch_write(writes), strict=True):
            if stamp is None:
                refused.append(key)
                del revisions[key]
            else:
                self._owned.renewed(key, stamp)
        return revisions, refused

    def _known(self, key: Key, version: int) -> Known | None:
        return self._owned.get(key, self._replica, version)

    async def _learn(self, unknown: dict[Key, int], todo: dict[Key, int]) -> None:
        """Read rows again; those that are not ours any longer go from ``todo``."""
        if not unknown:
            return
        documents = await self._wire.get([path_of(key) for key in unknown], SEEN)
        for key, version in unknown.items():
            document = documents.get(path_of(key))
            if document is not None and owned_by(document, key, self._replica, version):
                self._owned.see(document)
            else:
                del todo[key]
