"""What this replica knows of the objects of the cluster: as little as it can do with, because there may be 100,000.

The cluster has the objects and the store has the schedules; here is what joins them, by uid: what an object is
called, which version of it was seen last, and what its status said then. It is filled by the watch, by the sweep and
by the answers to our own writes, in any order; the newest resourceVersion wins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from scheduledjob.kube.report.status import Begun, Since, begun_of, since_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class ObservedObject(msgspec.Struct, gc=False):
    """One object as it was seen last."""

    slug: str
    uid: str
    generation: int
    version: str
    """Its resourceVersion."""
    since: Since
    begun: Begun
    """Of the runs that were active then."""
    engine: str
    """``status.engine``."""
    observed_generation: int
    """``status.observedGeneration``."""
    desired: tuple[int, str] = (0, "")
    """The generation, and what was asked for (``asked_of``), that was taken from it, by this replica's knowledge."""


class KnownObjects:
    """The objects that exist, as far as this replica knows."""

    def __init__(self) -> None:
        self._by_uid: dict[str, ObservedObject] = {}
        self._uid_of: dict[str, str] = {}
        """By slug: of the incarnation that was seen last."""
        self._follows: dict[str, list[str]] = {}
        """By slug: the slugs of what it follows."""
        self._followers: dict[str, set[str]] = {}
        self._invalid: set[str] = set()
        """Slugs."""

    def __len__(self) -> int:
        return len(self._by_uid)

    @property
    def invalid(self) -> int:
        return len(self._invalid)

    @property
    def overdue(self) -> int:
        """By what their status says."""
        return sum(observed.since.get("Overdue", _NEVER)[0] == "True" for observed in self._by_uid.values())

    def is_invalid(self, slug: str) -> bool:
        return slug in self._invalid

    def get(self, uid: str) -> ObservedObject | None:
        return self._by_uid.get(uid)

    def uid_of(self, slug: str) -> str | None:
        return self._uid_of.get(slug)

    def uids(self) -> list[str]:
        return list(self._by_uid)

    def saw(self, body: Mapping[str, Any]) -> ObservedObject:
        """Take in an object as the API server gave it; what is known of it now."""
        metadata = body["metadata"]
        uid, version = metadata["uid"], metadata["resourceVersion"]
        known = self._by_uid.get(uid)
        if known is not None and _is_newer(known.version, version):
            return known
        status = body.get("status") or {}
        observed = ObservedObject(
            f"{metadata['namespace']}/{metadata['name']}",
            uid,
            metadata["generation"],
            version,
            since_of(status.get("conditions") or ()),
            begun_of(status.get("active") or ()),
            status.get("engine") or "",
            status.get("observedGeneration") or 0,
            known.desired if known is not None else (0, ""),
        )
        self._by_uid[uid] = observed
        self._uid_of[observed.slug] = uid
        return observed

    def understood(self, uid: str, slug: str, desired: tuple[int, str], follows: Sequence[str], *, valid: bool) -> None:
        """What was found when an object was read, and what the store has taken from it."""
        if (observed := self._by_uid.get(uid)) is not None:
            observed.desired = desired
        self._forget_follows(slug)
        if follows:
            self._follows[slug] = list(follows)
            for upstream in follows:
                self._followers.setdefault(upstream, set()).add(slug)
        (self._invalid.discard if valid else self._invalid.add)(slug)

    def gone(self, uids: Iterable[str]) -> None:
        """These objects are no more."""
        for uid in uids:
            observed = self._by_uid.pop(uid, None)
            if observed is not None and self._uid_of.get(observed.slug) == uid:
                del self._uid_of[observed.slug]
                self._forget_follows(observed.slug)
                self._invalid.discard(observed.slug)

    def followers(self, slug: str) -> list[str]:
        """The slugs of the schedules that follow this one."""
        return sorted(self._followers.get(slug, ()))

    def _forget_follows(self, slug: str) -> None:
        for upstream in self._follows.pop(slug, ()):
            followers = self._followers[upstream]
            followers.discard(slug)
            if not followers:
                del self._followers[upstream]


_NEVER = ("False", "")


def _is_newer(one: str, other: str) -> bool:
    """Resource versions are numbers that grow, with every API server whose storage is etcd (KEP 5504)."""
    return one.isdigit() and other.isdigit() and int(one) > int(other)
