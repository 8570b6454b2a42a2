"""``at`` and ``after`` of a trigger in a manifest: a single slot."""

from typing import ClassVar

from pydantic import Field

from scheduledjob.domain.time.durations import parse_duration
from scheduledjob.domain.triggers.calendar_days import TIME_PATTERN
from scheduledjob.domain.triggers.once import AfterTrigger, AtTrigger
from scheduledjob.domain.triggers.registry import Trigger

from ..base import Duration, InstantOrTime
from ..spanning_rules import AnyRule, not_matching_unless
from .trigger_part import TriggerPart, instant_of


class AtPart(TriggerPart):
    """One slot at an instant."""

    key: ClassVar[str] = "at"

    rules: ClassVar[tuple[AnyRule, ...]] = (
        not_matching_unless(
            "at",
            f"^{TIME_PATTERN}$",
            "every",
            message="is a time of day without every",
            advice='write an instant with its offset, as in "2026-12-01T10:00:00Z", or add every, as in every: 1d',
        ),
    )

    at: InstantOrTime | None = Field(
        None,
        description="Instant of a single run, with an offset, such as 2026-12-01T10:00:00Z. With `every`, the local "
        "time of day in `timeZone`, HH:MM or HH:MM:SS. Default with `every`: that of `anchor`.",
    )

    def to_stored(self) -> Trigger:
        """Return the instant."""
        assert self.at is not None
        return AtTrigger(instant_of(self.at))


class AfterPart(TriggerPart):
    """One slot, at a delay after the creation of the object."""

    key: ClassVar[str] = "after"

    after: Duration | None = Field(
        None, description="A single run, that long after the creation of the object, such as 5m."
    )

    def to_stored(self) -> Trigger:
        """Return the delay."""
        assert self.after is not None
        return AfterTrigger(parse_duration(self.after))
