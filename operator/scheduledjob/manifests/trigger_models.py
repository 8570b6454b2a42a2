"""When a job runs: its triggers, and what is left out of them."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from scheduledjob.domain.time.instants import Instant, to_instant
from scheduledjob.domain.time.zones import midnight

from . import checks
from .base import CronExpression, Duration, InstantOrDate, InstantText, JobName, Model, PositiveDuration, TimeZone
from .rules import Rule, window_is_open


class Following(Model):
    """The end of another job's run as a trigger."""

    name: JobName = Field(description="Name of the ScheduledJob, in the same namespace, whose runs are followed.")
    outcome: Literal["Succeeded", "Failed", "Cancelled"] | None = Field(
        None, description="How a run of that job must end for this job to run. Default: Succeeded."
    )


class Trigger(Model):
    """One rule that gives slots; the job's slots are the union of those of all its triggers."""

    one_of: ClassVar = ("cron", "every", "at", "after", "following")
    rules: ClassVar = (
        Rule("has(self.cron) || !has(self.timeZone)", "goes with cron only: leave it out", "timeZone"),
        Rule("has(self.every) || !has(self.anchor)", "goes with every only: leave it out", "anchor"),
    )

    cron: CronExpression | None = Field(
        None,
        description="Cron expression: five fields as in Unix cron (minute hour day-of-month month day-of-week), or six "
        "or seven with seconds first and a year last; also @daily and its like.",
    )
    time_zone: TimeZone | None = Field(
        None, description="IANA name of the time zone in which `cron` is read. Default: UTC."
    )
    every: PositiveDuration | None = Field(
        None, description="Interval such as 30s or 1h30m, at least 1s: slots are `anchor` plus its multiples."
    )
    anchor: InstantText | None = Field(
        None,
        description="Instant with an offset from which `every` counts. Default: the creation of the object.",
    )
    at: InstantText | None = Field(
        None, description="Instant of a single run, with an offset, such as 2026-12-01T10:00:00Z."
    )
    after: Duration | None = Field(
        None, description="A single run, that long after the creation of the object, such as 5m."
    )
    following: Following | None = Field(None, description="Runs whenever a run of another ScheduledJob ends.")

    @model_validator(mode="after")
    def _check_companions(self) -> Self:
        if self.time_zone is not None and self.cron is None:
            checks.refuse("goes with cron only", "leave it out", "timeZone")
        if self.anchor is not None and self.every is None:
            checks.refuse("goes with every only", "leave it out", "anchor")
        return self


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

    @property
    def window(self) -> tuple[Instant, Instant] | None:
        """Beginning and end of the window; None for an expression."""
        if self.from_ is None or self.to is None:
            return None
        return self._instant(self.from_), self._instant(self.to)

    def _instant(self, text: str) -> Instant:
        day = checks.parse_day(text)
        return to_instant(checks.parse_instant(text)) if day is None else midnight(day, self.time_zone or "UTC")
