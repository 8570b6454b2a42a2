"""Exclude: an entry of ``spec.exclude``, the slots to leave out."""

from typing import ClassVar

from pydantic import Field

from scheduledjob.domain.schedule.definition import Exclude as StoredExclude
from scheduledjob.domain.schedule.definition import ExcludeCron, ExcludeWindow
from scheduledjob.domain.time.instants import Instant
from scheduledjob.domain.time.zones import midnight

from .. import checks
from ..base import CronExpression, InstantOrDate, Model, TimeZone
from ..spanning_rules import earlier, needed_unless, not_with
from .trigger_part import instant_of


class Exclude(Model):
    """Slots to leave out: those in a window, or those that match a cron expression."""

    one_of: ClassVar = ("from", "cron")
    rules: ClassVar = (
        not_with("to", "cron", message="can't be used with cron", advice="leave to out"),
        needed_unless(
            "to", "cron", message="is missing", advice="write the end of the window, which is not part of it"
        ),
        earlier(
            "from",
            "to",
            "timeZone",
            is_earlier=lambda exclude: exclude.window[0] < exclude.window[1],
            message="is not after from",
            advice="write a later end; for one day, write the date of the next day",
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
