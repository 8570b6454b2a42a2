"""Builds the status of an object from what the store has of its schedule.

``build_status`` is a pure function, so any replica may write the status, and two replicas write the same text. Two
facts that are not in the store are carried over from the previous status: since when each condition has held, and when
the first attempt of a run began, which only the replica that runs it knows until the attempt ends.

``status.engine`` is the state of the row. A store that does not know the object (memory after a restart, a new or a
restored database) continues from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from scheduledjob.domain.schedule.misfire import jitter_of
from scheduledjob.domain.schedule.state import Completion, Outcome, Run, RunRecord, State, run_id
from scheduledjob.domain.time.durations import format_duration
from scheduledjob.domain.time.instants import SECOND, rfc3339
from scheduledjob.jobs.container.pod_names import pod_name
from scheduledjob.kube.reconcile.desired_state import problem_of, unknown_kind
from scheduledjob.manifests.status_model import OUTPUT_LIMIT, RECENT_RUNS, Status
from scheduledjob.resource_names import GROUP

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from scheduledjob.domain.schedule.definition import Definition
    from scheduledjob.domain.schedule.misfire import Slots
    from scheduledjob.domain.time.instants import Instant
    from scheduledjob.engine.stored_row import Row

WAITING_KEPT = 100
"""How many queued runs ``status.engine`` keeps."""

Since = dict[str, tuple[str, str]]
"""By type of condition: its status, and the time (RFC 3339) since when it has had it."""

Begun = dict[str, str]
"""By run id: the time (RFC 3339) when its first attempt began."""

UNKNOWN_KIND = "UnknownKind"
"""Reason of the conditions of an object whose job the operator can't run."""

HANDLED_FIELDS = {"run-now": "runNow", "cancel": "cancel", "resume": "resume"}
"""By request, the field of ``status.handled`` that has its tokens."""

Waiting = Mapping[str, tuple[str, bool]]
"""By run id: what its attempt waits for, and whether its job has started."""

_NONE_BEGUN: Begun = {}
_NONE_WAIT: Waiting = {}

_EMPTY_STATUS: dict[str, Any] = dict.fromkeys(part.alias or name for name, part in Status.model_fields.items())

CLAIMED_AFTER = 5 * SECOND
"""A row that is due for longer and has no owner waits for capacity."""

COMPLETED = {
    Completion.JOB: "its job said that it is done",
    Completion.MAX_RUNS: "maxRuns is reached",
    Completion.NO_SLOT: "its triggers have no slot left",
}
"""Why a schedule is completed. ``state_from_status`` recognizes the first message, so it must not change."""


@dataclass(frozen=True, slots=True)
class StoredSchedule:
    """What the store has of a schedule."""

    row: Row
    state: State
    """The decoded state of the row."""
    definition: Definition
    slots: Slots | None
    records: Sequence[RunRecord]
    """The newest runs of this object, newest first."""


def build_status(
    stored: StoredSchedule,
    kinds: Collection[str],
    since: Since,
    now: Instant,
    begun: Begun = _NONE_BEGUN,
    waiting: Waiting = _NONE_WAIT,
) -> dict[str, Any]:
    """Return the whole status as a merge patch, in which None removes a field.

    ``kinds`` is what this operator can run. ``since`` comes from the conditions of the previous status. ``begun`` has
    the runs whose start is known although the state does not have it. ``waiting`` has what
    the runs of this replica wait for.
    """
    row, state, definition, records = stored.row, stored.state, stored.definition, stored.records
    # The owner may start the planned run without a write once it is due, so it counts as active.
    starting = state.next if row.owner is not None and state.next is not None and state.next.due <= now else None
    next_due = _next_due(stored, starting, now)
    active = state.runs if starting is None else [*state.runs, starting]
    # If no replica can run the row, `begun` means only that a run may have begun on a replica that was lost.
    can_start = row.owner is not None or not unknown_kind(row.kind, kinds)
    status = {
        "observedGeneration": row.generation,
        "conditions": _conditions(stored, kinds, since, now),
        "schedule": ", ".join(trigger.short() for trigger in definition.triggers) or None,
        "nextRunTime": _time(next_due),
        "nextRun": _describe_next_run(state, definition, next_due),
        "lastScheduleTime": _time(state.last_schedule),
        "lastSuccessTime": _time(state.last_success),
        "lastFailureTime": _time(state.last_failure),
        "lastOutcome": _last_outcome(state, records),
        "activeCount": len(active),
        "active": [_active(row, run, now, begun, waiting, can_start=can_start) for run in active],
        "recentRuns": _recent(row, _kept(records, now)[:RECENT_RUNS]),
        "counters": {
            "started": state.started,
            "succeeded": state.succeeded,
            "failed": state.failed,
            "cancelled": state.cancelled,
            "skippedOverlap": state.skipped,
            "missed": state.missed,
            "excluded": state.excluded,
        },
        "handled": _handled(state),
        "floor": rfc3339(state.decided_until),
        "engine": engine_text(state),
    }
    return _EMPTY_STATUS | Status.model_validate(status).body()


def engine_text(state: State) -> str:
    """Return the state as status keeps it, without payloads, which the annotations and the spec have, without the
    revision, which counts the writes to one store, and without records, which belong in its history."""
    kept = msgspec.structs.replace(
        state,
        revision=1,
        unrecorded=(),
        runs=[_without_payload(run) for run in state.runs],
        waiting=[_without_payload(run) for run in state.waiting[:WAITING_KEPT]],
    )
    return kept.encode().decode()


def since_of(conditions: Sequence[Mapping[str, Any]]) -> Since:
    """Return since when each condition of a status has held."""
    return {condition["type"]: (condition["status"], condition["lastTransitionTime"]) for condition in conditions}


def begun_of(active: Sequence[Mapping[str, Any]]) -> Begun:
    """Return when the active runs of a status began, as far as it says so."""
    return {run["runID"]: run["started"] for run in active if "started" in run} or _NONE_BEGUN


def _without_payload(run: Run) -> Run:
    return run if run.payload is None else msgspec.structs.replace(run, payload=None)


# ---------------------------------------------------------------- conditions

_OF_SPEC = ("Ready", "Stalled")
"""The conditions that follow from the newest spec, and not from the state."""


def _conditions(stored: StoredSchedule, kinds: Collection[str], since: Since, now: Instant) -> list[dict[str, Any]]:
    row, state, definition = stored.row, stored.state, stored.definition
    stalled, reason, message = _readiness(row, definition, state, kinds)
    found = [
        ("Ready", not stalled, reason, message),
        ("Stalled", stalled, reason, message if stalled else ""),
        _suspended(state),
        _last_run(state, stored.records),
    ]
    if definition.expect_success_within is not None or state.overdue:
        within = format_duration(definition.expect_success_within or 0)
        message = f"no success for {within}" if state.overdue else f"a success is expected every {within}"
        found.append(("Overdue", state.overdue, "NoSuccess" if state.overdue else "InTime", message))
    conditions = []
    for condition_type, value, reason, message in found:
        status = "Unknown" if value is None else str(value)
        before = since.get(condition_type)
        conditions.append(
            {
                "type": condition_type,
                "status": status,
                "reason": reason,
                "message": message,
                "lastTransitionTime": before[1] if before is not None and before[0] == status else _whole_second(now),
                # The owner may still work with the previous spec, whose generation is in the state.
                "observedGeneration": (
                    row.generation if condition_type in _OF_SPEC else state.generation or row.generation
                ),
            }
        )
    return conditions


def _readiness(row: Row, definition: Definition, state: State, kinds: Collection[str]) -> tuple[bool, str, str]:
    """Return whether the schedule is stalled until somebody edits it, and the reason and the message of Ready."""
    if problem := problem_of(definition):
        return True, "InvalidSpec", problem
    if message := unknown_kind(row.kind, kinds):
        return True, UNKNOWN_KIND, message
    if state.completed is not None:
        return False, "Completed", COMPLETED[state.completed]
    if state.paused:
        return False, "AutoPaused", f"the last {failed_runs(state)} failed"
    if state.suspended:
        return False, "Suspended", "spec.suspend is true: no new slot starts"
    return False, "Scheduled", "its slots run as they come due"


def _suspended(state: State) -> tuple[str, bool | None, str, str]:
    if state.suspended:
        return "Suspended", True, "Suspended", "spec.suspend is true"
    if state.paused:
        message = f"pauseAfterFailures is reached: change the spec, or set the annotation {GROUP}/resume to a new token"
        return "Suspended", True, "AutoPaused", message
    return "Suspended", False, "NotSuspended", ""


def failed_runs(state: State) -> str:
    """Return how many runs have failed in a row: ``run``, ``3 runs``, or ``runs`` if the number is not known."""
    count = state.failures_in_row
    return f"{count} runs" if count > 1 else "run" if count else "runs"


def _last_run(state: State, records: Sequence[RunRecord]) -> tuple[str, bool | None, str, str]:
    newest = next((record for record in records if record.outcome in (Outcome.SUCCEEDED, Outcome.FAILED)), None)
    succeeded, failed = state.last_success or 0, state.last_failure or 0
    if not succeeded and not failed:
        return "LastRunSucceeded", None, "NoRunYet", "no run has ended yet"
    if succeeded >= failed:
        return "LastRunSucceeded", True, "Succeeded", ""
    reason = newest.reason if newest is not None and newest.outcome is Outcome.FAILED else ""
    return "LastRunSucceeded", False, "Failed", reason


def _last_outcome(state: State, records: Sequence[RunRecord]) -> str | None:
    """Return the outcome of the newest run, also if history no longer has it."""
    if records:
        return records[0].outcome.value
    succeeded, failed = state.last_success or 0, state.last_failure or 0
    if not succeeded and not failed:
        return None
    return (Outcome.SUCCEEDED if succeeded >= failed else Outcome.FAILED).value


# ---------------------------------------------------------------- times


def _next_due(stored: StoredSchedule, starting: Run | None, now: Instant) -> Instant | None:
    """Return when the next run starts after the run that is starting now."""
    state, definition, slots = stored.state, stored.definition, stored.slots
    if state.completed is not None or state.suspended or state.paused or problem_of(definition):
        return None
    if state.next is not None and starting is None and (state.next.due > now or not state.runs):
        return state.next.due
    started = state.started + (starting is not None)
    if slots is None or (definition.max_runs is not None and started >= definition.max_runs):
        return None
    slot = slots.next(max(state.decided_until, now))
    return None if slot is None else slot + jitter_of(stored.row.uid, slot, definition.jitter)


def waits_for_capacity(stored: StoredSchedule, kinds: Collection[str], now: Instant) -> bool:
    """Return whether the row is due, and every replica that could run it has no room for it."""
    row, state = stored.row, stored.state
    due = row.wake_at is not None and row.wake_at + CLAIMED_AFTER <= now and row.owner is None
    has_work = bool(state.runs) or (state.next is not None and state.next.due <= now)
    return due and has_work and not unknown_kind(row.kind, kinds)


def _describe_next_run(state: State, definition: Definition, due: Instant | None) -> str:
    if due is not None:
        return _whole_second(due)
    if problem_of(definition):
        return "invalid"
    if state.completed is not None:
        return "completed"
    if state.suspended:
        return "suspended"
    return "paused" if state.paused else "none"


def _time(instant: Instant | None) -> str | None:
    return None if instant is None else rfc3339(instant)


def _whole_second(instant: Instant) -> str:
    return rfc3339(instant // SECOND * SECOND)


# ---------------------------------------------------------------- runs


def _active(row: Row, run: Run, now: Instant, begun: Begun, waiting: Waiting, *, can_start: bool) -> dict[str, Any]:
    name = run_id(row.uid, run)
    shown: dict[str, Any] = {"runID": name, "slot": rfc3339(run.slot), "attempt": run.attempt}
    words, has_started = waiting.get(name, ("", True))
    if words:
        shown["waitingFor"] = words
    if not has_started and run.attempt == 1:
        pass
    elif name in begun:  # preferred: after the loss of a replica the state has only the time when the run was due
        shown["started"] = begun[name]
    elif run.begun and can_start:
        shown["started"] = rfc3339(run.begun)
    if run.due > now:
        shown["due"] = rfc3339(run.due)
    elif run.detached:
        shown["pod"] = pod_name(row.slug.rpartition("/")[2], name, run.attempt)
    if run.token:
        shown["token"] = run.token
    return shown


def _kept(records: Sequence[RunRecord], now: Instant) -> list[RunRecord]:
    """Return the records that ``history`` keeps. The store deletes the others later, which status should not show."""
    newer = {True: 0, False: 0}
    kept = []
    for record in records:
        succeeded = record.outcome is Outcome.SUCCEEDED
        if newer[succeeded] < record.keep and record.expires > now:
            kept.append(record)
        newer[succeeded] += 1
    return kept


def _recent(row: Row, records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    shown = []
    output_given = False
    for record in records:
        run: dict[str, Any] = {
            "runID": record.run_id,
            "slot": rfc3339(record.slot),
            "finished": rfc3339(record.finished),
            "attempt": record.attempt,
            "outcome": record.outcome.value,
        }
        if record.started is not None:
            run["started"] = rfc3339(record.started)
        if record.reason:
            run["reason"] = record.reason
        if record.code is not None:
            run["code"] = record.code
        if record.replica:
            pod = pod_name(row.slug.rpartition("/")[2], record.run_id, record.attempt)
            run["pod" if record.replica == pod else "replica"] = record.replica
        if record.manual:
            run["token"] = record.run_id.removeprefix(f"{row.uid}-")
        if record.outcome is Outcome.FAILED and not output_given:
            output_given = True
            if record.output:
                run["output"] = record.output[-OUTPUT_LIMIT:].decode("utf-8", "replace").replace("\0", "\ufffd")
        shown.append(run)
    return shown


def _handled(state: State) -> dict[str, list[str]]:
    handled: dict[str, list[str]] = {field: [] for field in HANDLED_FIELDS.values()}
    for entry in state.handled:
        request, _, token = entry.partition("/")
        handled[HANDLED_FIELDS[request]].append(token)
    return handled
