"""The kinds of triggers. ``Trigger`` has a line for each kind, and is the only list of them in the domain.

``stored_trigger`` says what a kind must have. The manifest side of each kind is in ``scheduledjob.manifests.triggers``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from .calendar_days import Calendar, CalendarTrigger
from .cron import Cron, CronTrigger
from .every import Every, EveryTrigger
from .following import FollowingTrigger
from .manual import ManualTrigger
from .once import AfterTrigger, At, AtTrigger

if TYPE_CHECKING:
    from collections.abc import Sequence

Trigger: TypeAlias = (
    CronTrigger
    | EveryTrigger
    | CalendarTrigger
    | AtTrigger
    | AfterTrigger
    | FollowingTrigger
    | ManualTrigger
)  # fmt: skip
"""A trigger as the store keeps it. Messages list the kinds in this order."""


def spec_of(trigger: Cron | Every | Calendar | At) -> Trigger:
    """Return a trigger of the library as a definition stores it."""
    if not isinstance(trigger, Cron | Every | Calendar | At):
        raise TypeError(f"trigger is {type(trigger).__name__}: give Cron(...), Every(...), Calendar(...) or At(...)")
    return trigger.stored()


def runs_only_by_hand(triggers: Sequence[Trigger]) -> bool:
    """Whether no trigger ever starts a run by itself."""
    return all(isinstance(trigger, ManualTrigger) for trigger in triggers)
