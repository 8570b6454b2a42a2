"""Stats: what a replica has in its hands at one moment, in numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Stats:
    held: int = 0
    """Rows, whatever for."""
    ahead: int = 0
    """Rows of which nothing runs: claimed a little before their time."""
    executing: int = 0
    """Attempts."""
    detached: int = 0
    """Those of them that live outside the replica."""
    waiting: int = 0
    """Runs that wait behind another of their schedule."""
    retrying: int = 0
    """Runs in backoff. Where it is long their row is not held."""
