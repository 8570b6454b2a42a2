"""``container`` of a job in a manifest."""

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from scheduledjob.jobs.container.pod_spec import ContainerSpec, PodSpec

from ..base import Image, Model, Text
from .job_part import JobPart, short

if TYPE_CHECKING:
    from ..policies import CompleteOn


class Container(Model):
    """A container of its own, run as a Pod."""

    image: Image = Field(description="Image of the container.")
    command: list[Text] | None = Field(
        None, min_length=1, max_length=256, description="Entry point, instead of the image's."
    )
    args: list[Text] | None = Field(None, max_length=256, description="Arguments, instead of the image's.")


class ContainerPart(JobPart):
    """The key ``container``."""

    key: ClassVar[str] = "container"

    container: Container | None = Field(None, description="Run a container, always as a Pod.")

    def to_stored(self, complete_on: "CompleteOn | None", namespace: str) -> tuple[str, Any]:
        """Return the kind and the stored job."""
        assert self.container is not None
        container = self.container
        spec = PodSpec(
            ContainerSpec(container.image, container.command, container.args or None),
            complete_exit_codes=frozenset((complete_on.exit_codes if complete_on is not None else None) or ()),
        )
        return "container", short(spec)
