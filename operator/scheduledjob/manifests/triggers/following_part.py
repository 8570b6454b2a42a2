"""``following`` of a trigger in a manifest."""

from typing import ClassVar, Literal

from pydantic import Field

from scheduledjob.domain.triggers.following import FollowingTrigger
from scheduledjob.domain.triggers.registry import Trigger

from ..base import JobName, Model
from .trigger_part import TriggerPart


class FollowingModel(Model):
    """The end of another job's run as a trigger."""

    name: JobName = Field(description="Name of the ScheduledJob, in the same namespace, whose runs are followed.")
    outcome: Literal["Succeeded", "Failed", "Cancelled"] | None = Field(
        None, description="How a run of that job must end for this job to run. Default: Succeeded."
    )


class FollowingPart(TriggerPart):
    """A run whenever a run of another job ends."""

    key: ClassVar[str] = "following"

    following: FollowingModel | None = Field(None, description="Runs whenever a run of another ScheduledJob ends.")

    def to_stored(self) -> Trigger:
        """Return the name of the other job, and the outcome that counts."""
        assert self.following is not None
        return FollowingTrigger(self.following.name, self.following.outcome or "Succeeded")
