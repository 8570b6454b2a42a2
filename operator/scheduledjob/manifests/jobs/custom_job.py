"""``custom`` of a job in a manifest."""

from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, model_validator

from scheduledjob.jobs.job_registry import BUILT_IN

from .. import checks
from ..base import KIND_PATTERN, Model
from ..problems import listed
from ..spanning_rules import not_one_of
from .job_part import JobPart

if TYPE_CHECKING:
    from ..policies import CompleteOn


_OWN_KEYS = tuple(kind.name for kind in BUILT_IN.values() if not kind.custom)
"""Kinds that have a key of their own in ``spec.job``."""


class Custom(Model):
    """A Python job that is registered under a name; `print` is built in."""

    rules: ClassVar = (
        not_one_of(
            "kind",
            _OWN_KEYS,
            message="is built in",
            advice=f"write {listed([f'job.{kind}' for kind in _OWN_KEYS])} instead of job.custom",
        ),
    )

    kind: str = Field(
        min_length=1, max_length=63, pattern=KIND_PATTERN, description="Name under which the job is registered."
    )
    params: dict[str, Any] | None = Field(
        None,
        max_length=1024,
        description="Parameters for the job: any fields.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )

    @model_validator(mode="after")
    def _check_params(self) -> Self:
        built_in = BUILT_IN.get(self.kind)
        if built_in is not None and built_in.text_params is not None:
            for name, value in (self.params or {}).items():
                if name not in built_in.text_params:
                    only = f"{listed(built_in.text_params)} is the only one"
                    checks.refuse(f"{self.kind} has no such parameter", only, "params", name)
                if not isinstance(value, str):
                    checks.refuse("must be text", 'put it in quotes ("...")', "params", name)
        return self


class CustomPart(JobPart):
    """The key ``custom``."""

    key: ClassVar[str] = "custom"

    custom: Custom | None = Field(None, description="Run a registered Python job.")

    def to_stored(self, complete_on: "CompleteOn | None", namespace: str) -> tuple[str, Any]:
        """Return the kind and the stored job."""
        assert self.custom is not None
        return self.custom.kind, self.custom.params
