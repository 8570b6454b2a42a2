"""Presence in the memory store: locks, and which replicas are alive and work for which cluster.

Call each method under the database's lock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from scheduledjob.engine.store import Presence

if TYPE_CHECKING:
    from scheduledjob.domain.time.instants import Instant, Micros


class Locks:
    """The locks of one installation: by name, which replica has the lock and until when."""

    def __init__(self) -> None:
        self._taken: dict[str, tuple[str, Instant]] = {}

    def take(self, name: str, replica: str, now: Instant, until: Instant) -> bool:
        owner, ends = self._taken.get(name, (replica, now))
        if owner != replica and ends > now:
            return False
        self._taken[name] = (replica, until)
        return True

    def move(self, jump: Micros) -> None:
        self._taken = {name: (owner, ends + jump) for name, (owner, ends) in self._taken.items()}

    def release(self, name: str, replica: str) -> None:
        if self._taken.get(name, ("", 0))[0] == replica:
            del self._taken[name]

    def forget(self, replica: str) -> None:
        self._taken = {name: taken for name, taken in self._taken.items() if taken[0] != replica}


@dataclass(slots=True)
class _Announced:
    cluster: str
    presence: Presence
    until: Instant


class Presences:
    """The announced presences of all installations of a database."""

    def __init__(self) -> None:
        self._announced: dict[tuple[str, str], _Announced] = {}

    def announce(self, new: Presence, cluster: str, now: Instant, until: Instant) -> list[Presence]:
        """Store a presence, and return the others of the same cluster. A live replica keeps its ``since``."""
        self._announced = {who: entry for who, entry in self._announced.items() if entry.until > now}
        me = (new.installation, new.replica)
        since = self._announced[me].presence.since if me in self._announced else new.since
        mine = Presence(new.installation, new.replica, new.namespaces, since)
        self._announced[me] = _Announced(cluster, mine, until)
        others = [entry.presence for who, entry in self._announced.items() if entry.cluster == cluster and who != me]
        return sorted(others, key=_order)

    def move(self, jump: Micros) -> None:
        for announced in self._announced.values():
            announced.until += jump

    def forget(self, installation: str, replica: str) -> None:
        self._announced.pop((installation, replica), None)


def _order(presence: Presence) -> tuple[Instant, str, str]:
    """The earliest first; replicas of the same instant by name."""
    return presence.since, presence.installation, presence.replica
