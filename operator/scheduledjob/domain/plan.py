"""Plans: a definition made ready to be asked for slots.

Parsing an expression costs more than a slot does, so what depends on the definition alone is made once and shared by
all its rows; what depends on the row (when it was created, what it is called) is bound for each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .definition import (
    AfterTrigger,
    AtTrigger,
    CronTrigger,
    Definition,
    EveryTrigger,
    ExcludeCron,
    FollowingTrigger,
)
from .instants import SECOND
from .triggers import At, Cron, Every

if TYPE_CHECKING:
    from .instants import Instant
    from .schedule import Slots
    from .triggers import Timetable


class Plan:
    """A definition and, where no row changes it, its timetable. Raises ``CronError`` for a wrong expression."""

    __slots__ = ("definition", "shared")

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.shared = None if _depends_on_row(definition) else _timetable(definition, "", 0)


def slots_of(plan: Plan, *, seed: str, created: Instant) -> Slots | None:
    """When a row with this plan fires; None: never by itself. ``seed`` spreads ``H``, ``created`` anchors intervals."""
    if not plan.definition.triggers:
        return None
    return plan.shared or _timetable(plan.definition, seed, created)


def _depends_on_row(definition: Definition) -> bool:
    return any(
        isinstance(trigger, AfterTrigger)
        or (isinstance(trigger, EveryTrigger) and trigger.anchor is None)
        or (isinstance(trigger, CronTrigger) and ("H" in trigger.expression or trigger.expression.startswith("@every")))
        for trigger in definition.triggers
    )


def _timetable(definition: Definition, seed: str, created: Instant) -> Timetable | None:
    raise NotImplementedError
