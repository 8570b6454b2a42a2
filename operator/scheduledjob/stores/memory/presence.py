"""What replicas of the memory store hold for a while: locks, and the word that they live.

Each method is called under the database's lock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from scheduledjob.engine.store import Presence

if TYPE_CHECKING:
    from scheduledjob.domain.time.instants import Instant


class Locks:
    """Of one installation: by name, who has it until when."""

    def __init__(self) -> None:
        self._taken: dict[str, tuple[str, Instant]] = {}

    def take(self, name: str, replica: str, now: Instant, until: Instant) -> bool:
        owner, ends = self._taken.get(name, (replica, now))
        if owner != replica and ends > now:
            return False
        self._taken[name] = (replica, until)
        return True

    def give_up(self, name: str, replica: str) -> None:
        if self._taken.get(name, ("", 0))[0] == replica:
            del self._taken[name]

    def forget(self, replica: str) -> None:
        self._taken = {name: taken for name, taken in self._taken.items() if taken[0] != replica}


@dataclass(slots=True)
class _Sign:
    cluster: str
    presence: Presence
    until: Instant


class Presences:
    """Of all installations of a database."""

    def __init__(self) -> None:
        self._signs: dict[tuple[str, str], _Sign] = {}

    def say(self, new: Presence, cluster: str, now: Instant, until: Instant) -> list[Presence]:
        """Write down the ``new`` one, which keeps its ``since`` while it lives; the others that it may be beside."""
        self._signs = {who: sign for who, sign in self._signs.items() if sign.until > now}
        who = (new.installation, new.replica)
        since = self._signs[who].presence.since if who in self._signs else new.since
        mine = Presence(new.installation, new.replica, new.namespaces, since)
        self._signs[who] = _Sign(cluster, mine, until)
        others = [sign.presence for its, sign in self._signs.items() if sign.cluster == cluster and its != who]
        return sorted(others, key=in_order)

    def forget(self, installation: str, replica: str) -> None:
        self._signs.pop((installation, replica), None)


def in_order(presence: Presence) -> tuple[Instant, str, str]:
    """Those that came first first, and always in one order."""
    return presence.since, presence.installation, presence.replica
