"""Where values come from: the manifest itself, or a key of a Secret or ConfigMap."""

from typing import Annotated, ClassVar

from pydantic import AfterValidator, ConfigDict, Field

from . import checks
from .base import ENVIRONMENT_NAME_PATTERN, DataKey, Model, Name, Text
from .rules import Rule, stated


def qualified(namespace: str, name: str) -> str:
    """Return the name of a Secret or ConfigMap in a definition."""
    return f"{namespace}/{name}"


class KeySelector(Model):
    """One key of a Secret or ConfigMap in the job's namespace."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-map-type": "atomic"})

    name: Name = Field(description="Name of the Secret or ConfigMap, in the job's namespace.")
    key: DataKey = Field(description="Key of the value.")
    optional: bool | None = Field(
        None, description="Whether the Secret or ConfigMap, or its key, may be missing. Default: false."
    )


class ValueFrom(Model):
    """A value from a Secret or ConfigMap."""

    one_of: ClassVar = ("secretKeyRef", "configMapKeyRef")

    secret_key_ref: KeySelector | None = Field(None, description="Take the value from a Secret.")
    config_map_key_ref: KeySelector | None = Field(None, description="Take the value from a ConfigMap.")


class SecretValue(Model):
    """A value that must come from a Secret."""

    secret_key_ref: KeySelector = Field(description="The Secret and the key that hold the value.")


class EnvironmentVariable(Model):
    """An environment variable of the job."""

    one_of: ClassVar = ("value", "valueFrom")

    name: Annotated[
        str,
        Field(min_length=1, max_length=256, pattern=ENVIRONMENT_NAME_PATTERN),
        AfterValidator(checks.environment_name),
        stated(
            Rule(
                "!self.startsWith('SCHEDULEDJOB_')",
                "begins with SCHEDULEDJOB_, which is reserved: choose another name",
            )
        ),
    ] = Field(description="Name of the variable. Names that begin with SCHEDULEDJOB_ are reserved.")
    value: Text | None = Field(None, description="The value itself.")
    value_from: ValueFrom | None = Field(None, description="Take the value from a Secret or ConfigMap.")
