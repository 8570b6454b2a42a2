"""``every`` and ``anchor`` of a trigger in a manifest."""

from typing import ClassVar

from pydantic import Field

from scheduledjob.domain.time.durations import parse_duration
from scheduledjob.domain.triggers.every import EveryTrigger
from scheduledjob.domain.triggers.registry import Trigger

from ..base import InstantText, PositiveDuration
from ..spanning_rules import AnyRule, only_with
from .trigger_part import TriggerPart, instant_of


class EveryPart(TriggerPart):
    """Slots at a fixed interval."""

    key: ClassVar[str] = "every"
    rules: ClassVar[tuple[AnyRule, ...]] = (only_with("anchor", "every"),)

    every: PositiveDuration | None = Field(
        None, description="Interval such as 30s or 1h30m, at least 1s: slots are `anchor` plus its multiples."
    )
    anchor: InstantText | None = Field(
        None,
        description="Instant with an offset from which `every` counts. Default: the creation of the object.",
    )

    def to_stored(self) -> Trigger:
        """Return the interval and its anchor."""
        assert self.every is not None
        return EveryTrigger(parse_duration(self.every), None if self.anchor is None else instant_of(self.anchor))
