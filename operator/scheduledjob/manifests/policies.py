"""How runs are started, limited and retried, and how long their history is kept."""

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from scheduledjob.domain.schedule.backoff import DEFAULT_RETRIES, Exponential
from scheduledjob.domain.schedule.definition import SKIP_DEADLINE, Keep, Misfire, Timeouts
from scheduledjob.domain.time.durations import format_duration
from scheduledjob.domain.time.instants import from_seconds
from scheduledjob.jobs.curl.curl_kind import CURL_TIMEOUT

from .base import Image, Model, Name, PositiveDuration, Quantity
from .spanning_rules import not_longer, not_longer_by_default

_FIRST_WAIT: Final = format_duration(from_seconds(Exponential().initial))
_LONGEST_WAIT: Final = format_duration(from_seconds(Exponential().max))
_SKIP_DEADLINE: Final = format_duration(SKIP_DEADLINE)


class Resources(Model):
    """Resources of the job's container, as in a Pod."""

    limits: dict[str, Quantity] | None = Field(
        None, max_length=32, description="Limits: the most that the container may use."
    )
    requests: dict[str, Quantity] | None = Field(
        None, max_length=32, description="Requests: what is reserved for the container."
    )


class PodTemplate(Model):
    """Parts of a PodTemplateSpec."""

    metadata: dict[str, Any] | None = Field(
        None,
        max_length=64,
        description="Labels and annotations of the Pod.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )
    spec: dict[str, Any] | None = Field(
        None,
        max_length=256,
        description="Any part of a PodSpec; the job's container is called `job`.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )


class PodSettingsModel(Model):
    """The Pod in which a job runs."""

    image: Image | None = Field(None, description="Image for a shell job. Default: the operator's own image.")
    resources: Resources | None = Field(None, description="Resources of the job's container.")
    service_account_name: Name | None = Field(
        None, description="Service account of the Pod. Default: none, and no token is mounted."
    )
    template: PodTemplate | None = Field(None, description="PodTemplateSpec that the Pod is merged into.")


class Execution(Model):
    """Where a job runs."""

    mode: Literal["Inline", "Pod"] | None = Field(
        None,
        description="Inline: in the operator's process or a child process. Pod: in its own Pod. Default: Pod for "
        "container; Inline for curl and custom; for shell, Inline if the administrator allows it, otherwise Pod.",
    )
    pod: PodSettingsModel | None = Field(None, description="Settings of the Pod.")


class MisfireModel(Model):
    """What happens to slots that could not start in time."""

    catch_up: Literal["Skip", "Last", "All"] | None = Field(
        None,
        description="Which of the slots that are due run. Skip and Last run only the newest. All runs the newest "
        "`maxCatchUp` slots, oldest first. With Skip, `startingDeadline` defaults to "
        f"{_SKIP_DEADLINE}. Default: Last.",
    )
    max_catch_up: int | None = Field(
        None, ge=1, le=1000, description=f"Maximum number of slots that All runs. Default: {Misfire().max_catch_up}."
    )
    starting_deadline: PositiveDuration | None = Field(
        None,
        description=f"How late a slot may still start, such as 10m. Default: no limit ({_SKIP_DEADLINE} with Skip).",
    )


class ExponentialRetry(Model):
    """Waits that grow by a factor."""

    rules: ClassVar = not_longer_by_default("initial", "max", (_FIRST_WAIT, _LONGEST_WAIT))

    initial: PositiveDuration | None = Field(None, description=f"Wait before the first retry. Default: {_FIRST_WAIT}.")
    max: PositiveDuration | None = Field(None, description=f"The longest wait. Default: {_LONGEST_WAIT}.")
    multiplier: Annotated[float, Field(ge=1, le=1000)] | None = Field(
        None, description=f"Factor from each wait to the next, at least 1. Default: {Exponential().multiplier:g}."
    )


class FixedRetry(Model):
    """A list of waits."""

    intervals: list[PositiveDuration] = Field(
        min_length=1,
        max_length=100,
        description="The wait before each retry. If `maxRetries` is larger than their number, the last wait repeats.",
    )


class NotOn(Model):
    """Results after which a run is not retried."""

    exit_codes: list[Annotated[int, Field(ge=1, le=255)]] | None = Field(
        None, min_length=1, max_length=255, description="Exit codes of a shell job or a container."
    )
    http_status: list[Annotated[int, Field(ge=100, le=599)]] | None = Field(
        None, min_length=1, max_length=256, description="HTTP statuses of a curl job."
    )


class Retry(Model):
    """What happens after a failed attempt."""

    at_most_one_of: ClassVar = ("exponential", "fixed")

    max_retries: int | None = Field(
        None,
        ge=-1,
        le=1_000_000,
        description="Maximum number of retries after the first attempt; -1 means no limit. Default: "
        f"{DEFAULT_RETRIES}, or with `fixed` the number of intervals.",
    )
    exponential: ExponentialRetry | None = Field(
        None,
        description=f"Waits that grow by a factor. Default: from {_FIRST_WAIT}, doubling, to {_LONGEST_WAIT}.",
    )
    fixed: FixedRetry | None = Field(None, description="A list of waits.")
    not_on: NotOn | None = Field(
        None, description="Results after which the run fails at once, without another attempt. Default: none."
    )


class TimeoutsModel(Model):
    """How long a run may take."""

    rules: ClassVar = (not_longer("attempt", "total"),)

    attempt: PositiveDuration | None = Field(
        None,
        description=f"Time limit for an attempt. Default: {format_duration(CURL_TIMEOUT)} for curl, no limit for other "
        "jobs.",
    )
    pending: PositiveDuration | None = Field(
        None,
        description="Time limit for a Pod to start, from the start of the attempt. "
        f"Default: {format_duration(Timeouts().pending)}.",
    )
    total: PositiveDuration | None = Field(
        None,
        description="Time limit for a run, from the start of its first attempt, waits between attempts included. "
        "Not shorter than `attempt`. Default: no limit.",
    )


class CompleteOn(Model):
    """Results that complete the schedule: the run succeeds, and no slot starts after it."""

    exit_codes: list[Annotated[int, Field(ge=0, le=255)]] | None = Field(
        None, min_length=1, max_length=256, description="Exit codes of a shell job or a container."
    )
    http_status: list[Annotated[int, Field(ge=100, le=599)]] | None = Field(
        None, min_length=1, max_length=256, description="HTTP statuses of a curl job."
    )


class HistoryModel(Model):
    """How many past runs are kept, and for how long."""

    succeeded: int | None = Field(
        None, ge=0, le=10_000, description=f"Number of succeeded runs to keep. Default: {Keep().succeeded}."
    )
    failed: int | None = Field(
        None, ge=0, le=10_000, description=f"Number of failed runs to keep. Default: {Keep().failed}."
    )
    ttl: PositiveDuration | None = Field(
        None, description=f"How long a run is kept. Default: {format_duration(Keep().ttl)}."
    )
