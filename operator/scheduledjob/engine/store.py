"""The store as the engine uses it: what a row is, who may write which part of it, and what every store promises.

A *row* is one schedule. It has two parts with separate writers:

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

What every store promises, whatever client crashes, pauses, is cut off or has a wrong clock:

* At most one replica at a time owns a row. Each claim raises ``version``.
* ``settle`` and ``renew`` change a row only for its owner at that version, and report the rows that they refused.
* A settlement, its history and its calls of hooks are written together or not at all.
* Times are compared with the store's own clock only.

A call that raises ``StoreUnavailable`` may or may not have been carried out. It may even be carried out later, after
calls that were sent after it. Every call may be repeated: if a ``settle`` succeeded the first time, its repetition is
refused and changes nothing.

All times are instants (microseconds since 1970, UTC) of the store's clock; durations are microseconds.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Protocol, TypeAlias

import msgspec

from scheduledjob.domain.schedule.state import RunRecord
from scheduledjob.domain.time.instants import DAY, Instant, Micros

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractAsyncContextManager

Key: TypeAlias = int | str
"""The store's own identifier of a row. A slug that is deleted and created again gets a new key."""


DEFAULT_TENANT = ""
"""The tenant of library schedules that name none."""

COUNTED = 1_000
"""How many rows of a queue are counted at most."""

TOMBSTONE_KEPT: Micros = 7 * DAY
"""How long a tombstone is kept at least; ``reconcile`` refuses its uid for that time."""


class StoreError(Exception):
    """The base class of a store's errors."""


class StoreUnavailable(StoreError):
    """The store could not be reached or did not answer. The call may have been carried out; try again."""


class SlugTaken(StoreError, ValueError):
    """A slug is already scheduled."""

    def __init__(self, slugs: Sequence[str]) -> None:
        self.slugs = tuple(slugs)
        names = ", ".join(repr(slug) for slug in self.slugs[:5]) + (" ..." if len(self.slugs) > 5 else "")
        super().__init__(f"already scheduled: {names}; schedule it with replace=True to update it, or delete it first")


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


class Put(Enum):
    """The result of writing a desired state."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    """The row has this kind, definition, payload and requests already, and no ``first`` was given."""
    STALE = "stale"
    """``reconcile`` only: the store knows something newer, so nothing was written."""


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


class Quotas(msgspec.Struct, gc=False):
    """How many rows of each tenant a claim takes at most."""

    tenants: dict[str, int]
    others: int
    """For each tenant that ``tenants`` does not name."""


class Batch(msgspec.Struct, gc=False):
    """The result of a claim."""

    rows: list[Row]
    now: Instant
    """The store's clock, read after the claim was sent and before its answer arrived."""
    next_wake: Instant | None
    """The earliest ``wake_at`` of this installation that is not due within ``ahead``; None: there is none. If the
    batch is full, it may be None although more rows are due: claim again."""
    late: bool = False
    """The claim reached the store too late, so it claimed nothing."""
    left: frozenset[str] = frozenset()
    """After a claim with quotas: tenants of which more rows are due."""


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


@dataclass(slots=True)
class Renewal:
    """The result of a renewal."""

    revisions: dict[Key, int]
    """For each row that was renewed: the current revision of its desired state."""
    busy: Collection[Key] = ()
    """Rows that the replica still owns, but that could not be renewed now: a client was writing them, for example.
    Their leases end as before, so renew them again soon."""


@dataclass(slots=True)
class Wake:
    """A notification from the store to a listening replica."""

    due: Instant | None = None
    """A row became due at this instant, which may be earlier than the replica knows."""
    changed: Sequence[str] = ()
    """Slugs that were deleted, or whose desired state changed while a replica owned them."""
    notifications_lost: bool = False
    """Notifications may have been lost, or do not work with this store: poll now, and keep polling."""


@dataclass(slots=True)
class ReplicaInfo:
    """What a replica publishes about itself for migrations, readiness and people. Ownership never depends on it."""

    id: str
    """Unique to each start of a process."""
    program_version: str
    schema_version: int
    details: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True, frozen=True)
class Presence:
    """A live replica that works for a cluster."""

    installation: str
    replica: str
    namespaces: tuple[str, ...]
    """The namespaces that it watches; empty: all."""
    since: Instant
    """When it first announced this."""


class Renewer(Protocol):
    """Renews leases over its own connection, in the thread and event loop that opened it."""

    async def renew(self, owned: Sequence[tuple[Key, int]], lease: Micros) -> Renewal:
        """Set ``wake_at = now + lease`` for each (key, version) that the replica still owns at that version.

        A row that the answer lacks was deleted, has another version, or no longer belongs to the replica. A row that a
        client has locked delays no other row.
        """


class Store(Protocol):
    """One installation in one store. It is made from a URL, and ``connect`` opens it in the event loop that uses it.

    The names of its methods are also values of a metric's label, so renaming one changes what users see.
    """

    polls: bool
    """True if notifications cannot arrive (Firestore, a transaction pooler): replicas then poll at least every
    ``poll_interval``."""
    poll_interval: float
    """Seconds."""
    exclusive: bool
    """True if no other process can use this store, so that a lease protects its owner from nobody."""

    async def connect(self) -> None:
        """Open connections, migrate the schema to what this version needs, and register the installation.

        Raises StoreUnavailable, or StoreError that says what to do (for example ``scheduledjob migrate``).
        """

    async def close(self) -> None: ...

    async def now(self) -> Instant:
        """Read the store's clock in one cheap round trip."""

    # ---- clients

    async def put(self, rows: Sequence[NewRow], *, replace: bool) -> list[Put]:
        """Write desired states in few round trips. Their ``generation`` and ``requests`` are ignored.

        All or none are written up to 1,000 rows of 8 MiB (Firestore: 500). More rows are several transactions, so that
        none holds its locks for long, and a call that fails may have written some of them.

        Without ``replace``, raises SlugTaken with the slugs that exist already. Raises ValueError if a slug occurs
        twice in ``rows``.
        """

    async def delete(self, slugs: Sequence[str]) -> list[bool]:
        """Delete schedules. That fences their owners, and each active run is recorded as Cancelled.

        Returns False for a slug that does not exist.
        """

    async def reconcile(self, rows: Sequence[NewRow]) -> list[Put]:
        """Write desired states that were read from objects of a cluster. An older one never wins.

        Any number of replicas may write what they have observed, in any order, and repeatedly. Each row has a ``uid``,
        which never belongs to another slug, and a ``generation``. Raises ValueError if a slug occurs twice in ``rows``.
        The result for a row is:

        * STALE if that uid has a tombstone, if the store has a later generation of the same uid, or if the slug
          belongs to another uid that was created at the same time or later, or to a schedule of another origin;
        * UPDATED if the store has the same uid and anything differs (kind, definition, requests, generation), or if
          ``first`` is given. ``payload`` is written only with a new generation, because a job may have changed it
          since;
        * CREATED if the slug is free, or belongs to another uid that was created earlier. That uid gets a tombstone,
          and each of its active runs is recorded as Cancelled.
        """

    async def tombstone(self, identities: Sequence[tuple[str, str]]) -> list[bool]:
        """Delete the schedules of these (slug, uid) as ``delete`` does. A slug that belongs to another uid stays.

        Returns whether each schedule existed. In either case the uid gets a tombstone: ``reconcile`` refuses it for
        as long as the schedule's history is kept, and for ``TOMBSTONE_KEPT`` at least.
        """

    async def touch(self, slugs: Sequence[str]) -> None:
        """Have replicas reconcile these rows as if their desired state had changed.

        A row that no replica owns becomes due at once. ``revision`` goes up, ``edited_at`` stays. A slug that does not
        exist is skipped.
        """

    async def get(self, slugs: Sequence[str]) -> list[Row | None]: ...

    async def rows(self, *, origin: Origin | None = None, after: str = "", limit: int = 1000) -> list[Row]:
        """Return a page of rows in order of slug, starting behind the slug ``after``."""

    async def clear(self, origin: Origin | None = None) -> int:
        """Delete every schedule (of one origin) as ``delete`` does, and return how many there were."""

    async def history(
        self, slug: str | None = None, *, uid: str | None = None, before: Instant | None = None, limit: int = 100
    ) -> list[RunRecord]:
        """Return ended runs, the newest (by ``finished``) first; with ``slug`` and ``uid``, those of one object."""

    async def recorded(self, run_ids: Sequence[str]) -> set[str]:
        """Return those of the runs that history has."""

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
        """Claim up to ``limit`` rows of these kinds with ``wake_at <= now + ahead``, the soonest first.

        Each claimed row gets ``wake_at = now + lease`` and a higher version. A row that another replica owns is
        claimed only when its lease has ended (``wake_at <= now``, never ahead of time). Rows of other kinds stay as
        they are, and however many of them are due, they do not hide rows of these kinds.

        With ``quotas``, the claim takes up to that many rows of each tenant, the soonest of each first: first the
        soonest row of each tenant, then the second of each, and so on. The order within a tenant may differ between
        kinds. ``Batch.left`` names the tenants of which more rows are due, and ``next_wake`` is not
        earlier because of rows without a quota.

        A claim that reaches the store after ``by`` claims nothing. It was delayed, for example by a stalled store, and
        its sender may have given it up.
        """

    async def queue_position(self, row: Row) -> tuple[int, bool]:
        """Return the place of a due row, from 1, among the due rows of its tenant and kind that no replica owns.

        The other value is False if more rows are before it than were counted (``COUNTED``, or fewer).
        """

    async def settle(self, replica: str, settlements: Sequence[Settlement]) -> Sequence[bool | None]:
        """Carry out each settlement whose row ``replica`` still owns at its version, and return False for the others.

        Each row is settled or refused on its own, together with its records. None: a client has locked the row, or
        keeps writing it, so it was left out. Settle it again soon.
        """

    async def claim_hooks(self, *, limit: int, lease: Micros, without: Sequence[str] = ()) -> list[HookCall]:
        """Claim up to ``limit`` calls of hooks that are due, for ``lease`` from now: then they are due again.

        Calls of the groups in ``without`` (``HookCall.group``) stay as they are, and do not hide others.
        """

    async def settle_hooks(self, ends: Sequence[HookEnd]) -> None:
        """Delete or delay these calls of hooks, unless they were claimed again since."""

    def renewer(self, replica: str) -> AbstractAsyncContextManager[Renewer]:
        """Return a renewer for the lease thread, to be opened, used and closed in that thread's own event loop."""

    async def announce(self, replica: ReplicaInfo, poll_at: Instant) -> bool:
        """Announce that this replica is alive and will poll by ``poll_at`` at the latest, without a notification.

        Clients notify only of rows that are due before the latest ``poll_at`` of all replicas. A replica that announces
        a later ``poll_at`` than before polls once after this call, because a client may have read the earlier one.
        Returns False if a client that has read it did not complete in time. Then poll soon, and announce again.
        """

    async def withdraw(self, replica: str) -> None:
        """Remove a replica that shuts down, with its presence and its locks."""

    async def lock(self, name: str, replica: str, length: Micros) -> bool:
        """Take or extend a lock of this installation for ``length`` from now; return False if another replica has it.

        It saves replicas from doing the same work, but does not guarantee that only one of them does it.
        """

    async def unlock(self, name: str, replica: str) -> None:
        """Release a lock; do nothing if another replica has it."""

    async def present(self, replica: str, cluster: str, namespaces: Sequence[str], lifetime: Micros) -> list[Presence]:
        """Announce for ``lifetime`` from now that this replica works for these namespaces (empty: all) of a cluster.

        Returns the other live replicas in this store that work for the same cluster, in this installation and others,
        whatever their namespaces, the earliest first. Of two replicas that call this at the same time, at least one
        sees the other. A replica that was silent for longer than its lifetime gets a new ``since``.
        """

    def listen(self, on_wake: Callable[[Wake], None]) -> AbstractAsyncContextManager[None]:
        """While open, call ``on_wake`` in this event loop for each notification.

        If the connection is lost, ``notifications_lost`` says so, and the store reconnects by itself.
        """

    async def prune(self, limit: int = 1000) -> int:
        """Drop at most ``limit`` runs that history no longer needs to keep, and as many tombstones that have expired.

        Returns the number of runs. Any number of replicas may call this at once; a store may let only one of them work.
        """


class Migrating(Protocol):
    """A store whose schema has versions."""

    async def migrate(self, *, finish: bool = False) -> list[str]:
        """Apply the migrations that older replicas can work with, and with ``finish`` the others too.

        Returns a description of each migration that was applied. With ``finish``, raises StoreError while an older
        replica is alive, and names it.
        """
