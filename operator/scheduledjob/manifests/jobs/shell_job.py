"""``shell`` of a job in a manifest."""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from scheduledjob.engine.executor import Value
from scheduledjob.jobs.shell.shell_spec import ShellSpec

from .. import checks
from ..base import AbsolutePath, Model, Text
from ..problems import quoted
from ..sources import EnvironmentVariable
from .job_part import JobPart, short, value_of

if TYPE_CHECKING:
    from ..policies import CompleteOn


class Shell(Model):
    """A command for a shell."""

    command: Annotated[Text, Field(min_length=1)] = Field(
        description="The command, run as `shell -c command`; the payload is on its standard input."
    )
    shell: AbsolutePath | None = Field(None, description="Absolute path of the shell. Default: /bin/sh.")
    env: list[EnvironmentVariable] | None = Field(
        None,
        max_length=256,
        description="Environment variables in addition to those that every run gets.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    working_dir: AbsolutePath | None = Field(
        None, description="Absolute path of the directory in which the command starts."
    )

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        first: dict[str, int] = {}
        for index, variable in enumerate(self.env or ()):
            if variable.name in first:
                checks.refuse(
                    f"{quoted(variable.name)} is given twice, first as env[{first[variable.name]}]",
                    "leave one out",
                    "env",
                    index,
                    "name",
                )
            first[variable.name] = index
        return self


class ShellPart(JobPart):
    """The key ``shell``."""

    key: ClassVar[str] = "shell"

    shell: Shell | None = Field(None, description="Run a shell command.")

    def to_stored(self, complete_on: "CompleteOn | None", namespace: str) -> tuple[str, Any]:
        """Return the kind and the stored job."""
        assert self.shell is not None
        return "shell", short(_shell_spec(self.shell, complete_on, namespace))


def _shell_spec(shell: Shell, complete_on: "CompleteOn | None", namespace: str) -> ShellSpec:
    spec = ShellSpec(
        shell.command,
        working_dir=shell.working_dir,
        env={
            variable.name: Value(variable.value)
            if variable.value_from is None
            else value_of(variable.value_from, namespace)
            for variable in shell.env or ()
        },
        complete_exit_codes=frozenset((complete_on.exit_codes if complete_on is not None else None) or ()),
    )
    if shell.shell is not None:
        spec.shell = shell.shell
    return spec
