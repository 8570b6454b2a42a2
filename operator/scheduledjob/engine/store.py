"""The store as the engine uses it. ``stored_row.py`` has the row, and what is written of it.

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

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Protocol

import msgspec

from scheduledjob.domain.time.instants import DAY, Instant, Micros

from .stored_row import HookCall, HookEnd, Key, NewRow, Origin, Row, Settlement

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager

    from scheduledjob.domain.schedule.state import RunRecord

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


class Put(Enum):
    """The result of writing a desired state."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    """The row has this kind, definition, payload and requests already, and no ``first`` was given. Nothing is written,
    except by ``put`` to a library schedule that a replica owns: that is UPDATED (see there)."""
    STALE = "stale"
    """``reconcile`` only: the store knows something newer, so nothing was written."""


class Quotas(msgspec.Struct, gc=False):
    """How many rows of each tenant a claim takes at most."""

    tenants: dict[str, int]
    others: int
    """For each tenant that ``tenants`` does not name."""

    def of(self, tenant: str) -> int:
        return self.tenants.get(tenant, self.others)


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
    row_limit: int | None
    """How many bytes payload, result, definition and state of a row may have together; None: any number."""

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

        With ``replace``, a library schedule that a replica owns gets a new ``revision`` even if nothing differs. A run
        that is active may be about to complete it or to leave another payload, and the caller wants it to go on as
        written. ``edited_at`` and ``first`` stay then, because they belong to a revision that is known already.

        Without ``replace``, raises SlugTaken with the slugs that exist already. Raises ValueError if a slug occurs
        twice in ``rows``.
        """

    async def delete(self, slugs: Sequence[str], *, ends_runs: bool = True) -> list[bool]:
        """Delete schedules. That fences their owners, and each active run is recorded as Cancelled.

        Without ``ends_runs``, nothing is recorded, because the schedules are created again and their runs go on.
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
