"""Exclude: one entry of ``spec.exclude``, the slots to leave out."""

from typing import ClassVar, Self

from pydantic import Field, model_validator

from scheduledjob.domain.schedule.definition import Exclude as StoredExclude
from scheduledjob.domain.schedule.definition import ExcludeCron, ExcludeWindow
from scheduledjob.domain.time.instants import Instant
from scheduledjob.domain.time.zones import midnight

from .. import checks
from ..base import CronExpression, InstantOrDate, Model, TimeZone
from ..rules import Rule, window_is_open
from .trigger_part import instant_of


class Exclude(Model):
    """Slots to leave out: those in a window, or those that match a cron expression."""

    one_of: ClassVar = ("from", "cron")
    rules: ClassVar = (
        Rule("!has(self.cron) || !has(self.to)", "goes with from only: leave it out", "to"),
        Rule(
            "has(self.cron) || has(self.to)",
            "is missing: a window needs both from and to; write to: the end, exclusive",
            "to",
        ),
        Rule(
            f"!has(self.from) || !has(self.to) || {window_is_open('self.from', 'self.to', 'self.timeZone')}",
            "is not after from: to is exclusive, for one day write the date of the next day",
            "to",
        ),
    )

    from_: InstantOrDate | None = Field(
        None,
        alias="from",
        description="Beginning of the window, inclusive: an instant with an offset, or a date, which is its midnight "
        "in `timeZone`.",
    )
    to: InstantOrDate | None = Field(
        None,
        description="End of the window, exclusive: an instant with an offset, or a date, which is its midnight in "
        "`timeZone`.",
    )
    cron: CronExpression | None = Field(None, description="Cron expression: slots that it matches are left out.")
    time_zone: TimeZone | None = Field(
        None, description="IANA name of the time zone of the dates or of `cron`. Default: UTC."
    )

    @model_validator(mode="after")
    def _check_window(self) -> Self:
        if self.cron is not None and self.to is not None:
            checks.refuse("goes with from only", "leave it out", "to")
        if self.cron is None and self.to is None:
            checks.refuse("is missing: a window needs both from and to", "write to: the end, exclusive", "to")
        window = self.window
        if window is not None and window[0] >= window[1]:
            checks.refuse("is not after from", "to is exclusive: for one day, write the date of the next day", "to")
        return self

    def to_stored(self) -> StoredExclude:
        """Return what the engine stores."""
        window = self.window
        if window is not None:
            return ExcludeWindow(*window)
        assert self.cron is not None
        return ExcludeCron(self.cron, self.time_zone or "UTC")

    @property
    def window(self) -> tuple[Instant, Instant] | None:
        """Beginning and end of the window; None for an expression."""
        if self.from_ is None or self.to is None:
            return None
        return self._instant(self.from_), self._instant(self.to)

    def _instant(self, text: str) -> Instant:
        day = checks.parse_day(text)
        return instant_of(text) if day is None else midnight(day, self.time_zone or "UTC")
