"""What a scenario hands to the checker: the desired schedules, the events, the records and the states."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from scheduledjob.domain.triggers.cron import CronTrigger
from scheduledjob.domain.triggers.following import FollowingTrigger

if TYPE_CHECKING:
    from scheduledjob.domain.schedule.definition import Definition
    from scheduledjob.domain.schedule.requests import Requests
    from scheduledjob.domain.schedule.state import RunRecord, State
    from scheduledjob.domain.time.instants import Instant

    from .strikes import Strikes
    from .world import Event


@dataclass(slots=True)
class DesiredState:
    """One schedule that the scenario made, for the checker."""

    slug: str
    uid: str
    definition: Definition
    created: Instant
    first: Instant | None
    edited: bool = False
    deleted: bool = False
    resumed: bool = False
    generation: int = 0
    """0: it is not an object in a cluster."""
    requests: list[Requests] = field(default_factory=list)
    """The manual requests on the object, oldest first."""
    named: int = 0
    """How often a client has named another slot, with this number as the payload."""

    @property
    def detached(self) -> bool:
        return self.definition.kind == "pod"

    @property
    def expression(self) -> str:
        """The cron expression, in a time zone, that it has; empty if it has none."""
        (trigger,) = self.definition.triggers or (None,)
        return trigger.expression if isinstance(trigger, CronTrigger) else ""

    @property
    def follows(self) -> str:
        """The slug of the schedule that it follows; empty if it follows none."""
        (trigger,) = self.definition.triggers or (None,)
        return f"default/{trigger.name}" if isinstance(trigger, FollowingTrigger) else ""


@dataclass(slots=True)
class Restore:
    """The store was restored from a backup."""

    backed_up_at: Instant
    told_at: Instant = 0
    """Up to when the status of the objects knows what happened."""
    restored_at: Instant = 0
    """0: not yet."""
    clean: bool = False
    """The operators had shut down cleanly, so status was complete."""
    known: set[str] = field(default_factory=set)
    """Runs whose end the status knows."""
    told_attempts: dict[str, int] = field(default_factory=dict)
    """The attempts of the runs that status lists as active, by run."""
    unchanged: set[str] = field(default_factory=set)
    """Schedules whose status knows nothing that the backup lacks, by uid, although the operators were killed."""
    handled: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The requests that the status lists as handled, by uid."""
    replaced: dict[str, set[str]] = field(default_factory=dict)
    """The tokens of runs that somebody had requested, and that their objects do not have any more, by uid."""
    lost_records: list[RunRecord] = field(default_factory=list)
    """Records that the store had before, and that the backup lacks."""
    lost_uids: set[str] = field(default_factory=set)
    """Schedules of the library that the backup lacks."""


@dataclass(slots=True)
class History:
    """Everything that the checker sees."""

    seed: int
    events: list[Event]
    desired_rows: list[DesiredState]
    records: list[RunRecord]
    states: dict[str, State]
    """The states of the schedules that exist at the end, by uid."""
    trouble_ended: Instant
    ended: Instant
    failures: list[str]
    strikes: Strikes
    restore: Restore | None
    zone_data: str
    """The release that every replica has after the faults."""
    zoned_states: dict[str, State]
    """The states of schedules in a time zone when all replicas had the newest data for a while, by uid."""
