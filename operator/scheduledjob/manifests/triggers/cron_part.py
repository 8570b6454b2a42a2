"""``cron`` and ``timeZone`` of a trigger in a manifest."""

from typing import ClassVar

from pydantic import Field

from scheduledjob.domain.triggers.cron import CronTrigger
from scheduledjob.domain.triggers.registry import Trigger

from ..base import CronExpression, TimeZone
from ..spanning_rules import AnyRule, only_with_any
from .trigger_part import TriggerPart


class CronPart(TriggerPart):
    """The slots of a cron expression."""

    key: ClassVar[str] = "cron"
    rules: ClassVar[tuple[AnyRule, ...]] = (only_with_any("timeZone", ("cron", "every")),)

    cron: CronExpression | None = Field(
        None,
        description="Cron expression: five fields as in Unix cron (minute hour day-of-month month day-of-week), or six "
        "or seven with seconds first and a year last; also @daily and its like.",
    )
    time_zone: TimeZone | None = Field(
        None,
        description="IANA name of the time zone in which `cron` is read, or in which the days and `at` of `every` are "
        "meant. Default: UTC.",
    )

    def to_stored(self) -> Trigger:
        """Return the expression in its time zone."""
        assert self.cron is not None
        return CronTrigger(self.cron, self.time_zone or "UTC")
