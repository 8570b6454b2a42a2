"""What the operator writes into a ScheduledJob's status, and the bounds within which the API server takes it.

Status serves three readers. People and tools read conditions, times and counters. The plugin reads ``recentRuns`` and
``active``, so that it needs nothing but the API server. And a store that does not know the object (memory after a
restart, a new or a restored database) goes on from ``floor``, ``handled``, ``active`` and ``engine``.

A status that breaks one bound of its schema is refused as a whole, and an object without news is worse than one with
a shortened message. So what is too long is cut when it comes in here: texts at their end, lists to their newest.
Reading is lenient for the same reason: the status may come from a newer operator, or from somebody's editor.

Times are RFC 3339 in UTC with up to six digits of a second's fraction; ``None`` is left out.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

RECENT_RUNS = 10
"""Runs in ``recentRuns``."""
ACTIVE_RUNS = 100
"""Runs in ``active``; ``activeCount`` counts them all."""
HANDLED_TOKENS = 16
"""Tokens of manual acts of each kind."""
OUTPUT_LIMIT = 1024
"""Characters of the newest failed run's output."""
ENGINE_LIMIT = 128 * 1024
"""Characters of the engine's own record. It is useless when cut, so it is left out instead."""


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
    """A part of the status: unknown keys are passed over."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, alias_generator=to_camel, validate_by_alias=True, validate_by_name=True
    )


class Condition(StatusModel):
    """One aspect of the object's state, in the form that all of Kubernetes uses."""

    type: Annotated[str, Field(max_length=316)] = Field(
        description="Ready: the spec is valid and scheduled. Stalled: it is not, and only an edit mends it. Suspended: "
        "no new slot starts, by spec.suspend or after too many failures. LastRunSucceeded: how the newest run ended. "
        "Overdue: no success within expectSuccessWithin."
    )
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it is so.")
    observed_generation: Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})] | None = Field(
        default=None, description="The metadata.generation that this was said of."
    )
    last_transition_time: Time = Field(description="When `status` changed last.")
    reason: Annotated[
        str, Field(min_length=1, max_length=1024, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")
    ] = Field(description="Why, in one word, for programs.")
    message: Annotated[str, _beginning(32_768), Field(max_length=32_768)] = Field(
        description="Why, in a sentence that says what to do about it, for people."
    )


class ActiveRun(StatusModel):
    """A run that is claimed, pending, running or in backoff."""

    run_id: Identity = Field(
        validation_alias="runID",
        serialization_alias="runID",
        description="Identity of the run, the same for each of its attempts.",
    )
    slot: Time = Field(description="The instant at which its trigger fired; of a manual run, when it was asked for.")
    attempt: Annotated[int, Field(ge=1, json_schema_extra={"format": "int64"})] = Field(
        description="Number of its current or next attempt, from 1."
    )
    started: Time | None = Field(
        default=None,
        description="When its first attempt started; unset before. Of a run whose replica was lost before it could "
        "tell: when it was due.",
    )
    due: Time | None = Field(default=None, description="When its next attempt starts; unset while one is running.")
    pod: Identity | None = Field(default=None, description="Name of the Pod in which it runs; unset for an inline run.")
    token: Identity | None = Field(default=None, description="Token of a manual run; unset for a scheduled one.")


class RecentRun(StatusModel):
    """A run that has ended, or a slot that did not run."""

    run_id: Identity = Field(
        validation_alias="runID",
        serialization_alias="runID",
        description="Identity of the run, the same for each of its attempts.",
    )
    slot: Time = Field(description="The instant at which its trigger fired; of a manual run, when it was asked for.")
    started: Time | None = Field(default=None, description="When its first attempt started; unset if none did.")
    finished: Time = Field(description="When it ended.")
    attempt: Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})] = Field(
        description="Number of its last attempt."
    )
    outcome: RunOutcome = Field(description="How the run ended, or why the slot did not run.")
    reason: Line | None = Field(default=None, description="Why it ended so, in words.")
    code: Annotated[int, Field(json_schema_extra={"format": "int64"})] | None = Field(
        default=None, description="Exit code or HTTP status of its last attempt."
    )
    replica: Identity | None = Field(default=None, description="The operator's replica that ran its last attempt.")
    pod: Identity | None = Field(default=None, description="Name of the Pod in which its last attempt ran.")
    output: Annotated[str, _end(OUTPUT_LIMIT), Field(max_length=OUTPUT_LIMIT)] | None = Field(
        default=None, description="The last 1 KiB of its output, with the newest failed run only."
    )
    token: Identity | None = Field(default=None, description="Token of a manual run; unset for a scheduled one.")


class Counters(StatusModel):
    """How many runs and slots ended how, since the object was created."""

    started: Count | None = Field(default=None, description="Runs that spec.maxRuns counts.")
    succeeded: Count | None = Field(default=None, description="Runs that succeeded.")
    failed: Count | None = Field(default=None, description="Runs that failed after their last retry.")
    cancelled: Count | None = Field(default=None, description="Runs that were cancelled.")
    skipped_overlap: Count | None = Field(default=None, description="Slots that were skipped because a run was active.")
    missed: Count | None = Field(default=None, description="Slots that could not run in time.")
    excluded: Count | None = Field(default=None, description="Slots that spec.exclude left out.")


class Handled(StatusModel):
    """Tokens of manual acts that have been carried out: each counts once. The newest 16 of each kind, newest last."""

    run_now: Tokens | None = Field(default=None, description="Tokens of the annotation scheduledjobs.dev/run-now.")
    cancel: Tokens | None = Field(default=None, description="Run ids of the annotation scheduledjobs.dev/cancel.")
    resume: Tokens | None = Field(default=None, description="Tokens of the annotation scheduledjobs.dev/resume.")


class Status(StatusModel):
    """What the operator observed."""

    observed_generation: Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})] | None = Field(
        default=None, description="The metadata.generation that this status takes into account."
    )
    conditions: Annotated[list[Condition], Field(max_length=16)] | None = Field(
        default=None,
        description="Ready, Stalled, Suspended, LastRunSucceeded and Overdue. A failed run never makes Ready false.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    schedule: Line | None = Field(default=None, description="The triggers in words.")
    next_run: Word | None = Field(
        default=None, description="When the next slot starts, or why there is none, as `kubectl get` shows it."
    )
    next_run_time: Time | None = Field(default=None, description="When the next slot starts; unset if none will.")
    last_schedule_time: Time | None = Field(default=None, description="The newest slot that was started.")
    last_success_time: Time | None = Field(default=None, description="When a run succeeded last.")
    last_failure_time: Time | None = Field(default=None, description="When a run failed last.")
    last_outcome: RunOutcome | None = Field(default=None, description="How the newest run ended.")
    active_count: Count | None = Field(
        default=None, description="Runs that are claimed, pending, running or in backoff."
    )
    active: Annotated[list[ActiveRun], _end(ACTIVE_RUNS), Field(max_length=ACTIVE_RUNS)] | None = Field(
        default=None, description="The runs that `activeCount` counts, the newest 100 of them, newest last."
    )
    recent_runs: Annotated[list[RecentRun], _beginning(RECENT_RUNS), Field(max_length=RECENT_RUNS)] | None = Field(
        default=None, description="The newest 10 runs that have ended, newest first."
    )
    counters: Counters | None = Field(default=None, description="How many runs and slots ended how.")
    handled: Handled | None = Field(default=None, description="Tokens of manual acts that have been carried out.")
    floor: Time | None = Field(
        default=None, description="Slots up to here are decided: a store that does not know the object goes on from it."
    )
    engine: Annotated[Annotated[str, Field(max_length=ENGINE_LIMIT)] | None, _whole(ENGINE_LIMIT)] = Field(
        default=None, description="The operator's own record, from which a store that does not know the object goes on."
    )

    def body(self) -> dict[str, Any]:
        """The JSON for the API server; what is unset is left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
