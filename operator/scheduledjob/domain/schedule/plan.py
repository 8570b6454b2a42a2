"""Plans: a definition made ready to be asked for slots.

Parsing an expression costs more than a slot does, so what depends on the definition alone is made once and shared by
all its rows; what depends on the row (when it was created, what it is called) is bound for each.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from scheduledjob.domain.time.instants import SECOND, Instant, from_seconds, to_datetime, to_instant
from scheduledjob.domain.triggers.cron import Cron
from scheduledjob.domain.triggers.every import Every
from scheduledjob.domain.triggers.once import At, Following
from scheduledjob.domain.triggers.timetable import Bound, Timetable, Window

from .definition import (
    AfterTrigger,
    AtTrigger,
    CronTrigger,
    Definition,
    EveryTrigger,
    ExcludeCron,
    FollowingTrigger,
    Trigger,
)

if TYPE_CHECKING:
    from .misfire import Slots


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


def spec_of(trigger: Cron | Every | At) -> Trigger:
    """A trigger of the library as a definition has it."""
    if isinstance(trigger, Cron):
        return CronTrigger(trigger.expression, trigger.time_zone, trigger.seed)
    if isinstance(trigger, Every):
        return EveryTrigger(
            from_seconds(trigger.seconds), None if trigger.anchor is None else to_instant(trigger.anchor)
        )
    if isinstance(trigger, At):
        return AtTrigger(trigger.instant)
    raise TypeError(f"trigger is {type(trigger).__name__}: give Cron(...), Every(...) or At(...)")


def _depends_on_row(definition: Definition) -> bool:
    return any(
        isinstance(trigger, AfterTrigger)
        or (isinstance(trigger, EveryTrigger) and trigger.anchor is None)
        or (isinstance(trigger, CronTrigger) and _cron_depends_on_row(trigger.expression, trigger.seed))
        for trigger in definition.triggers
    ) or any(isinstance(one, ExcludeCron) and _cron_depends_on_row(one.expression, "") for one in definition.exclude)


def _cron_depends_on_row(expression: str, seed: str) -> bool:
    expression = expression.lstrip().upper()
    return ("H" in expression and not seed) or expression.startswith("@EVERY")


def _timetable(definition: Definition, seed: str, created: Instant) -> Timetable:
    return Timetable(
        [_bound(trigger, seed, created) for trigger in definition.triggers],
        [
            _cron(one.expression, one.time_zone, seed) if isinstance(one, ExcludeCron) else Window(one.start, one.end)
            for one in definition.exclude
        ],
        definition.start_at,
        definition.end_at,
    )


def _bound(trigger: Trigger, seed: str, created: Instant) -> Bound:
    if isinstance(trigger, CronTrigger):
        return _cron(trigger.expression, trigger.time_zone, trigger.seed or seed).bind(created)
    if isinstance(trigger, EveryTrigger):
        anchor = None if trigger.anchor is None else to_datetime(trigger.anchor)
        return Every(trigger.every // SECOND, anchor).bind(created)
    if isinstance(trigger, FollowingTrigger):
        return Following(trigger.name, trigger.outcome)
    # A slot lies after the creation, were it by the shortest time there is: what is not after the floor is decided.
    instant = trigger.at if isinstance(trigger, AtTrigger) else created + max(trigger.after, 1)
    return At(to_datetime(instant))


@lru_cache(maxsize=10_000)
def _cron(expression: str, time_zone: str, seed: str) -> Cron:
    return Cron(expression, time_zone, seed=seed if "H" in expression.upper() else "")
