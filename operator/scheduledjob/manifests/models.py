"""The resource: a ScheduledJob as a manifest writes it, and the documents that may stand beside it.

``triggers``, ``job``, ``policies`` and ``sources`` describe its parts; here they are put together, with the rules that
span them.
"""

import base64
import binascii
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from . import checks
from .base import NO_NUL, DataKey, Duration, InstantText, JobName, Model, Name, Namespace, PositiveDuration
from .job_models import Hook, Job
from .policies import CompleteOn, Execution, History, Misfire, Retry, Timeouts
from .problems import listed
from .rules import Rule, not_later, stated
from .sources import ValueFrom
from .triggers.exclude import Exclude
from .triggers.trigger_model import Trigger

GROUP = "scheduledjobs.dev"
VERSION = "v1beta1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "ScheduledJob"
DEFAULT_NAMESPACE = "default"


class Metadata(Model):
    """Name and namespace; the rest is Kubernetes' own and is carried, not judged."""

    name: JobName = Field(description="Name of the job, unique in its namespace, at most 52 characters.")
    namespace: Namespace | None = Field(None, description="Namespace of the job. Default: default.")
    labels: dict[str, str] | None = Field(None, description="Labels.")
    annotations: dict[str, str] | None = Field(None, description="Annotations.")
    # What the API server writes, so that a manifest read back from a cluster is valid.
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
    """When a job runs, what it does, and how its runs are treated."""

    at_most_one_of: ClassVar = ("payload", "payloadFrom")
    rules: ClassVar = (
        Rule(
            f"!has(self.startAt) || !has(self.endAt) || {not_later('self.startAt', 'self.endAt')}",
            "is before startAt, no slot could be: write an instant after startAt",
            "endAt",
        ),
        Rule(
            "!has(self.job.container) || !has(self.execution) || !has(self.execution.mode) || "
            "self.execution.mode != 'Inline'",
            "a container can't run Inline: write Pod, or leave mode out",
            "execution.mode",
        ),
        Rule(
            "!has(self.maxConcurrent) || has(self.concurrencyPolicy) && self.concurrencyPolicy in ['Allow', 'Queue']",
            "goes with Allow and Queue only: write concurrencyPolicy: Allow or Queue, or leave it out",
            "maxConcurrent",
        ),
        Rule(
            "!has(self.queueDepth) || has(self.concurrencyPolicy) && self.concurrencyPolicy == 'Queue'",
            "goes with Queue only: write concurrencyPolicy: Queue, or leave it out",
            "queueDepth",
        ),
    )

    triggers: list[Trigger] = Field(
        min_length=1, max_length=16, description="When the job runs: its slots are the union of those of all triggers."
    )
    exclude: list[Exclude] | None = Field(None, max_length=64, description="Slots to leave out.")
    start_at: InstantText | None = Field(
        None, description="Instant with an offset: there is no slot before it. Default: none."
    )
    end_at: InstantText | None = Field(
        None, description="Instant with an offset: there is no slot after it. Default: none."
    )
    max_runs: int | None = Field(
        None, ge=1, le=1_000_000_000, description="Runs after which the schedule is completed. Default: no limit."
    )
    jitter: Duration | None = Field(
        None, description="The longest delay that is added to a slot: between 0 and this, always the same for a slot."
    )
    suspend: bool | None = Field(
        None, description="Whether to start no new slots; runs in progress end normally. Default: false."
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
                    f"is too long: at most {checks.PAYLOAD_LIMIT} bytes of UTF-8",
                ),
            ),
        ]
        | None
    ) = Field(None, description="What the job is given: at most 64 KiB of UTF-8 without NUL.")
    payload_from: ValueFrom | None = Field(None, description="The payload stands in a Secret or ConfigMap.")
    job: Job = Field(description="What to do.")
    execution: Execution | None = Field(None, description="Where the job runs.")
    concurrency_policy: Literal["Forbid", "Queue", "Replace", "Allow"] | None = Field(
        None,
        description="What becomes of a slot while a run is active. Forbid: it is skipped. Queue: it waits. Replace: "
        "the active run is cancelled. Allow: it runs beside. Default: Forbid.",
    )
    max_concurrent: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="With Allow and Queue: active runs at most. Default: 1 with Queue, no limit with Allow.",
    )
    queue_depth: int | None = Field(
        None, ge=1, le=10_000, description="With Queue: slots that wait at most. Default: 1."
    )
    misfire: Misfire | None = Field(None, description="What happens to slots that could not run in time.")
    retry: Retry | None = Field(None, description="What happens after a failed attempt.")
    timeouts: Timeouts | None = Field(None, description="How long a run may take.")
    complete_on: CompleteOn | None = Field(
        None, description="Results that are a success and end the schedule for good."
    )
    pause_after_failures: int | None = Field(
        None,
        ge=0,
        le=1_000_000,
        description="Failed runs in a row after which the schedule pauses; 0: never. Default: 0.",
    )
    expect_success_within: PositiveDuration | None = Field(
        None, description="Without a success for that long the job is overdue, and onFailure is called. Default: never."
    )
    history: History | None = Field(None, description="How much is remembered of past runs.")
    on_failure: list[Hook] | None = Field(
        None, max_length=8, description="Called once for a failed run, after its last retry, and when overdue."
    )
    on_success: list[Hook] | None = Field(None, max_length=8, description="Called once for a succeeded run.")

    @model_validator(mode="after")
    def _check_window(self) -> Self:
        if self.start_at and self.end_at and checks.parse_instant(self.start_at) > checks.parse_instant(self.end_at):
            checks.refuse("is before startAt: no slot could be", "give an instant after startAt", "endAt")
        return self

    @model_validator(mode="after")
    def _check_concurrency(self) -> Self:
        for key, amount, policies in (
            ("maxConcurrent", self.max_concurrent, ("Allow", "Queue")),
            ("queueDepth", self.queue_depth, ("Queue",)),
        ):
            if amount is not None and self.concurrency_policy not in policies:
                checks.refuse(
                    f"goes with {listed(policies, 'and')} only, not with {self.concurrency_policy or 'Forbid'}",
                    f"write concurrencyPolicy: {listed(policies)}, or leave it out",
                    key,
                )
        return self

    @model_validator(mode="after")
    def _check_mode(self) -> Self:
        if self.job.container is not None and self.execution is not None and self.execution.mode == "Inline":
            checks.refuse("a container can't run Inline", 'write "Pod", or leave mode out', "execution", "mode")
        return self


class ScheduledJob(Model):
    """A job and its schedule."""

    rules: ClassVar = (
        Rule("size(self.metadata.name) <= 52", "metadata.name is too long: at most 52 characters"),
        Rule(
            "!self.spec.triggers.exists(trigger, has(trigger.following) && "
            "trigger.following.name == self.metadata.name)",
            "a job can't follow itself: name another job in following.name",
            "spec.triggers",
        ),
    )

    api_version: Literal["scheduledjobs.dev/v1beta1"] = Field(description="Always scheduledjobs.dev/v1beta1.")
    kind: Literal["ScheduledJob"] = Field(description="Always ScheduledJob.")
    metadata: Metadata = Field(description="Name and namespace.")
    spec: Spec = Field(description="What the user wants.")
    status: Any = Field(None, description="Written by the operator.")

    @model_validator(mode="after")
    def _check_following(self) -> Self:
        for index, trigger in enumerate(self.spec.triggers):
            if trigger.following is not None and trigger.following.name == self.metadata.name:
                checks.refuse(
                    "a job can't follow itself", "name another job", "spec", "triggers", index, "following", "name"
                )
        return self

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name), with the default namespace in place."""
        return (self.metadata.namespace or DEFAULT_NAMESPACE, self.metadata.name)


class _Beside(BaseModel):
    """A document of Kubernetes' own, of which only what references need is judged."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, hide_input_in_errors=True)


class BesideMetadata(_Beside):
    """Name and namespace of a Secret or ConfigMap."""

    name: Name = Field(description="Name, unique in its namespace.")
    namespace: Namespace | None = Field(None, description="Namespace. Default: default.")


def _check_base64(text: str) -> str:
    try:
        base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        checks.refuse("is not base64", "encode it, or put it into stringData as plain text")
    return text


Base64 = Annotated[str, AfterValidator(_check_base64)]


class _Named(_Beside):
    metadata: BesideMetadata = Field(description="Name and namespace.")

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name), with the default namespace in place."""
        return (self.metadata.namespace or DEFAULT_NAMESPACE, self.metadata.name)


class Secret(_Named):
    """Values that jobs refer to and nobody prints."""

    kind: Literal["Secret"] = Field(description="Always Secret.")
    data: dict[DataKey, Base64] | None = Field(None, description="Values in base64.")
    string_data: dict[DataKey, str] | None = Field(
        None, alias="stringData", description="Values as plain text; they win over `data`."
    )

    @property
    def values(self) -> dict[str, bytes]:
        """Each key's value."""
        encoded = {key: base64.b64decode("".join(text.split())) for key, text in (self.data or {}).items()}
        return encoded | {key: text.encode() for key, text in (self.string_data or {}).items()}


class ConfigMap(_Named):
    """Values that jobs refer to."""

    kind: Literal["ConfigMap"] = Field(description="Always ConfigMap.")
    data: dict[DataKey, str] | None = Field(None, description="Values as text.")
    binary_data: dict[DataKey, Base64] | None = Field(None, alias="binaryData", description="Values in base64.")

    @property
    def values(self) -> dict[str, bytes]:
        """Each key's value."""
        encoded = {key: base64.b64decode("".join(text.split())) for key, text in (self.binary_data or {}).items()}
        return encoded | {key: text.encode() for key, text in (self.data or {}).items()}
