"""How runs are started, limited, retried and remembered."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from scheduledjob.domain.time.durations import parse_duration

from . import checks
from .base import Image, Model, Name, PositiveDuration, Quantity
from .rules import Rule, literal, not_longer

_FIRST_WAIT, _LONGEST_WAIT = "10s", "10m"
"""Of an exponential retry that does not say."""


class Resources(Model):
    """Resources of the container, as in a Pod."""

    limits: dict[str, Quantity] | None = Field(None, max_length=32, description="The most it may use.")
    requests: dict[str, Quantity] | None = Field(None, max_length=32, description="What is set aside for it.")


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


class PodSettings(Model):
    """The Pod in which a job runs."""

    image: Image | None = Field(
        None, description="Image for a shell job. Default: the operator's own, for jobs that it knows how to run."
    )
    resources: Resources | None = Field(None, description="Resources of the job's container.")
    service_account_name: Name | None = Field(
        None, description="Service account of the Pod. Default: none, and no token is mounted."
    )
    template: PodTemplate | None = Field(None, description="PodTemplateSpec under which the Pod is merged.")


class Execution(Model):
    """Where a job runs."""

    mode: Literal["Inline", "Pod"] | None = Field(
        None,
        description="Inline: in the operator's process or a child of it. Pod: in a Pod of its own. Default: Pod for "
        "container, Inline for curl and custom, and for shell Inline where the administrator allows it, else Pod.",
    )
    pod: PodSettings | None = Field(None, description="Settings of the Pod.")


class Misfire(Model):
    """What happens to slots that could not run in time."""

    catch_up: Literal["Skip", "Last", "All"] | None = Field(
        None,
        description="Of the slots that are due: Skip and Last run the newest, All the newest `maxCatchUp`, oldest "
        "first. Skip has a `startingDeadline` of 10s unless one is given. Default: Last.",
    )
    max_catch_up: int | None = Field(None, ge=1, le=1000, description="How many slots All runs at most. Default: 5.")
    starting_deadline: PositiveDuration | None = Field(
        None, description="How late a slot may still start, such as 10m. Default: no limit (10s with Skip)."
    )


class ExponentialRetry(Model):
    """Waits that grow by a factor."""

    rules: ClassVar = (
        Rule(
            f"!has(self.initial) || !has(self.max) || {not_longer('self.initial', 'self.max')}",
            "is shorter than initial: write at least as much",
            "max",
        ),
        Rule(
            f"!has(self.initial) || has(self.max) || {not_longer('self.initial', literal(_LONGEST_WAIT))}",
            f"is longer than max ({_LONGEST_WAIT} unless it is given): write max too, or less",
            "initial",
        ),
        Rule(
            f"has(self.initial) || !has(self.max) || {not_longer(literal(_FIRST_WAIT), 'self.max')}",
            f"is shorter than initial ({_FIRST_WAIT} unless it is given): write initial too, or more",
            "max",
        ),
    )

    initial: PositiveDuration | None = Field(None, description="Wait before the first retry. Default: 10s.")
    max: PositiveDuration | None = Field(None, description="The longest wait. Default: 10m.")
    multiplier: Annotated[float, Field(ge=1, le=1000)] | None = Field(
        None, description="Factor from each wait to the next, at least 1. Default: 2."
    )

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        initial, longest = self.initial or _FIRST_WAIT, self.max or _LONGEST_WAIT
        if parse_duration(initial) > parse_duration(longest):
            told = "" if self.max else " (the default)"
            checks.refuse(f'"{longest}"{told} is shorter than initial "{initial}"', f'at least "{initial}"', "max")
        return self


class FixedRetry(Model):
    """Waits that are given one by one."""

    intervals: list[PositiveDuration] = Field(
        min_length=1,
        max_length=100,
        description="The waits before the retries. Where `maxRetries` is set and larger, the last one repeats.",
    )


class Retry(Model):
    """What happens after a failed attempt."""

    at_most_one_of: ClassVar = ("exponential", "fixed")

    max_retries: int | None = Field(
        None,
        ge=-1,
        le=1_000_000,
        description="Retries after the first attempt; -1: without end. Default: 6, or with `fixed` one for each "
        "interval.",
    )
    exponential: ExponentialRetry | None = Field(
        None, description="Waits that grow by a factor. Default: from 10s, doubling, to 10m."
    )
    fixed: FixedRetry | None = Field(None, description="Waits that are given one by one.")


class Timeouts(Model):
    """How long a run may take."""

    rules: ClassVar = (
        Rule(
            f"!has(self.attempt) || !has(self.total) || {not_longer('self.attempt', 'self.total')}",
            "is below attempt: write at least as much",
            "total",
        ),
    )

    attempt: PositiveDuration | None = Field(
        None, description="The longest that one attempt may take. Default: 1m for curl, else no limit."
    )
    pending: PositiveDuration | None = Field(
        None, description="The longest that a Pod may wait for its start. Default: 5m."
    )
    total: PositiveDuration | None = Field(
        None,
        description="The longest that a run may take from its first start, waits between attempts included; not below "
        "`attempt`. Default: no limit.",
    )

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.attempt and self.total and parse_duration(self.total) < parse_duration(self.attempt):
            checks.refuse(f'"{self.total}" is below attempt "{self.attempt}"', f'at least "{self.attempt}"', "total")
        return self


class CompleteOn(Model):
    """Results that are a success and end the schedule for good."""

    exit_codes: list[Annotated[int, Field(ge=0, le=255)]] | None = Field(
        None, min_length=1, max_length=256, description="Exit codes of a shell job or a container."
    )
    http_status: list[Annotated[int, Field(ge=100, le=599)]] | None = Field(
        None, min_length=1, max_length=256, description="HTTP statuses of a curl job."
    )


class History(Model):
    """How much is remembered of past runs."""

    succeeded: int | None = Field(None, ge=0, le=10_000, description="Succeeded runs to keep. Default: 3.")
    failed: int | None = Field(None, ge=0, le=10_000, description="Failed runs to keep. Default: 5.")
    ttl: PositiveDuration | None = Field(None, description="The longest that any run is kept. Default: 7d.")
