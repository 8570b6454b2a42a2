"""The resource: a ScheduledJob in a manifest, and the Secrets and ConfigMaps that a file may hold for it."""

import base64
import binascii
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from scheduledjob.jobs.built_in_kind import Place
from scheduledjob.jobs.job_registry import BUILT_IN
from scheduledjob.resource_names import API_VERSION, KIND

from . import checks
from .base import (
    JOB_NAME_LIMIT,
    NO_NUL,
    DataKey,
    Duration,
    InstantText,
    JobName,
    Model,
    Name,
    Namespace,
    PositiveDuration,
)
from .jobs.curl_job import Hook
from .jobs.job_model import JobModel
from .policies import CompleteOn, Execution, HistoryModel, MisfireModel, Retry, TimeoutsModel
from .rules import Rule, stated
from .sources import ValueFrom
from .spanning_rules import no_item_with, not_later, not_with, only_with
from .triggers.exclude import Exclude
from .triggers.trigger_model import Trigger

DEFAULT_NAMESPACE = "default"


class Metadata(Model):
    """Name and namespace. The other fields belong to Kubernetes and are not checked."""

    name: JobName = Field(description=f"Name of the job, unique in its namespace, at most {JOB_NAME_LIMIT} characters.")
    namespace: Namespace | None = Field(None, description="Namespace of the job. Default: default.")
    labels: dict[str, str] | None = Field(None, description="Labels.")
    annotations: dict[str, str] | None = Field(None, description="Annotations.")
    # The API server writes these. They are accepted so that a manifest read from a cluster is valid.
    uid: Any = Field(None, description="Written by the API server.")
    resource_version: Any = Field(None, description="Written by the API server.")
    generation: Any = Field(None, description="Written by the API server.")
    creation_timestamp: Any = Field(None, description="Written by the API server.")
    deletion_timestamp: Any = Field(None, description="Written by the API server.")
    deletion_grace_period_seconds: Any = Field(None, description="Written by the API server.")
    managed_fields: Any = Field(None, description="Written by the API server.")
    self_link: Any = Field(None, description="Written by the API server.")
    owner_references: Any = Field(None, description="Owners of the object.")
    finalizers: Any = Field(None, description="Finalizers of the object.")


class Spec(Model):
    """When a job runs, what it does, and how its runs are handled."""

    at_most_one_of: ClassVar = ("payload", "payloadFrom")
    rules: ClassVar = (
        not_later(
            "startAt",
            "endAt",
            message="is before startAt, so there is no slot",
            advice="write an instant after startAt",
        ),
        *(
            not_with(
                f"job.{kind.name}",
                "execution.mode",
                ("Inline",),
                message=f"a {kind.name} can't run Inline",
                advice="write Pod, or leave mode out",
            )
            for kind in BUILT_IN.values()
            if kind.place is Place.POD
        ),
        only_with("maxConcurrent", "concurrencyPolicy", ("Allow", "Queue")),
        only_with("queueDepth", "concurrencyPolicy", ("Queue",)),
    )

    triggers: list[Trigger] = Field(
        min_length=1, max_length=16, description="When the job runs: it has the slots of all its triggers."
    )
    exclude: list[Exclude] | None = Field(None, max_length=64, description="Slots to leave out.")
    start_at: InstantText | None = Field(
        None, description="Instant with an offset. There are no slots before it. Default: none."
    )
    end_at: InstantText | None = Field(
        None, description="Instant with an offset. There are no slots after it. Default: none."
    )
    max_runs: int | None = Field(
        None,
        ge=1,
        le=1_000_000_000,
        description="Number of runs after which the schedule is complete. Default: no limit.",
    )
    jitter: Duration | None = Field(
        None,
        description="Maximum delay of a slot. Each slot gets a delay between 0 and this, which never changes.",
    )
    suspend: bool | None = Field(
        None,
        description="Whether the schedule is suspended: no new slot starts, but active runs continue. Default: false.",
    )
    payload: (
        Annotated[
            str,
            Field(max_length=checks.PAYLOAD_LIMIT),
            AfterValidator(checks.payload),
            stated(
                NO_NUL,
                Rule(
                    f"size(bytes(self)) <= {checks.PAYLOAD_LIMIT}",
                    f"is too long: write at most {checks.PAYLOAD_LIMIT} bytes of UTF-8",
                ),
            ),
        ]
        | None
    ) = Field(None, description="Input of the job: at most 64 KiB of UTF-8 without NUL.")
    payload_from: ValueFrom | None = Field(None, description="Take the payload from a Secret or ConfigMap.")
    job: JobModel = Field(description="What to do.")
    execution: Execution | None = Field(None, description="Where the job runs.")
    concurrency_policy: Literal["Forbid", "Queue", "Replace", "Allow"] | None = Field(
        None,
        description="What happens to a slot while a run is active. Forbid: the slot is skipped. Queue: the slot waits. "
        "Replace: the active run is cancelled. Allow: both run at the same time. Default: Forbid.",
    )
    max_concurrent: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="With Allow and Queue: maximum number of active runs. Default: 1 with Queue, 10000 with Allow.",
    )
    queue_depth: int | None = Field(
        None, ge=1, le=10_000, description="With Queue: maximum number of slots that wait. Default: 1."
    )
    misfire: MisfireModel | None = Field(None, description="What happens to slots that could not start in time.")
    retry: Retry | None = Field(None, description="What happens after a failed attempt.")
    timeouts: TimeoutsModel | None = Field(None, description="How long a run may take.")
    complete_on: CompleteOn | None = Field(
        None, description="Results that complete the schedule: the run succeeds, and no slot starts after it."
    )
    pause_after_failures: int | None = Field(
        None,
        ge=0,
        le=1_000_000,
        description="Number of consecutive failed runs after which the schedule pauses; 0 means never. Default: 0.",
    )
    expect_success_within: PositiveDuration | None = Field(
        None,
        description="How long the job may go without a success. After that it is overdue, and onFailure is called. "
        "Default: no limit.",
    )
    history: HistoryModel | None = Field(None, description="How many past runs are kept, and for how long.")
    on_failure: list[Hook] | None = Field(
        None,
        max_length=8,
        description="Hooks, called at least once for each failed run, after its last retry, and when the job becomes "
        "overdue.",
    )
    on_success: list[Hook] | None = Field(
        None, max_length=8, description="Hooks, called at least once for each succeeded run."
    )


class ScheduledJob(Model):
    """A job and its schedule."""

    rules: ClassVar = (
        # The loader checks the length as a part of JobName; a CRD can't state it, because it can't describe metadata.
        Rule(
            f"size(self.metadata.name) <= {JOB_NAME_LIMIT}",
            f"metadata.name is too long: write at most {JOB_NAME_LIMIT} characters",
        ),
        no_item_with(
            "spec.triggers",
            "following.name",
            "metadata.name",
            message="a job can't follow itself",
            advice="write the name of another job in following.name",
        ),
    )

    api_version: Literal["scheduledjobs.dev/v1beta1"] = Field(description=f"Always {API_VERSION}.")
    kind: Literal["ScheduledJob"] = Field(description=f"Always {KIND}.")
    metadata: Metadata = Field(description="Name and namespace.")
    spec: Spec = Field(description="Desired state: when the job runs, and what it does.")
    status: Any = Field(None, description="Observed state, written by the operator.")

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name); the namespace is ``default`` if none is given."""
        return (self.metadata.namespace or DEFAULT_NAMESPACE, self.metadata.name)


class _Beside(BaseModel):
    """A Secret or ConfigMap in a file. Only the parts that references need are checked."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, hide_input_in_errors=True)


class BesideMetadata(_Beside):
    """Name and namespace of a Secret or ConfigMap."""

    name: Name = Field(description="Name, unique in its namespace.")
    namespace: Namespace | None = Field(None, description="Namespace. Default: default.")


def _check_base64(text: str) -> str:
    try:
        base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        checks.refuse("is not base64", "encode it, or write it in stringData as plain text")
    return text


Base64 = Annotated[str, AfterValidator(_check_base64)]


class _Named(_Beside):
    metadata: BesideMetadata = Field(description="Name and namespace.")

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name); the namespace is ``default`` if none is given."""
        return (self.metadata.namespace or DEFAULT_NAMESPACE, self.metadata.name)


class Secret(_Named):
    """Secret values that jobs refer to. They are never printed."""

    kind: Literal["Secret"] = Field(description="Always Secret.")
    data: dict[DataKey, Base64] | None = Field(None, description="Values in base64.")
    string_data: dict[DataKey, str] | None = Field(
        None, alias="stringData", description="Values as plain text. They override `data`."
    )

    @property
    def values(self) -> dict[str, bytes]:
        """The value of each key."""
        encoded = {key: base64.b64decode("".join(text.split())) for key, text in (self.data or {}).items()}
        return encoded | {key: text.encode() for key, text in (self.string_data or {}).items()}


class ConfigMap(_Named):
    """Values that jobs refer to."""

    kind: Literal["ConfigMap"] = Field(description="Always ConfigMap.")
    data: dict[DataKey, str] | None = Field(None, description="Values as text.")
    binary_data: dict[DataKey, Base64] | None = Field(None, alias="binaryData", description="Values in base64.")

    @property
    def values(self) -> dict[str, bytes]:
        """The value of each key."""
        encoded = {key: base64.b64decode("".join(text.split())) for key, text in (self.binary_data or {}).items()}
        return encoded | {key: text.encode() for key, text in (self.data or {}).items()}
