"""FirestoreSettling writes the rows that a replica owns, with the records of their runs.

A settlement and its records are one *unit*. As many units as fit go into one commit, which Firestore carries out
completely or not at all. Firestore refuses it if a document has changed since this process last saw it. Then the rows
of that commit are read: a row that the replica no longer owns at its version is refused, one that a client has edited
is settled with regard to the edit, and the others are settled in the next attempt. So most settlements read nothing,
and after a conflict each row of that commit is read once.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from scheduledjob.engine.store import StoreError
from scheduledjob.engine.stored_row import Disposition, Settlement

from .layout import add_to_recent, hook_write, path_of, record_writes, removal, run_path
from .operations import Write, pack_commits
from .owned_rows import FIELDS, UNKNOWN, OwnedRows, owned_by
from .retrying import gather_results, pause
from .wire import Conflict, Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .clock import FirestoreClock
    from .operations import Fields
    from .owned_rows import KnownRow
    from .wire import Wire

log = structlog.get_logger("scheduledjob.firestore")

ATTEMPTS = 8
"""How often one call tries to write a row that others keep changing."""
MAX_COMMITS = 4
"""The most commits in flight."""
MAX_SURPLUS = 100_000
"""The most runs that wait for ``prune``. Runs beyond that are dropped when they expire."""
MAX_REMOVED = 10_000
"""The most removed rows whose ``recent`` is kept."""


@dataclass(slots=True)
class Unit:
    """A settlement in progress."""

    settlement: Settlement
    recorded: set[str] = field(default_factory=set)
    """Paths of its records that history has already."""
    recent: Sequence[str] = ()
    """What ``recent`` of the row becomes: the runs that history keeps."""
    surplus: list[str] = field(default_factory=list)
    """Paths of runs that its records push out of history."""
    is_outdated: bool = False
    """The desired state has changed, so the row is released, due at once."""
    is_slim: bool = False
    """It is written without payload and result, because Firestore refused it with them."""
    is_contended: bool = False
    """Its row was written by others, so it is committed on its own. Otherwise it could fail its batch again."""
    settled: bool | None = None
    """None: not decided yet."""


class FirestoreSettling:
    """The settlements of one process."""

    def __init__(self, wire: Wire, clock: FirestoreClock, owned: OwnedRows, shards: int) -> None:
        self._wire = wire
        self._clock = clock
        self._owned = owned
        self._shards = shards
        self._commits = asyncio.Semaphore(MAX_COMMITS)
        self._removed: OrderedDict[str, Sequence[str]] = OrderedDict()
        """``recent`` of removed rows, by slug. If the slug is scheduled again, its history continues."""
        self.surplus: deque[str] = deque(maxlen=MAX_SURPLUS)
        """Paths of runs that newer ones have pushed out of history, for ``prune``."""

    async def settle(self, replica: str, settlements: Sequence[Settlement]) -> tuple[list[bool | None], bool]:
        """Return for each whether it was settled, and whether a row was released whose desired state had changed.

        None: others keep writing the row.
        """
        units = todo = [Unit(settlement) for settlement in settlements]
        while todo:
            # A commit can write a document only once, so units with the same row or run go into different waves.
            wave: list[Unit] = []
            later: list[Unit] = []
            taken: set[str] = set()
            for unit in todo:
                names = {path_of(unit.settlement.key), *(record.run_id for record in unit.settlement.records)}
                (wave if taken.isdisjoint(names) else later).append(unit)
                taken |= names
            await self._settle(replica, wave)
            todo = later
        return [unit.settled for unit in units], any(unit.is_outdated and unit.settled for unit in units)

    async def _settle(self, replica: str, units: Sequence[Unit]) -> None:
        await self._read(replica, [unit for unit in units if self._known(replica, unit) is None])
        for attempt in range(ATTEMPTS):
            todo = [unit for unit in units if unit.settled is None]
            writes = [self._writes(unit, self._known(replica, unit) or UNKNOWN) for unit in todo]
            # Let every commit complete before an error of one is raised, so that the results of all are known.
            results = await gather_results(
                self._commit(replica, [todo[number] for number in numbers], [writes[number] for number in numbers])
                for numbers in _commits(todo, writes)
            )
            for result in results:
                if isinstance(result, StoreError):
                    raise result
            if all(unit.settled is not None for unit in units):
                return
            await pause(attempt)

    async def _commit(self, replica: str, units: Sequence[Unit], writes: Sequence[Sequence[Write]]) -> None:
        try:
            async with self._commits:
                stamps = await self._wire.commit([write for unit_writes in writes for write in unit_writes])
        except Conflict as conflict:
            # Firestore does not say which document conflicts, only whether it is a row or a record.
            if not conflict.aborted and (not conflict.taken or not await self._read_recorded(units, writes)):
                await self._read(replica, units)
            for unit, unit_writes in zip(units, writes, strict=True):
                known = self._known(replica, unit)
                unit.is_contended = conflict.aborted or (known is not None and known.stamp != unit_writes[0].stamp)
            return
        except Refused:
            if len(units) == 1:
                self._slim(units[0])
                return
            # One of the units is too large. Halve the commit, so that the others do not fail with it.
            half = len(units) // 2
            results = await gather_results(
                self._commit(replica, units[part], writes[part]) for part in (slice(half), slice(half, None))
            )
            for result in results:
                if isinstance(result, StoreError):
                    raise result from None
            return
        position = 0
        for unit, unit_writes in zip(units, writes, strict=True):
            settlement = unit.settlement
            unit.settled = True
            self.surplus += unit.surplus
            if settlement.disposition is Disposition.REMOVE:
                self._remember_removed(settlement, unit.recent)
            if settlement.disposition is Disposition.KEEP:
                self._owned.settled(settlement.key, stamps[position], unit.recent)
            else:
                self._owned.forget(settlement.key)
            position += len(unit_writes)

    def _remember_removed(self, settlement: Settlement, recent: Sequence[str]) -> None:
        if settlement.records:
            self._removed[settlement.records[0].slug] = recent
            while len(self._removed) > MAX_REMOVED:
                self._removed.popitem(last=False)

    def _slim(self, unit: Unit) -> None:
        """Drop the payload and result, which a job may have made too large, so that the run can still end."""
        key = unit.settlement.key
        if unit.is_slim:
            log.error("Firestore refuses to store the end of a run, so the run is not recorded", key=key)
            unit.settled = False
            self._owned.forget(key)
        else:
            log.warning(
                "dropped a job's payload or result, because with it the row exceeds Firestore's limit of 1 MiB", key=key
            )
            unit.is_slim = True

    async def _read_recorded(self, units: Sequence[Unit], writes: Sequence[Sequence[Write]]) -> bool:
        """Find the records that history has already, and return whether there are any."""
        paths = [[write.path for write in unit_writes if write.exists is False] for unit_writes in writes]
        found = set(await self._wire.get([path for unit_paths in paths for path in unit_paths], ()))
        for unit, unit_paths in zip(units, paths, strict=True):
            unit.recorded |= found & set(unit_paths)
        return bool(found)

    async def _read(self, replica: str, units: Sequence[Unit]) -> None:
        """Read the rows, and refuse those that the replica no longer owns."""
        if not units:
            return
        documents = await self._wire.get([path_of(unit.settlement.key) for unit in units], FIELDS)
        for unit in units:
            key = unit.settlement.key
            document = documents.get(path_of(key))
            if document is not None and owned_by(document, key, replica, unit.settlement.version):
                self._owned.remember(document)
            else:
                unit.settled = False
                self._owned.forget(key)

    def _known(self, replica: str, unit: Unit) -> KnownRow | None:
        return self._owned.get(unit.settlement.key, replica, unit.settlement.version)

    def _writes(self, unit: Unit, known: KnownRow) -> list[Write]:
        """Return the write of the row, followed by those of its records and of its calls of hooks."""
        settlement = unit.settlement
        records = [
            write for write in record_writes(settlement.records, self._shards) if write.path not in unit.recorded
        ]
        new = {write.path for write in records}
        recent = known.recent
        if not recent and settlement.records:
            recent = self._removed.get(settlement.records[0].slug, ())
        unit.recent, unit.surplus = add_to_recent(
            recent, [record for record in settlement.records if run_path(record.run_id) in new]
        )
        unit.is_outdated = settlement.disposition is not Disposition.KEEP and known.revision != settlement.revision
        hooks = [hook_write(call, self._clock.earliest()) for call in settlement.hooks]
        path = path_of(settlement.key)
        if settlement.disposition is Disposition.REMOVE and not unit.is_outdated:
            return [removal(path, known.tombstoned, self._shards, known.stamp), *records, *hooks]
        fields: Fields = {"state": settlement.state}
        mask = ["state"]
        if new:
            fields["recent"] = unit.recent
            mask.append("recent")
        newer_payload = known.payload_revision > settlement.payload_base
        if settlement.writes_payload and not newer_payload and not unit.is_slim:
            fields["payload"] = settlement.payload
            mask.append("payload")
        if settlement.result is not None and not unit.is_slim:
            fields["result"] = settlement.result
            mask.append("result")
        if settlement.disposition is Disposition.KEEP:
            fields["version"] = settlement.version + 1
            mask.append("version")
        else:
            wake_at = self._clock.earliest() if unit.is_outdated else settlement.wake_at
            if wake_at is not None:
                fields["wake_at"] = wake_at
            mask += ["owner", "wake_at"]
        return [Write(path, fields, mask, stamp=known.stamp), *records, *hooks]


def _commits(units: Sequence[Unit], writes: Sequence[Sequence[Write]]) -> list[list[int]]:
    """Return the numbers of the units of each commit."""
    alone = [number for number, unit in enumerate(units) if unit.is_contended]
    together = [number for number, unit in enumerate(units) if not unit.is_contended]
    packed = pack_commits([writes[number] for number in together])
    return [[together[place] for place in places] for places in packed] + [[number] for number in alone]
