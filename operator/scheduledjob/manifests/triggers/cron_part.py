"""``cron`` and ``timeZone`` of a trigger in a manifest."""

from typing import ClassVar, Self

from pydantic import Field, model_validator

from scheduledjob.domain.triggers.cron import CronTrigger
from scheduledjob.domain.triggers.registry import Trigger

from .. import checks
from ..base import CronExpression, TimeZone
from ..rules import Rule
from .trigger_part import TriggerPart


class CronPart(TriggerPart):
    """The slots of a cron expression."""

    key: ClassVar[str] = "cron"
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("has(self.cron) || !has(self.timeZone)", "goes with cron only: leave it out", "timeZone"),
    )

    cron: CronExpression | None = Field(
        None,
        description="Cron expression: five fields as in Unix cron (minute hour day-of-month month day-of-week), or six "
        "or seven with seconds first and a year last; also @daily and its like.",
    )
    time_zone: TimeZone | None = Field(
        None, description="IANA name of the time zone in which `cron` is read. Default: UTC."
    )

    @model_validator(mode="after")
    def _check_time_zone(self) -> Self:
        if self.time_zone is not None and self.cron is None:
            checks.refuse("goes with cron only", "leave it out", "timeZone")
        return self

    def to_stored(self) -> Trigger:
        """Return the expression in its time zone."""
        assert self.cron is not None
        return CronTrigger(self.cron, self.time_zone or "UTC")
