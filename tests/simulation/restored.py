"""What the checker expects of a store that was restored from a backup.

Status knows up to ``told_at`` what happened to an object. What it knows to have ended is not repeated, and what it
knows to have started goes on as a later attempt. What happened afterwards, and everything that a schedule of the
library did after the backup, may be repeated: nobody knows of it. An attempt that was not stored before the operators
were killed is not in status either. If status knows nothing else that the backup lacks, the row goes on as it is, and
the attempt may be repeated.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scheduledjob.domain.schedule.requests import Requests
    from scheduledjob.domain.schedule.state import RunRecord
    from scheduledjob.domain.time.instants import Instant

    from .history import DesiredState, History, Restore
    from .world import Event


@dataclass(slots=True)
class Lifetime:
    """One process, from its start to its end."""

    start: Event
    end: Event | None = None

    @property
    def until(self) -> Instant:
        return self.end.at if self.end is not None else 1 << 62


def parts(lifetimes: list[Lifetime], restore: Restore | None) -> list[list[Lifetime]]:
    """Return the processes from before and from after the restore. Fencing tokens start anew with the store."""
    if restore is None:
        return [lifetimes]
    before = [lifetime for lifetime in lifetimes if lifetime.start.at <= restore.restored_at]
    return [before, [lifetime for lifetime in lifetimes if lifetime.start.at > restore.restored_at]]


def known_until(desired: DesiredState, restore: Restore) -> Instant:
    """Return up to when somebody knows what this schedule did before the restore."""
    return restore.told_at if desired.generation else restore.backed_up_at


def known(lifetimes: list[Lifetime], desired: DesiredState, restore: Restore | None) -> list[Lifetime]:
    """Return the processes that somebody knows of after the restore."""
    if restore is None:
        return lifetimes
    until = known_until(desired, restore)
    return [
        lifetime
        for lifetime in lifetimes
        if not until < lifetime.start.at <= restore.restored_at and not _is_untold(lifetime.start, restore)
    ]


def _is_untold(start: Event, restore: Restore) -> bool:
    """Whether status does not mention an attempt that started after the backup, and the row went on as it was."""
    if start.uid not in restore.unchanged or not restore.backed_up_at < start.at <= restore.restored_at:
        return False
    return start.run_id not in restore.known and start.attempt > restore.told_attempts.get(start.run_id, 0)


def repeated(lifetimes: list[Lifetime], desired: DesiredState, restore: Restore | None) -> list[str]:
    """What is known to have ended is not repeated, and what is known to have started has another attempt."""
    if restore is None or desired.deleted:  # a deleted object's row is back until the sweep finds it
        return []
    wrong = []
    attempts: dict[str, int] = defaultdict(int)
    ended = restore.known - {record.run_id for record in unknown(restore.lost_records, desired, restore)}
    for lifetime in known(lifetimes, desired, restore):
        start = lifetime.start
        if start.at <= restore.restored_at:
            attempts[start.run_id] = max(attempts[start.run_id], start.attempt)
        elif start.run_id in ended:
            wrong.append(f"repeated: {start.run_id} started again, and its end was known")
        elif start.attempt <= attempts[start.run_id]:
            wrong.append(f"repeated: {start.run_id} started again as attempt {start.attempt}")
    return wrong


def unknown(lost: list[RunRecord], desired: DesiredState, restore: Restore | None) -> list[RunRecord]:
    """Return the lost records of this schedule whose runs are not known to have ended."""
    if restore is None:
        return []
    mine = [record for record in lost if record.uid == desired.uid]
    return [record for record in mine if record.run_id not in restore.known] if desired.generation else mine


def outlasted(events: list[Event], restore: Restore | None) -> list[Event]:
    """Return the events that the store remembers."""
    if restore is None:
        return events
    return [event for event in events if not restore.backed_up_at <= event.at <= restore.restored_at]


def is_lost(desired: DesiredState, history: History) -> bool:
    """Whether the schedule was gone after the restore, and nobody made it again."""
    return history.restore is not None and desired.uid in history.restore.lost_uids


def forgotten(made: Requests, desired: DesiredState, history: History) -> bool:
    """Whether only the lost store knew of a request by hand: a newer one had replaced it on the object, and status did
    not list it as handled yet."""
    restore = history.restore
    if restore is None or f"run-now/{made.run}" in restore.handled.get(desired.uid, ()):
        return False
    return made.run in restore.replaced.get(desired.uid, ())
