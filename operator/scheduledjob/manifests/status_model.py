"""The status of a ScheduledJob, which the operator writes, and the limits that the API server enforces on it.

Status has three readers. People and tools read conditions, times and counters. The kubectl plugin reads ``recentRuns``
and ``active``, so that it needs only the API server. A store that does not know the object (memory after a restart, a
new or a restored database) restores its state from ``floor``, ``handled``, ``active`` and ``engine``.

The API server rejects the whole status if one value is over its limit, and a missing status is worse than a shortened
message. So these models shorten values that are too long: texts at the end, lists to their newest items. Reading
ignores unknown keys, because a newer operator or a person may have written the status.

Times are RFC 3339 in UTC with up to six fractional digits; ``None`` is left out.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

RECENT_RUNS = 10
"""Maximum number of runs in ``recentRuns``."""
ACTIVE_RUNS = 100
"""Maximum number of runs in ``active``; ``activeCount`` counts all active runs."""
HANDLED_TOKENS = 16
"""Maximum number of tokens kept for each kind of request."""
OUTPUT_LIMIT = 1024
"""Characters kept of the newest failed run's output."""
ENGINE_LIMIT = 128 * 1024
"""Maximum characters of the engine's record. A cut record is useless, so a longer one is left out."""


def _end(limit: int) -> BeforeValidator:
    return BeforeValidator(lambda value: value[-limit:] if isinstance(value, str | list | tuple) else value)


def _beginning(limit: int) -> BeforeValidator:
    return BeforeValidator(lambda value: value[:limit] if isinstance(value, str | list | tuple) else value)


def _whole(limit: int) -> BeforeValidator:
    return BeforeValidator(lambda value: None if isinstance(value, str) and len(value) > limit else value)


Word = Annotated[str, _beginning(64), Field(max_length=64)]
Line = Annotated[str, _beginning(1024), Field(max_length=1024)]
Identity = Annotated[str, _beginning(512), Field(max_length=512)]
Time = Annotated[str, Field(max_length=40, json_schema_extra={"format": "date-time"})]
Tokens = Annotated[list[Identity], _end(HANDLED_TOKENS), Field(max_length=HANDLED_TOKENS)]
Count = Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})]
RunOutcome = Literal["Succeeded", "Failed", "Cancelled", "SkippedOverlap", "Missed", "Excluded"]


class StatusModel(BaseModel):
    """A part of the status. Unknown keys are ignored."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, alias_generator=to_camel, validate_by_alias=True, validate_by_name=True
    )


class Condition(StatusModel):
    """One aspect of the object's state, in the form that Kubernetes uses everywhere."""

    type: Annotated[str, Field(max_length=316)] = Field(
        description="Ready: the spec is valid and scheduled. Stalled: it is not, and needs an edit. Suspended: no new "
        "slot starts, because of spec.suspend or too many failures. LastRunSucceeded: whether the newest run did. "
        "Overdue: no run succeeded within expectSuccessWithin."
    )
    status: Literal["True", "False", "Unknown"] = Field(description="Whether the condition applies.")
    observed_generation: Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})] | None = Field(
        default=None, description="The metadata.generation that the condition refers to."
    )
    last_transition_time: Time = Field(description="When `status` last changed.")
    reason: Annotated[
        str, Field(min_length=1, max_length=1024, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")
    ] = Field(description="The reason in one word, for programs.")
    message: Annotated[str, _beginning(32_768), Field(max_length=32_768)] = Field(
        description="The reason in a sentence, for people. It also says what to do."
    )


class ActiveRun(StatusModel):
    """A run that is claimed, pending, running or in backoff."""

    run_id: Identity = Field(
        validation_alias="runID",
        serialization_alias="runID",
        description="Identity of the run, the same for each of its attempts.",
    )
    slot: Time = Field(description="Instant at which the trigger fired. For a manual run, when it was requested.")
    attempt: Annotated[int, Field(ge=1, json_schema_extra={"format": "int64"})] = Field(
        description="Number of its current or next attempt, from 1."
    )
    started: Time | None = Field(
        default=None,
        description="When its first attempt started; unset before that. If its replica was lost before it could "
        "report the start: when the run was due.",
    )
    due: Time | None = Field(
        default=None, description="When its next attempt starts; unset while an attempt is running."
    )
    waiting_for: Line | None = Field(
        default=None,
        description="What its Pod waits for: capacity, the API server, a node, an image, its deletion.",
    )
    pod: Identity | None = Field(default=None, description="Name of the Pod in which it runs; unset for an inline run.")
    token: Identity | None = Field(default=None, description="Token of a manual run; unset for a scheduled one.")


class RecentRun(StatusModel):
    """A run that has ended, or a slot that did not run."""

    run_id: Identity = Field(
        validation_alias="runID",
        serialization_alias="runID",
        description="Identity of the run, the same for each of its attempts.",
    )
    slot: Time = Field(description="Instant at which the trigger fired. For a manual run, when it was requested.")
    started: Time | None = Field(default=None, description="When its first attempt started; unset if none did.")
    finished: Time = Field(description="When it ended.")
    attempt: Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})] = Field(
        description="Number of its last attempt."
    )
    outcome: RunOutcome = Field(description="How the run ended, or why the slot did not run.")
    reason: Line | None = Field(default=None, description="Why it ended this way.")
    code: Annotated[int, Field(json_schema_extra={"format": "int64"})] | None = Field(
        default=None, description="Exit code or HTTP status of its last attempt."
    )
    replica: Identity | None = Field(default=None, description="Replica of the operator that ran its last attempt.")
    pod: Identity | None = Field(default=None, description="Name of the Pod in which its last attempt ran.")
    output: Annotated[str, _end(OUTPUT_LIMIT), Field(max_length=OUTPUT_LIMIT)] | None = Field(
        default=None, description="The last 1 KiB of its output. Only the newest failed run has it."
    )
    token: Identity | None = Field(default=None, description="Token of a manual run; unset for a scheduled one.")


class Counters(StatusModel):
    """Numbers of runs and slots by outcome, since the object was created."""

    started: Count | None = Field(default=None, description="Started runs, as spec.maxRuns counts them.")
    succeeded: Count | None = Field(default=None, description="Runs that succeeded.")
    failed: Count | None = Field(default=None, description="Runs that failed after their last retry.")
    cancelled: Count | None = Field(default=None, description="Runs that were cancelled.")
    skipped_overlap: Count | None = Field(default=None, description="Slots that were skipped because a run was active.")
    missed: Count | None = Field(default=None, description="Slots that could not start in time.")
    excluded: Count | None = Field(default=None, description="Slots that spec.exclude left out.")


class Handled(StatusModel):
    """Tokens of requests that were carried out, so that none is carried out twice: the newest 16 of each kind."""

    run_now: Tokens | None = Field(default=None, description="Tokens of the annotation scheduledjobs.dev/run-now.")
    cancel: Tokens | None = Field(default=None, description="Run ids of the annotation scheduledjobs.dev/cancel.")
    resume: Tokens | None = Field(default=None, description="Tokens of the annotation scheduledjobs.dev/resume.")


class Status(StatusModel):
    """Observed state of the ScheduledJob."""

    observed_generation: Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})] | None = Field(
        default=None, description="The metadata.generation that the status refers to."
    )
    conditions: Annotated[list[Condition], Field(max_length=16)] | None = Field(
        default=None,
        description="Ready, Stalled, Suspended, LastRunSucceeded and Overdue. A failed run never makes Ready false.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    schedule: Line | None = Field(default=None, description="The triggers in words.")
    next_run: Word | None = Field(
        default=None, description="When the next slot starts, or why there is none. `kubectl get` shows this text."
    )
    next_run_time: Time | None = Field(default=None, description="When the next slot starts; unset if there is none.")
    last_schedule_time: Time | None = Field(default=None, description="The newest slot that started.")
    last_success_time: Time | None = Field(default=None, description="When a run last succeeded.")
    last_failure_time: Time | None = Field(default=None, description="When a run last failed.")
    last_outcome: RunOutcome | None = Field(default=None, description="How the newest run ended.")
    active_count: Count | None = Field(
        default=None, description="Runs that are claimed, pending, running or in backoff."
    )
    active: Annotated[list[ActiveRun], _end(ACTIVE_RUNS), Field(max_length=ACTIVE_RUNS)] | None = Field(
        default=None, description="The newest 100 active runs, newest last."
    )
    recent_runs: Annotated[list[RecentRun], _beginning(RECENT_RUNS), Field(max_length=RECENT_RUNS)] | None = Field(
        default=None, description="The newest 10 runs that have ended, newest first."
    )
    counters: Counters | None = Field(default=None, description="Numbers of runs and slots by outcome.")
    handled: Handled | None = Field(default=None, description="Tokens of requests that were carried out.")
    floor: Time | None = Field(
        default=None,
        description="Slots up to this instant are decided. A store that does not know the object continues from here.",
    )
    engine: Annotated[Annotated[str, Field(max_length=ENGINE_LIMIT)] | None, _whole(ENGINE_LIMIT)] = Field(
        default=None,
        description="Internal record of the operator. A store that does not know the object continues from it.",
    )

    def body(self) -> dict[str, Any]:
        """Return the JSON for the API server; unset values are left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
