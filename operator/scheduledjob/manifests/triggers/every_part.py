"""``every`` and ``anchor`` of a trigger in a manifest."""

from typing import ClassVar, Self

from pydantic import Field, model_validator

from scheduledjob.domain.time.durations import parse_duration
from scheduledjob.domain.triggers.every import EveryTrigger
from scheduledjob.domain.triggers.registry import Trigger

from .. import checks
from ..base import InstantText, PositiveDuration
from ..rules import Rule
from .trigger_part import TriggerPart, instant_of


class EveryPart(TriggerPart):
    """Slots at a fixed interval."""

    key: ClassVar[str] = "every"
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("has(self.every) || !has(self.anchor)", "goes with every only: leave it out", "anchor"),
    )

    every: PositiveDuration | None = Field(
        None, description="Interval such as 30s or 1h30m, at least 1s: slots are `anchor` plus its multiples."
    )
    anchor: InstantText | None = Field(
        None,
        description="Instant with an offset from which `every` counts. Default: the creation of the object.",
    )

    @model_validator(mode="after")
    def _check_anchor(self) -> Self:
        if self.anchor is not None and self.every is None:
            checks.refuse("goes with every only", "leave it out", "anchor")
        return self

    def to_stored(self) -> Trigger:
        """Return the interval and its anchor."""
        assert self.every is not None
        return EveryTrigger(parse_duration(self.every), None if self.anchor is None else instant_of(self.anchor))
