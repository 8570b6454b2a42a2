"""Plans: a definition with its triggers parsed, from which the slots of its rows follow.

Parsing an expression costs more than finding a slot. So what depends only on the definition is computed once and shared
by all its rows. What depends on the row (its creation time, its name) is bound for each row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scheduledjob.domain.triggers.cron import CronTrigger, cron_of
from scheduledjob.domain.triggers.timetable import Timetable, Window

from .definition import Definition, ExcludeCron

if TYPE_CHECKING:
    from scheduledjob.domain.time.instants import Instant

    from .misfire import Slots


class Plan:
    """A definition and, unless it depends on the row, its timetable. Raises ``CronError`` for an invalid expression."""

    __slots__ = ("definition", "shared")

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.shared = None if _depends_on_row(definition) else _timetable(definition, "", 0)


def slots_of(plan: Plan, *, seed: str, created: Instant) -> Slots | None:
    """Return the slots of a row with this plan; None if the definition has no triggers.

    The values of ``H`` follow from ``seed``. Intervals without an anchor count from ``created``.
    """
    if not plan.definition.triggers:
        return None
    return plan.shared or _timetable(plan.definition, seed, created)


def _depends_on_row(definition: Definition) -> bool:
    return any(trigger.depends_on_row for trigger in definition.triggers) or any(
        isinstance(excluded, ExcludeCron) and CronTrigger(excluded.expression).depends_on_row
        for excluded in definition.exclude
    )


def _timetable(definition: Definition, seed: str, created: Instant) -> Timetable:
    return Timetable(
        [trigger.bind(seed, created) for trigger in definition.triggers],
        [
            cron_of(excluded.expression, excluded.time_zone, seed)
            if isinstance(excluded, ExcludeCron)
            else Window(excluded.start, excluded.end)
            for excluded in definition.exclude
        ],
        definition.start_at,
        definition.end_at,
    )
