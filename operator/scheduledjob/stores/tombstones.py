"""The rules of ``Store.reconcile`` that all stores share: which observation wins, and how long a tombstone is kept.

Replicas write what they have observed in a cluster in any order, and repeatedly, so a store has to tell newer
observations from older ones. How rows are read and written differs between the stores; the decision does not.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import msgspec

from scheduledjob.domain.schedule.definition import Definition, Keep
from scheduledjob.domain.schedule.requests import without_earlier
from scheduledjob.engine.store import TOMBSTONE_KEPT, Put
from scheduledjob.engine.stored_row import NewRow, Origin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.domain.time.instants import Instant, Micros


class ExistingRow(Protocol):
    """The fields of an existing row that ``decide_upsert`` needs. ``Row`` has them all."""

    @property
    def uid(self) -> str: ...
    @property
    def origin(self) -> str: ...
    @property
    def created_at(self) -> Instant: ...
    @property
    def generation(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def definition(self) -> str: ...
    @property
    def requests(self) -> str: ...


def decide_upsert(existing: ExistingRow | None, new: NewRow, *, tombstoned: bool) -> Put:
    """Decide what happens to an observed object. CREATED with an ``existing`` row means: replace it by a tombstone.

    The payload is not compared: within a generation, the job may change it.
    """
    if tombstoned and not new.restored:
        return Put.STALE
    if existing is None:
        return Put.CREATED
    if existing.origin != Origin.CLUSTER.value:
        return Put.STALE
    if existing.uid != new.uid:
        return Put.CREATED if existing.created_at < new.created_at or new.restored else Put.STALE
    if existing.generation > new.generation and not new.restored:
        return Put.STALE
    known = (existing.generation, existing.kind, existing.definition, without_earlier(existing.requests))
    same = new.first is None and known == (new.generation, new.kind, new.definition, new.requests)
    return Put.UNCHANGED if same else Put.UPDATED


def decode_keep(definition: str) -> Keep:
    """Return how much history a schedule with this definition keeps."""
    try:
        return Definition.decode(definition).keep
    except msgspec.DecodeError:  # the definition is in code, or a version wrote it that this one cannot read
        return Keep()


def tombstone_kept_for(definition: str) -> Micros:
    """Return how long to keep the tombstone of a schedule that had this definition."""
    return max(TOMBSTONE_KEPT, decode_keep(definition).ttl)


def without_cluster_fields(new: NewRow) -> NewRow:
    """Return the row as ``put`` writes it: without generation and requests, which only a cluster's objects have."""
    return replace(new, generation=0, requests="") if new.generation or new.requests else new


def by_unique_slug(rows: Sequence[NewRow]) -> dict[str, NewRow]:
    """Return the rows by slug, in their order. Raises ValueError for a slug that is given twice."""
    by_slug: dict[str, NewRow] = {}
    for row in rows:
        if row.slug in by_slug:
            raise ValueError(f"{row.slug!r} is given twice in one call: give each slug once")
        by_slug[row.slug] = row
    return by_slug
