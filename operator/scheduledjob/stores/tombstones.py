"""Which of two sightings of an object counts: the one rule of ``Store.reconcile``, and for how long an end is kept.

Replicas hand over what they have seen of a cluster in any order and again, so every store has to tell what is newer
from what is older. Each reads and writes rows in its own way, but none judges in its own way: that is here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import msgspec

from scheduledjob.domain.schedule.definition import Definition, Keep
from scheduledjob.engine.store import TOMBSTONE_KEPT, NewRow, Origin, Put

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.domain.time.instants import Instant, Micros


class Standing(Protocol):
    """What ``decide_upsert`` asks of a row that is there; ``Row`` has it all."""

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


def decide_upsert(there: Standing | None, new: NewRow, *, tombstoned: bool) -> Put:
    """Decide what happens to an observed object. CREATED with something ``there`` means: replace it, with a tombstone.

    The payload is not compared: within a generation, the job may change it.
    """
    if tombstoned:
        return Put.STALE
    if there is None:
        return Put.CREATED
    if there.origin != Origin.CLUSTER.value:
        return Put.STALE
    if there.uid != new.uid:
        return Put.CREATED if there.created_at < new.created_at else Put.STALE
    if there.generation > new.generation:
        return Put.STALE
    known = (there.generation, there.kind, there.definition, there.requests)
    same = new.first is None and known == (new.generation, new.kind, new.definition, new.requests)
    return Put.UNCHANGED if same else Put.UPDATED


def keep_of(definition: str) -> Keep:
    """How much history a schedule of that definition keeps."""
    try:
        return Definition.decode(definition).keep
    except msgspec.DecodeError:  # defined in code, or by a version that writes something else
        return Keep()


def tombstone_kept_for(definition: str) -> Micros:
    """For how long the uid of a schedule that ends is not taken again."""
    return max(TOMBSTONE_KEPT, keep_of(definition).ttl)


def no_object(new: NewRow) -> NewRow:
    """Return the row as ``put`` writes it: without generation and requests, which only objects in a cluster have."""
    return replace(new, generation=0, requests="") if new.generation or new.requests else new


def each_once(rows: Sequence[NewRow]) -> dict[str, NewRow]:
    """Return the rows by slug, in their order. Raises ValueError for a slug that is given twice."""
    by_slug: dict[str, NewRow] = {}
    for row in rows:
        if row.slug in by_slug:
            raise ValueError(f"{row.slug!r} is given twice in one call: give each slug once")
        by_slug[row.slug] = row
    return by_slug
