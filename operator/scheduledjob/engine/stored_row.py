"""The row: one schedule in the store, and what clients and the owner write of it.

A row has two parts with separate writers:

* the **desired state** (slug, kind, definition, payload, ``first``, requests): clients write it through ``put``,
  ``reconcile`` and ``delete``. Each change raises ``revision``. If no replica owns the row, the change also makes it
  due at once, so that a replica reconciles it.
* the **state** (``State``, ``wake_at``, owner, version, result): the replica that owns the row writes it through
  ``settle``, which checks ``version`` and owner.

Both write the payload, because a run may leave another one for the next run. ``payload_revision`` says which revision
of the desired state last set it. ``settle`` writes the payload of a run only if no client has set one since the run
received its own.

``wake_at`` is the only column by which work is found. It says when the row is due or, while a replica owns the row,
when that replica's lease ends. So the row of a dead owner becomes due by itself. None: the row never becomes due.

All times are instants (microseconds since 1970, UTC) of the store's clock; durations are microseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import TypeAlias

import msgspec

from scheduledjob.domain.schedule.state import RunRecord
from scheduledjob.domain.time.instants import Instant, Micros

Key: TypeAlias = int | str
"""The store's own identifier of a row. A slug that is deleted and created again gets a new key."""

DEFAULT_TENANT = ""
"""The tenant of library schedules that name none."""


class Origin(StrEnum):
    """Who wrote the desired state. ``run --prune`` removes only schedules of its own origin."""

    LIBRARY = "library"
    MANIFEST = "manifest"
    CLUSTER = "cluster"


@dataclass(slots=True)
class NewRow:
    """A desired state, with the state that a new row starts with."""

    slug: str
    uid: str
    kind: str
    origin: Origin
    definition: str
    """``Definition.encode()``; empty if the definition is registered in code."""
    state: bytes
    """``State.encode()`` of a new row. An existing row keeps its own."""
    wake_at: Instant | None
    """When a new row is due. An existing row becomes due at once unless a replica owns it."""
    first: Instant | None = None
    """The slot to plan next, if the caller named one (``at=``, ``delay=``). It also applies to an existing row."""
    payload: bytes | None = None
    created_at: Instant = 0
    """When the writer created a new row, by its estimate of the store's clock; for an object of a cluster, when the
    object was created."""
    generation: int = 0
    """The generation (from 1) of the cluster's object that the desired state was read from; otherwise 0."""
    requests: str = ""
    """``Requests.encode()``: the manual requests of the schedule; empty: none."""
    tenant: str = DEFAULT_TENANT
    """The tenant of a library schedule. Other rows belong to the namespace in their slug, whatever this says."""
    keep_payload: bool = False
    """``put`` only: an existing row keeps its payload, because the caller gave none."""
    restored: bool = False
    """``reconcile`` only: the cluster was restored from a backup, so this is its newest state although the store has a
    later generation, another uid or a tombstone. The tombstone is deleted."""


class Row(msgspec.Struct, gc=False):
    """A row as its claimer or a reader sees it. The fields are in the order of Postgres's columns."""

    key: Key
    slug: str
    uid: str
    kind: str
    origin: str
    definition: str
    revision: int
    edited_at: Instant
    """When the desired state last changed."""
    first: Instant | None
    payload: bytes | None
    result: bytes | None
    created_at: Instant
    version: int
    wake_at: Instant | None
    state: bytes
    recovered: bool = False
    """The claim took the row from an owner whose lease had ended, so a run that the state allows may have started."""
    owner: str | None = None
    """The replica that owns the row; for a claimer, itself."""
    generation: int = 0
    requests: str = ""
    tenant: str = DEFAULT_TENANT
    """The tenant of a library schedule. ``capacity.tenant_of`` returns that of any row."""
    payload_revision: int = 0
    """The revision of the desired state that last set the payload; 0: none did."""
    due_at: Instant | None = None
    """Only in a claim: ``wake_at`` before it, which is when its slot was due, or when the lease of a dead owner ended.
    Nobody could run the schedule from then until the claim."""


class Disposition(int, Enum):
    """What a settlement does to the ownership of its row."""

    KEEP = 0
    """The replica keeps the row: the state is saved, the version goes up by one, the lease stays as it is."""
    RELEASE = 1
    """The replica gives the row up. It is due at ``wake_at`` (None: never), or at once if the desired state has
    changed since ``revision``."""
    REMOVE = 2
    """The schedule is done and its row is removed. If the desired state has changed since ``revision``, the row is
    released instead, due at once, with the given state."""


class Settlement(msgspec.Struct, gc=False):
    """An owner's write of one row."""

    key: Key
    version: int
    disposition: Disposition
    state: bytes
    wake_at: Instant | None
    revision: int
    """The revision of the desired state that the state takes into account."""
    records: Sequence[RunRecord] = ()
    """Ended runs to add to history. A run that history has already is left as it is."""
    payload: bytes | None = None
    """The payload that a run leaves for the next one; None: leave the payload as it is, unless it is cleared."""
    result: bytes | None = None
    """None: leave the result as it is."""
    slug: str = ""
    """The row's slug, by which to read the row if the answer to a KEEP is lost."""
    payload_cleared: bool = False
    """The run leaves no payload for the next one."""
    payload_revision: int | None = None
    """``Row.payload_revision`` of the payload that the run received; None: that of ``revision``. If a client has set a
    payload since, that payload stays."""
    hooks: Sequence[HookCall] = ()
    """Calls of hooks to add, due at once. A call that exists already is left as it is."""

    @property
    def writes_payload(self) -> bool:
        return self.payload is not None or self.payload_cleared

    @property
    def payload_base(self) -> int:
        """The latest ``Row.payload_revision`` at which the payload is written."""
        return self.revision if self.payload_revision is None else self.payload_revision


class HookCall(msgspec.Struct, gc=False):
    """A call of a hook, which is stored with the end of its run until it is delivered."""

    run_id: str
    number: int
    """Its place among the hooks of the run. Together with the run id it identifies the call."""
    slug: str
    uid: str
    data: bytes
    """What to call, as ``hook_delivery`` encodes it."""
    attempt: int = 0
    """How often it was claimed."""

    @property
    def group(self) -> str:
        """Whose calls share the limit of calls at once: the namespace, or the slug of a schedule without one."""
        return self.slug.partition("/")[0]


class HookEnd(msgspec.Struct, gc=False):
    """The end of an attempt to call a hook."""

    run_id: str
    number: int
    attempt: int
    """Of the claim. If the call was claimed again since, this end has no effect."""
    retry_in: Micros | None = None
    """When the call is due again; None: it is deleted."""
