"""Leases: which rows this replica holds, until when, and what to do about it now.

This is the pure step of lease keeping. A thread of its own drives it (``lease_thread.py``), because an event loop that
a job blocks must not cost the replica its leases; the simulation drives the same step with a fake clock. It answers
three questions: which leases to renew now, which runs must be stopped because their lease is about to pass, and
whether the event loop has been silent for so long that the replica counts as wedged and is to be given up.

A lease's end is measured from *before* the claim or renewal was sent, on the monotonic clock, so it is never later
here than in the store. Jobs are stopped ``margin`` before that, so that they are dead when another replica may
start them.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from .store import Key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .store import Renewal

WEDGED_AFTER = 60.0
"""Seconds without a sign of life of the event loop after which its leases are no longer renewed."""


def no_bound() -> float:
    """Leases are bounded by their length alone."""
    return math.inf


class Lease(msgspec.Struct, eq=False, gc=False):
    key: Key
    version: int
    deadline: float
    """Monotonic seconds."""
    run_ids: tuple[str, ...] = ()
    """Attempts that run under it."""
    unsettled: bool = False
    """A settlement is on its way that may change the version: a renewal that misses the row proves nothing."""


@dataclass(slots=True)
class Renewed:
    """What came of one renewal, for whoever runs the jobs."""

    lost: list[Key] = field(default_factory=list)
    """Held no longer: stop what runs under them."""
    edited: list[tuple[Key, int]] = field(default_factory=list)
    """Rows and the current revision of their wish."""
    extended: list[str] = field(default_factory=list)
    """Attempts whose deadline moved to ``deadline``."""
    deadline: float = 0.0


class Leases:
    """The leases of one replica. Safe for use from the event loop and the lease thread at once."""

    def __init__(self, length: float, until: Callable[[], float] = no_bound) -> None:
        """``until``: monotonic seconds beyond which none of them reaches, as it stands when asked. A store that is
        this process's own memory gives leases to whoever asks; then something else says whether others may run the
        same jobs."""
        self.length = length
        """Seconds."""
        self._until = until
        self.margin = min(length * 0.2, 3.0)
        self.tick = length / 12
        """How often to step, in seconds."""
        self.wedged = False
        self._leases: dict[Key, Lease] = {}
        self._beat = 0.0
        self._lock = threading.Lock()

    # ---- told by the event loop

    def beat(self, now: float) -> None:
        """The event loop is alive."""
        self._beat = now
        self.wedged = False

    def hold(self, key: Key, version: int, deadline: float) -> Lease:
        lease = Lease(key, version, min(deadline, self._until()))
        with self._lock:
            self._leases[key] = lease
        return lease

    def drop(self, lease: Lease) -> None:
        with self._lock:
            if self._leases.get(lease.key) is lease:
                del self._leases[lease.key]

    def drop_key(self, key: Key) -> None:
        with self._lock:
            self._leases.pop(key, None)

    def settling(self, lease: Lease) -> None:
        with self._lock:
            lease.unsettled = True

    def settled(self, lease: Lease, version: int) -> None:
        with self._lock:
            lease.version, lease.unsettled = version, False

    # ---- asked by the lease thread

    def to_renew(self, now: float) -> list[tuple[Key, int]]:
        """Rows whose lease is a third gone. Nothing when the event loop is wedged: then its leases run out."""
        if now - self._beat > WEDGED_AFTER:
            self.wedged = True
            return []
        soon = now + self.length * 2 / 3
        with self._lock:
            return [(lease.key, lease.version) for lease in self._leases.values() if lease.deadline <= soon]

    def renewed(self, asked: Sequence[tuple[Key, int]], answer: Renewal, sent: float) -> Renewed:
        """Take in the store's answer to a renewal that was sent at ``sent``."""
        result = Renewed(deadline=min(sent + self.length, self._until()))
        with self._lock:
            for key, version in asked:
                lease = self._leases.get(key)
                if lease is None:
                    continue
                revision = answer.revisions.get(key)
                if revision is not None:
                    lease.deadline = result.deadline
                    result.edited.append((key, revision))
                    result.extended.extend(lease.run_ids)
                elif lease.version == version and not lease.unsettled:
                    del self._leases[key]
                    result.lost.append(key)
        return result

    def expired(self, now: float) -> list[Key]:
        """Leases about to pass, ``margin`` before they do; they are held no longer."""
        with self._lock:
            keys = [lease.key for lease in self._leases.values() if lease.deadline - self.margin <= now]
            for key in keys:
                del self._leases[key]
        return keys

    def keys(self) -> Iterable[Key]:
        with self._lock:
            return list(self._leases)
