"""The store, as the engine needs it: what a row is, who may write which part of it, and what every store promises.

A *row* is one schedule. It has two parts with separate writers:

* the **wish** (slug, kind, definition, payload, ``first``, acts): written by clients through ``put``, ``reconcile``
  and ``delete``; each change raises ``revision`` and makes a row that nobody owns due at once, so that a replica
  reconciles it;
* the **state** (``State``, ``wake_at``, owner, version, result): written by the replica that owns the row, through
  ``settle``, which checks ``version`` and owner.

``wake_at`` is the one column that work is found by: when the row is due, or, while a replica owns it, when that
replica's lease ends. So a dead owner's row becomes due by itself. None: nothing to wake for.

What every store promises, under crash, pause, partition and clock error of any client:

* a row is claimed by at most one replica at a time; each claim raises ``version``;
* ``settle`` and ``renew`` change a row only for the owner at that version, and say for which rows they did not;
* a settlement and its history are written together or not at all;
* times compare with the store's own clock only.

A call that raises ``StoreUnavailable`` may or may not have been carried out, and may yet be, even after calls that were
sent later. Every call may be repeated: a repeated ``settle`` that was carried out the first time is refused the second
time and changes nothing.

All times are instants (microseconds, UTC) of the store's clock; lengths are microseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
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
"""How the store itself names a row: a new one for each incarnation of a slug."""


TOMBSTONE_KEPT: Micros = 7 * DAY
"""For how long at least a buried uid is not taken again."""


class StoreError(Exception):
    """Base of what a store raises."""


class StoreUnavailable(StoreError):
    """The store could not be reached or did not answer: try again; what was asked may have been done."""


class SlugTaken(StoreError, ValueError):
    """A slug is scheduled already."""

    def __init__(self, slugs: Sequence[str]) -> None:
        self.slugs = tuple(slugs)
        names = ", ".join(repr(slug) for slug in self.slugs[:5]) + (" ..." if len(self.slugs) > 5 else "")
        super().__init__(f"already scheduled: {names}; schedule it with replace=True to update it, or delete it first")


class Origin(StrEnum):
    """Who wrote the wish; ``run --prune`` ends only its own."""

    LIBRARY = "library"
    MANIFEST = "manifest"
    CLUSTER = "cluster"


@dataclass(slots=True)
class NewRow:
    """A wish, with the state that a new row starts from."""

    slug: str
    uid: str
    kind: str
    origin: Origin
    definition: str
    """``Definition.encode()``; empty for a kind whose definition is registered in code."""
    state: bytes
    """Of a new row (``State.encode()``); an existing row keeps its own."""
    wake_at: Instant | None
    """Of a new row. An existing row becomes due at once unless a replica owns it."""
    first: Instant | None = None
    """The slot to plan next, where the caller named one (``at=``, ``delay=``): reconciled into an existing row."""
    payload: bytes | None = None
    created_at: Instant = 0
    """Of a new row, by the writer's best knowledge of the store's clock; of an object in a cluster, its creation."""
    generation: int = 0
    """Of the object in a cluster that the wish was read from (from 1); 0 elsewhere."""
    requests: str = ""
    """``Requests.encode()``: what people ask of the schedule by hand; empty: nothing."""


class Put(Enum):
    """What became of a wish."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    """Asked again for what is there already: the same kind, definition, payload, acts and no ``first``."""
    STALE = "stale"
    """``reconcile`` only: the store knows better, and was left as it is."""


class Row(msgspec.Struct, gc=False):
    """A row as its claimer, or a reader, sees it. Positional order is the order of the stores' columns."""

    key: Key
    slug: str
    uid: str
    kind: str
    origin: str
    definition: str
    revision: int
    edited_at: Instant
    """When the wish last changed."""
    first: Instant | None
    payload: bytes | None
    result: bytes | None
    created_at: Instant
    version: int
    wake_at: Instant | None
    state: bytes
    recovered: bool = False
    """The claim took it from an owner whose lease had passed: what could have begun may have begun."""
    owner: str | None = None
    """For readers: who owns it now. For a claimer: itself."""
    generation: int = 0
    requests: str = ""


class Batch(msgspec.Struct, gc=False):
    """What a claim brought."""

    rows: list[Row]
    now: Instant
    """The store's clock, read between the sending of the claim and its answer."""
    next_wake: Instant | None
    """The earliest ``wake_at`` of this installation that is not due within ``ahead``; None: there is none. Where the
    batch is full it may be None although there is more: claim again."""
    late: bool = False
    """It was begun with too late, and took nothing."""


class Disposition(int, Enum):
    """What a settlement does to the ownership of its row."""

    KEEP = 0
    """Still mine: the state is saved, version goes up by one, the lease stays as it is."""
    RELEASE = 1
    """Nobody's: due at ``wake_at`` (None: never), or at once where the wish has changed since ``revision``."""
    REMOVE = 2
    """The schedule is done and its row goes, unless the wish has changed since ``revision``: then it is released,
    due at once, with the state given."""


class Settlement(msgspec.Struct, gc=False):
    """An owner's write."""

    key: Key
    version: int
    disposition: Disposition
    state: bytes
    wake_at: Instant | None
    revision: int
    """The revision of the wish that the state takes into account."""
    records: Sequence[RunRecord] = ()
    """Runs that ended, for history. One that history has already is left as it is."""
    payload: bytes | None = None
    """None: as it is."""
    result: bytes | None = None
    """None: as it is."""
    slug: str = ""
    """Of its row, to read it by where the answer to a KEEP got lost."""


@dataclass(slots=True)
class Renewal:
    """What a renewal found."""

    revisions: dict[Key, int]
    """Of each row that is still ours at the version given: the current revision of its wish."""


@dataclass(slots=True)
class Wake:
    """What a store tells a listening replica."""

    due: Instant | None = None
    """Something became due at this instant, earlier than the replica may know."""
    changed: Sequence[str] = ()
    """Slugs whose wish changed while a replica owned them, or that were deleted."""
    notifications_lost: bool = False
    """Notifications may have been missed, or do not work here: look now, and poll."""


@dataclass(slots=True)
class ReplicaInfo:
    """What a replica says of itself: for migrations, readiness and people. Ownership of rows never depends on it."""

    id: str
    """Unique for each start of a process."""
    program_version: str
    schema_version: int
    details: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True, frozen=True)
class Presence:
    """Another living replica that works for the same cluster."""

    installation: str
    replica: str
    namespaces: tuple[str, ...]
    """Those that it watches; empty: all."""
    since: Instant
    """When it first said so."""


class Renewer(Protocol):
    """Renews leases over a connection of its own, from the thread and event loop that opened it."""

    async def renew(self, held: Sequence[tuple[Key, int]], lease: Micros) -> Renewal:
        """Set ``wake_at = now + lease`` for each (key, version) that is still owned at that version.

        A row missing from the answer is owned no longer, deleted, or at another version.
        """


class Store(Protocol):
    """One installation in one store. Made from a URL, opened by ``connect`` in the event loop that uses it."""

    polls: bool
    """True where no notification can come (Firestore, a transaction pooler): then replicas look every
    ``poll_interval`` at least."""
    poll_interval: float
    """Seconds."""

    async def connect(self) -> None:
        """Open connections, bring the schema up to what this version needs, register the installation.

        Raises StoreUnavailable, or StoreError with what to do (for example ``scheduledjob migrate``).
        """

    async def close(self) -> None: ...

    async def now(self) -> Instant:
        """The store's clock, by one cheap round trip."""

    # ---- clients

    async def put(self, rows: Sequence[NewRow], *, replace: bool) -> list[Put]:
        """Write wishes, in few round trips, all or none. Their ``generation`` and ``requests`` count for nothing here.

        Without ``replace`` any slug that exists raises SlugTaken with those that do, and nothing is written. A
        slug twice in ``rows`` is a ValueError.
        """

    async def delete(self, slugs: Sequence[str]) -> list[bool]:
        """End schedules: the rows go, an owner is fenced by that, and each active run is recorded as Cancelled.

        False for a slug that is not there.
        """

    async def reconcile(self, rows: Sequence[NewRow]) -> list[Put]:
        """Write wishes that were read from objects of a cluster, all or none: what is older never wins.

        Any number of replicas do this with what they have seen, in any order, and again. Each row has a ``uid``, which
        is of one slug for good, and a ``generation``. A slug twice in ``rows`` is a ValueError. A row becomes:

        * STALE where that uid was buried, where the row has a later generation of the same uid, or where its slug is
          another uid's that was created at the same time or later, or is not a cluster's;
        * UPDATED where the row is of the same uid and anything differs (kind, definition, acts, generation; also where
          ``first`` is given). ``payload`` is written only with another generation, because a job may have changed it
          since;
        * CREATED where the slug is free, or where it is another uid's that was created earlier: that one is buried,
          and each of its active runs is recorded as Cancelled.
        """

    async def tombstone(self, identities: Sequence[tuple[str, str]]) -> list[bool]:
        """End the schedules of these (slug, uid) as ``delete`` does; a slug that is another uid's stays.

        Whether a row was there (True) or not, ``reconcile`` takes none of these uids any more for as long as history
        is kept at the longest (``TOMBSTONE_KEPT`` at least).
        """

    async def touch(self, slugs: Sequence[str]) -> None:
        """Have these rows looked at as if their wish had changed: due at once where nobody owns them.

        ``revision`` goes up and ``edited_at`` does not. A slug that is not there is passed over.
        """

    async def get(self, slugs: Sequence[str]) -> list[Row | None]: ...

    async def rows(self, *, origin: Origin | None = None, after: str = "", limit: int = 1000) -> list[Row]:
        """A page of rows in order of slug, those greater than ``after``."""

    async def clear(self, origin: Origin | None = None) -> int:
        """Delete every schedule (of one origin), as ``delete`` does; how many there were."""

    async def history(
        self, slug: str | None = None, *, uid: str | None = None, before: Instant | None = None, limit: int = 100
    ) -> list[RunRecord]:
        """Ended runs, the newest (by ``finished``) first; with ``uid``, beside ``slug``, those of one incarnation."""

    async def recorded(self, run_ids: Sequence[str]) -> set[str]:
        """Those of the runs that history has."""

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
        """Own up to ``limit`` rows with ``wake_at <= now + ahead`` whose kind is one of ``kinds``, soonest first.

        Each gets ``wake_at = now + lease`` and a raised version. A row that is owned is taken only when its lease
        has passed (``wake_at <= now``, not ahead of that). Rows of other kinds stay as they are; however many of
        them are due, they don't keep known kinds from being found.

        A claim that is begun with after ``by`` takes nothing: it was held back on its way, by a store that stood still
        for example, and who sent it may wait no more.
        """

    async def settle(self, replica: str, settlements: Sequence[Settlement]) -> list[bool]:
        """Carry out each settlement whose row is still owned by ``replica`` at its version; False for the others.

        The rows may be many; each is settled or refused on its own, together with its records.
        """

    def renewer(self, replica: str) -> AbstractAsyncContextManager[Renewer]:
        """For the lease thread: opened, used and closed in that thread's own event loop."""

    async def announce(self, replica: ReplicaInfo, looks_at: Instant) -> None:
        """This replica lives, and looks at the store by ``looks_at`` at the latest without being told to.

        Clients notify only of what is due before the latest such promise. A replica that promises a later look
        than before looks once more after this returns, because a client may have read the earlier promise.
        """

    async def withdraw(self, replica: str) -> None:
        """This replica ends in order; its presence and its locks go with it."""

    async def lock(self, name: str, replica: str, length: Micros) -> bool:
        """Take, or keep, a lock of this installation until ``length`` from now by the store's clock; False: another
        replica has it. For chores that one replica at a time should do, never for what must not happen twice."""

    async def unlock(self, name: str, replica: str) -> None:
        """Give up a lock; nothing where it is another's."""

    async def present(self, replica: str, cluster: str, namespaces: Sequence[str], lifetime: Micros) -> list[Presence]:
        """This replica lives until ``lifetime`` from now, and works for these namespaces (empty: all) of a cluster.

        Returns the other living replicas in this store that work for the same cluster, of this installation and of
        others, whatever their namespaces are, those that came first first. Of two that do this at once, at least one
        sees the other. One that was silent for longer than its lifetime has come anew.
        """

    def listen(self, on_wake: Callable[[Wake], None]) -> AbstractAsyncContextManager[None]:
        """While open, ``on_wake`` is called in this event loop for what clients tell; losing the connection is told
        by ``notifications_lost`` and mended from inside."""

    async def prune(self, limit: int = 1000) -> int:
        """Drop history beyond what its records say to keep, at most ``limit`` runs; how many went. And forget as many
        of the buried uids that may be taken again.

        Safe from any number of replicas at once; a store may let one of them do it.
        """


class Migrating(Protocol):
    """A store whose schema has versions."""

    async def migrate(self, *, finish: bool = False) -> list[str]:
        """Apply the halves that older replicas can live with, in words of what was done; with ``finish`` the rest.

        ``finish`` raises StoreError while an older replica lives, and names it.
        """
