"""Planted bugs of zone data and of restored stores."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from scheduledjob.domain.schedule import due
from scheduledjob.domain.schedule.restore import restored_state
from scheduledjob.engine import zone_refresh

from . import backups

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scheduledjob.domain.schedule.schedule import Schedule
    from scheduledjob.domain.time.instants import Instant


@contextmanager
def zones_are_refreshed_once() -> Iterator[None]:
    """Rows are read once for each release of the zone data, whatever replicas with older data do to them later."""
    with patch.object(zone_refresh, "from_seconds", lambda seconds: 10**15):
        yield


@contextmanager
def new_zones_replay_the_past() -> Iterator[None]:
    """With newer zone data, the slots are decided anew from the creation on."""
    plan = due.plan_by_own_zones

    def from_the_start(schedule: Schedule, now: Instant, *, named: bool) -> str:
        version = schedule.state.zones
        if version and version < due.ZONE_DATA.version:  # type: ignore[attr-defined]
            schedule.state.decided_until -= 30_000_000
        return plan(schedule, now, named=named)

    with patch.object(due, "plan_by_own_zones", from_the_start):
        yield


@contextmanager
def status_is_not_compared() -> Iterator[None]:
    """A row from a backup counts, although the status of its object has more history."""
    with patch.object(backups, "is_older", lambda state, told: False):
        yield


@contextmanager
def restored_runs_start_anew() -> Iterator[None]:
    """A run that may have started before the store was restored is started as the same attempt."""

    def as_after_a_clean_end(*arguments: Any, **options: Any) -> Any:
        return restored_state(*arguments, **(options | {"clean_shutdown": True}))

    with patch.object(backups, "restored_state", as_after_a_clean_end):
        yield
