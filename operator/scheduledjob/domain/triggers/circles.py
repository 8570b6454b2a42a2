"""Finds jobs that follow each other in a circle. They would start each other for ever.

A circle is found when the last of its jobs becomes known. One that nobody sees (its jobs are in different stores, or it
is larger than what is searched) is cut when its runs have followed each other often enough (``followed_runs``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

K = TypeVar("K", bound="Hashable")

MAX_SEARCHED: Final = 200
"""Jobs that one search visits."""


class Follows(Generic[K]):
    """Which job follows which others."""

    def __init__(self) -> None:
        self._upstreams: dict[K, tuple[K, ...]] = {}

    def set(self, job: K, upstreams: Iterable[K]) -> None:
        """Set what a job follows. With nothing, it is forgotten."""
        followed = tuple(dict.fromkeys(upstreams))
        if followed:
            self._upstreams[job] = followed
        else:
            self._upstreams.pop(job, None)

    def circle(self, job: K) -> list[K]:
        """Return the shortest circle through a job, beginning and ending with it; empty if there is none.

        Each job in it is followed by the next.
        """
        follower: dict[K, K] = {}
        found = [job]
        for follows in found:
            if len(found) > MAX_SEARCHED:
                break
            for upstream in self._upstreams.get(follows, ()):
                if upstream == job:
                    path = [job, follows]
                    while path[-1] != job:
                        path.append(follower[path[-1]])
                    return path
                if upstream not in follower:
                    follower[upstream] = follows
                    found.append(upstream)
        return []


def words_of_circle(names: Sequence[str]) -> tuple[str, str]:
    """Return what is wrong with the jobs of a circle, and what to write instead."""
    message = f"jobs follow each other in a circle, so they would run for ever: {' -> '.join(names)}"
    return message, "remove the trigger following from one of them"
