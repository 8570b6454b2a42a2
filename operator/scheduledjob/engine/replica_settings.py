"""What a user may set of a replica, and what the parts of a replica share."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from scheduledjob.domain.time.durations import in_seconds, is_number

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .clock import Clock, StoreClock
    from .kinds import JobKind
    from .observer import Observer
    from .store import Store


@dataclass(slots=True, frozen=True)
class ReplicaSettings:
    """Settings of one replica. All times are seconds; the defaults suit production."""

    heartbeat: float = 60.0
    """The longest time between two polls of the store. A shorter one costs queries, and helps only if notifications
    get lost."""
    jitter: float = 0.0
    """The heartbeat is shortened by a random part of this, so that replicas don't poll at the same time."""
    lease: float = 15.0
    """How long the rows of a dead replica stay its own. A shorter lease means quicker recovery, more renewals, and less
    tolerance of a slow store."""
    ahead: float = 1.0
    """How long before it is due a row is claimed. Must cover the slowest answer of the store. If the replica dies, a
    row that it claimed ahead waits for the lease."""
    capacity: int = 4096
    """How many rows a replica owns at once, claimed ahead and running."""
    batch: int = 500
    """How many rows one claim takes at most. More is quicker for a backlog; less delays running jobs less."""
    grace: float = 8.0
    """How long running attempts may continue at shutdown before they are stopped and their rows released."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in {"jitter", "grace"} else 1 if field.type == "int" else 0.001
            if (
                not is_number(value)
                or not math.isfinite(value)
                or value < least
                or (field.type == "int" and value != int(value))
            ):
                hint = "" if isinstance(value, int | float) else in_seconds(value)
                what = "a whole number" if field.type == "int" else "a number of seconds"
                raise ValueError(f"{field.name} of {value!r:.60} is not allowed: {what}, at least {least:g}{hint}")


@dataclass(slots=True, frozen=True)
class ReplicaContext:
    """What the parts of one replica share."""

    store: Store
    replica: str
    """The replica's id: the owner of its rows."""
    kinds: Mapping[str, JobKind]
    settings: ReplicaSettings
    clock: StoreClock
    monotonic: Clock
    observer: Observer
