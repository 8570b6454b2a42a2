"""Settings of one replica. Lengths are seconds; the defaults suit production."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from scheduledjob.domain.time.durations import in_seconds, is_number


@dataclass(slots=True, frozen=True)
class ReplicaSettings:
    heartbeat: float = 60.0
    """The longest sleep without a look at the store. Shorter costs queries; only a lost notification needs it."""
    jitter: float = 0.0
    """By how much replicas spread that look, so that many of them don't look at once."""
    lease: float = 15.0
    """How long a dead replica's rows stay its own. Shorter: quicker take-over, more renewals, less patience with a
    slow store."""
    ahead: float = 1.0
    """How long before its time a slot is claimed. It has to cover the store's slowest answer; what is claimed by a
    replica that dies waits for the lease."""
    capacity: int = 4096
    """How many rows a replica holds at once, claimed ahead and running."""
    batch: int = 500
    """How many rows one claim takes at most: more is quicker for a backlog, less is kinder to what runs beside it."""
    grace: float = 8.0
    """How long a stop lets runs finish before it ends them and hands them back."""

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
