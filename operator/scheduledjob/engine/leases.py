"""Leases: until when this replica owns which rows, and what to do about it now.

``Leases`` does no I/O. A separate thread uses it (``lease_thread.py``), so that a job that blocks the event loop does
not cost the replica its leases. The simulation uses it with a fake clock. It answers three questions: which leases to
renew now, which are about to expire so that their attempts must stop, and whether the event loop has been silent for so
long that the replica counts as wedged.

The length of a lease is counted on the monotonic clock from *before* the claim or renewal was sent. So a lease never
ends later here than in the store. Attempts are stopped ``margin`` seconds earlier, so that they have ended before
another replica may start them.

A job in Python may block the event loop, and nothing can stop it then but the end of the process. So its lease is
renewed for as long as it runs: nobody else may start it meanwhile. The replica counts as wedged after a minute. It says
which job blocks it, gives up the rows of which nothing runs, and is not alive any more, so that whoever watches the
process may end it.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from .stored_row import Key
from .timing import FENCE_LIMIT, WEDGED_AFTER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .store import Renewal


def no_bound() -> float:
    """Return infinity, for leases that end only when their own time is over."""
    return math.inf


class Lease(msgspec.Struct, eq=False, gc=False):
    """The lease of one row."""

    key: Key
    version: int
    deadline: float
    """Monotonic seconds."""
    run_ids: tuple[str, ...] = ()
    """Attempts that run under it."""
    unsettled: bool = False
    """A settlement is in flight and may change the version, so a renewal that does not find the row proves nothing."""


@dataclass(slots=True)
class Renewed:
    """The result of one renewal."""

    lost: list[Key] = field(default_factory=list)
    """Rows that this replica no longer owns: stop their attempts."""
    revisions: list[tuple[Key, int]] = field(default_factory=list)
    """Rows that were renewed, each with the current revision of its desired state."""
    extended: list[str] = field(default_factory=list)
    """Attempts whose deadline moved to ``deadline``."""
    deadline: float = 0.0


class Leases:
    """The leases of one replica. Safe for use from the event loop and the lease thread at once."""

    def __init__(self, length: float, until: Callable[[], float] = no_bound) -> None:
        """``until`` returns the monotonic second at which every lease ends at the latest.

        It is needed for a store in memory, which can't exclude other processes. There, for example, a Lease in the
        cluster decides which process may run the jobs.
        """
        self.length = length
        """Seconds."""
        self._until = until
        self.margin = min(length * 0.2, 3.0)
        self.tick = length / 12
        """Seconds between two steps of the lease thread."""
        self.wedged = False
        self._leases: dict[Key, Lease] = {}
        self._beat = 0.0
        self._overdue: dict[str, float] = {}
        """By run id: attempts under leases that have expired since the last beat, and until when they must stop."""
        self._renew_all = False
        self._lock = threading.Lock()

    # ---- called by the event loop

    def beat(self, now: float) -> None:
        """The event loop is alive."""
        self._beat = now
        self.wedged = False
        if self._overdue:
            self._overdue = {}

    def clock_jumped(self) -> None:
        """The store's clock was set, so the leases may be over there: renew all of them, or find out that they are."""
        self._renew_all = True

    def add(self, key: Key, version: int, deadline: float) -> Lease:
        """Add the lease of a claimed row, which ends at ``deadline`` (monotonic seconds)."""
        lease = Lease(key, version, min(deadline, self._until()))
        with self._lock:
            self._leases[key] = lease
        return lease

    def drop(self, lease: Lease) -> None:
        with self._lock:
            if self._leases.get(lease.key) is lease:
                del self._leases[lease.key]

    def drop_key(self, key: Key) -> Lease | None:
        with self._lock:
            return self._leases.pop(key, None)

    def settling(self, lease: Lease) -> None:
        """A settlement of the row is about to be sent."""
        lease.unsettled = True  # before the write is sent, so no renewal can see the version of the write without this

    def settled(self, lease: Lease, version: int) -> None:
        """The store carried out the settlement, and the row has this version now."""
        with self._lock:
            lease.version, lease.unsettled = version, False

    # ---- called by the lease thread

    def to_renew(self, now: float) -> list[tuple[Key, int]]:
        """Return the rows (with versions) whose lease has used up a third of its length; all after ``clock_jumped``.

        If the event loop is wedged, rows without running attempts are left out: another replica can start them.
        """
        self.wedged = wedged = now - self._beat > WEDGED_AFTER
        soon = math.inf if self._renew_all else now + self.length * 2 / 3
        self._renew_all = False
        with self._lock:
            return [
                (lease.key, lease.version)
                for lease in self._leases.values()
                if lease.deadline <= soon and (lease.run_ids or not wedged)
            ]

    def renewed(self, requested: Sequence[tuple[Key, int]], answer: Renewal, sent: float) -> Renewed:
        """Apply the store's answer to a renewal that was sent at ``sent`` (monotonic seconds)."""
        result = Renewed(deadline=min(sent + self.length, self._until()))
        with self._lock:
            for key, version in requested:
                lease = self._leases.get(key)
                if lease is None:
                    continue
                revision = answer.revisions.get(key)
                if revision is not None:
                    lease.deadline = result.deadline
                    result.revisions.append((key, revision))
                    result.extended.extend(lease.run_ids)
                elif lease.version == version and not lease.unsettled and key not in answer.busy:
                    del self._leases[key]
                    result.lost.append(key)
        return result

    def expired(self, now: float) -> list[Key]:
        """Drop the leases that expire within ``margin`` seconds, and return their keys."""
        with self._lock:
            keys = [lease.key for lease in self._leases.values() if lease.deadline - self.margin <= now]
            for key in keys:
                lease = self._leases.pop(key)
                stop_by = max(lease.deadline, now + FENCE_LIMIT)
                self._overdue.update(dict.fromkeys(lease.run_ids, stop_by))
        return keys

    def outlived(self, run_id: str, now: float) -> bool:
        """Return whether an attempt should have stopped by now, and the event loop has not run since to stop it.

        True once for each attempt.
        """
        overdue = self._overdue
        return overdue.get(run_id, math.inf) <= now and overdue.pop(run_id, None) is not None

    def keys(self) -> Iterable[Key]:
        with self._lock:
            return list(self._leases)
