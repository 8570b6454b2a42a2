"""What this replica knows of the ScheduledJobs in the cluster.

It keeps only what connects an object in the cluster with its schedule in the store, because there may be 100,000
objects: by uid the name, the last version, and what the status said. The watch, the sweep and the answers to our own
writes update it in any order; the newest resourceVersion wins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from scheduledjob.domain.schedule.definition import Keep
from scheduledjob.domain.triggers.circles import Follows
from scheduledjob.kube.report.status import Begun, Since, begun_of, since_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class ObservedObject(msgspec.Struct, gc=False):
    """An object as it was last seen."""

    slug: str
    uid: str
    generation: int
    version: str
    """Its resourceVersion."""
    since: Since
    begun: Begun
    """When the runs began that were active then."""
    engine: str
    """``status.engine``."""
    observed_generation: int
    """``status.observedGeneration``."""
    reconciled: tuple[int, str] = (0, "")
    """The generation and the ``requests_key`` that this replica has brought into the store."""
    keep: Keep | None = None
    """Its ``history`` when it was last valid; None: this replica has not seen it valid yet."""


class KnownObjects:
    """The objects that exist, as far as this replica knows."""

    def __init__(self) -> None:
        self._by_uid: dict[str, ObservedObject] = {}
        self._uid_of: dict[str, str] = {}
        """By slug: the uid of the newest object of that name."""
        self._follows: dict[str, list[str]] = {}
        """By slug: the slugs of the schedules that it follows."""
        self._followers: dict[str, set[str]] = {}
        self._circles = Follows[str]()
        self._invalid: set[str] = set()
        """Slugs of the objects that the operator can't run."""

    def __len__(self) -> int:
        return len(self._by_uid)

    @property
    def invalid(self) -> int:
        return len(self._invalid)

    @property
    def overdue(self) -> int:
        """The number of objects whose status says that they are overdue."""
        return sum(observed.since.get("Overdue", _NEVER)[0] == "True" for observed in self._by_uid.values())

    def is_invalid(self, slug: str) -> bool:
        return slug in self._invalid

    def get(self, uid: str) -> ObservedObject | None:
        return self._by_uid.get(uid)

    def keep_of(self, slug: str, uid: str) -> Keep | None:
        """Return how much history an object keeps; None if there is none of this name and uid, or it is not known."""
        observed = self._by_uid.get(uid)
        return observed.keep if observed is not None and observed.slug == slug else None

    def namespace_of(self, uid: str) -> str:
        """Return the namespace of an object; empty if it is not known."""
        observed = self._by_uid.get(uid)
        return "" if observed is None else observed.slug.partition("/")[0]

    def uid_of(self, slug: str) -> str | None:
        return self._uid_of.get(slug)

    def uids(self) -> list[str]:
        return list(self._by_uid)

    def update(self, body: Mapping[str, Any]) -> ObservedObject:
        """Remember an object as the API server returned it. Return the newest version that is known."""
        metadata = body["metadata"]
        uid, version = metadata["uid"], metadata["resourceVersion"]
        known = self._by_uid.get(uid)
        if known is not None and is_newer(known.version, version):
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
            known.reconciled if known is not None else (0, ""),
            known.keep if known is not None else None,
        )
        self._by_uid[uid] = observed
        self._uid_of[observed.slug] = uid
        return observed

    def set_reconciled(
        self,
        uid: str,
        slug: str,
        reconciled: tuple[int, str],
        follows: Sequence[str],
        *,
        valid: bool,
        keep: Keep | None = None,
    ) -> None:
        """Remember that the store has this version of an object, what it follows, and whether it can be run.

        ``keep``: its history; None: it is invalid, so what was known of its history stays.
        """
        if (observed := self._by_uid.get(uid)) is not None:
            observed.reconciled = reconciled
            observed.keep = keep or observed.keep
        self._forget_follows(slug)
        if follows:
            self._follows[slug] = list(follows)
            for upstream in follows:
                self._followers.setdefault(upstream, set()).add(slug)
        (self._invalid.discard if valid else self._invalid.add)(slug)

    def remove(self, uids: Iterable[str]) -> None:
        """Forget objects that were deleted."""
        for uid in uids:
            observed = self._by_uid.pop(uid, None)
            if observed is not None and self._uid_of.get(observed.slug) == uid:
                del self._uid_of[observed.slug]
                self._forget_follows(observed.slug)
                self._circles.set(observed.slug, ())
                self._invalid.discard(observed.slug)

    def circle(self, slug: str, follows: Sequence[str]) -> list[str]:
        """Return the circle that this schedule closes if it follows these. Then it counts as following nothing."""
        self._circles.set(slug, follows)
        if circle := self._circles.circle(slug):
            self._circles.set(slug, ())
        return circle

    def followers(self, slug: str) -> list[str]:
        """Return the slugs of the schedules that follow this schedule."""
        return sorted(self._followers.get(slug, ()))

    def _forget_follows(self, slug: str) -> None:
        for upstream in self._follows.pop(slug, ()):
            followers = self._followers[upstream]
            followers.discard(slug)
            if not followers:
                del self._followers[upstream]


_NEVER = ("False", "")


def is_newer(known: str, other: str) -> bool:
    """Compare two resourceVersions. They are growing numbers in every API server that stores in etcd (KEP 5504)."""
    return known.isdigit() and other.isdigit() and int(known) > int(other)
