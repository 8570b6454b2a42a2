"""``manual`` of a trigger in a manifest."""

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from scheduledjob.domain.triggers.manual import ManualTrigger
from scheduledjob.domain.triggers.registry import Trigger

from .. import checks
from ..rules import Rule, stated
from .trigger_part import TriggerPart


def _only_true(value: bool) -> bool:
    if not value:
        checks.refuse("false is not allowed", "write manual: true, or another trigger in its place")
    return value


class ManualPart(TriggerPart):
    """No slots: the job runs only by hand."""

    key: ClassVar[str] = "manual"

    manual: (
        Annotated[
            bool,
            AfterValidator(_only_true),
            stated(Rule("self", "false is not allowed: write manual: true, or another trigger in its place")),
        ]
        | None
    ) = Field(None, description="Always true: the job has no slots from this trigger and can be run by hand.")

    def to_stored(self) -> Trigger:
        """Return the trigger, which has no values."""
        return ManualTrigger()
