"""``every``, ``anchor`` and ``on`` of a trigger in a manifest, with the ``at`` and ``timeZone`` beside ``every``."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from scheduledjob.domain.time.durations import parse_interval
from scheduledjob.domain.triggers.calendar_days import TIME_PATTERN, WEEKDAYS, CalendarTrigger
from scheduledjob.domain.triggers.every import EveryTrigger
from scheduledjob.domain.triggers.registry import Trigger

from ..base import InstantText, Interval
from ..spanning_rules import AnyRule, matching_with, not_with, only_with, value_at
from .trigger_part import TriggerPart, instant_of

Weekdays = Annotated[
    list[Literal["MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN"]],
    Field(min_length=1, max_length=7),
]

_ON = ("on", "true")
_LOCAL = ("at", *_ON, "timeZone")
"""Keys that turn an interval into days or weeks of the local calendar."""


class EveryPart(TriggerPart):
    """Slots at a fixed interval, or every so many days or weeks at a local time."""

    key: ClassVar[str] = "every"
    rules: ClassVar[tuple[AnyRule, ...]] = (
        only_with("anchor", "every"),
        *(only_with(key, "every") for key in _ON),
        not_with("true", "on", message="is the same as on", advice="leave one of them out"),
        matching_with(
            "every",
            "^[0-9]+[dw]$",
            _LOCAL,
            message="must be whole days or weeks with at, on or timeZone",
            advice="write it like 3d or 2w, or leave at, on and timeZone out",
        ),
        matching_with(
            "every",
            "w$",
            _ON,
            message="must be in weeks with on",
            advice="write it like 1w or 2w, or leave on out",
        ),
        matching_with(
            "at",
            f"^{TIME_PATTERN}$",
            ("every",),
            message="must be a time of day with every",
            advice='write it like "09:00", or write the single run as another trigger',
        ),
    )

    every: Interval | None = Field(
        None,
        description="Interval such as 30s, 1h30m or 2w, at least 1s: slots are `anchor` plus its multiples. With `at`, "
        "`on` or `timeZone`: every so many days or weeks of the local calendar, such as 3d or 2w.",
    )
    anchor: InstantText | None = Field(
        None,
        description="Instant with an offset from which `every` counts. Default: the creation of the object.",
    )
    on: Weekdays | None = Field(
        None,
        description="Days of the week, with `every` in weeks. Weeks begin on Monday and count from the week of "
        "`anchor`. Default: the day of `anchor`.",
    )
    on_as_a_boolean: Weekdays | None = Field(
        None,
        alias="true",
        description="The same as `on`: YAML 1.1, which kubectl and Helm read, takes the key `on` without quotes for "
        "the boolean true.",
    )

    def to_stored(self) -> Trigger:
        """Return the interval, or the days and the time of day, and the anchor."""
        assert self.every is not None
        anchor = None if self.anchor is None else instant_of(self.anchor)
        if not any(value_at(self, key) is not None for key in _LOCAL):
            return EveryTrigger(parse_interval(self.every), anchor)
        # The fields of other parts: a trigger of a manifest has them all.
        at, zone = value_at(self, "at"), value_at(self, "timeZone")
        on = self.on or self.on_as_a_boolean or ()
        count, in_weeks = int(self.every[:-1]), self.every.endswith("w")
        return CalendarTrigger(
            weeks=count if in_weeks else 0,
            days=0 if in_weeks else count,
            on=tuple(day for day in WEEKDAYS if day in on),
            at=at,
            time_zone=zone or "UTC",
            anchor=anchor,
        )
