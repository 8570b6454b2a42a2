"""What the status of an object says: the state of its row, told in the words of the resource.

A pure function of what the store has, so that any replica may write it and two that write the same truth write the
same text. Nothing here is a default, a guess or a clock of its own. Carried over from the status that stands there is
what the store is not told of: since when each condition has been as it is, and when a run's first attempt started,
which only the replica that runs it knows until the attempt ends.

``status.engine`` is the row's state itself. A store that does not know the object (memory after a restart, a new or
restored database) goes on from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from scheduledjob.domain.schedule.misfire import jitter_of
from scheduledjob.domain.schedule.state import Completion, Outcome, Run, RunRecord, State, run_id
from scheduledjob.domain.time.durations import format_duration
from scheduledjob.domain.time.instants import SECOND, rfc3339
from scheduledjob.jobs.container.pod_names import pod_name
from scheduledjob.kube.reconcile.desired_state import problem_of, unknown_kind
from scheduledjob.manifests.status_model import OUTPUT_LIMIT, RECENT_RUNS, Status

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from scheduledjob.domain.schedule.definition import Definition
    from scheduledjob.domain.schedule.misfire import Slots
    from scheduledjob.domain.time.instants import Instant
    from scheduledjob.engine.store import Row

WAITING_KEPT = 100
"""Runs that wait, as far as a store that does not know the object is told of them."""

Since = dict[str, tuple[str, str]]
"""Of each condition by its type: the status that it has, and since when (RFC 3339)."""

Begun = dict[str, str]
"""Of runs by their id: when their first attempt started (RFC 3339)."""

UNKNOWN_KIND = "UnknownKind"
"""Reason of the conditions of an object whose job the operator can't run."""

_NONE_BEGUN: Begun = {}

_NOTHING: dict[str, Any] = dict.fromkeys(part.alias or name for name, part in Status.model_fields.items())

COMPLETED = {
    Completion.JOB: "its job said that it is done",
    Completion.MAX_RUNS: "maxRuns is reached",
    Completion.NO_SLOT: "its triggers have no slot left",
}
"""Why a schedule is done, in words."""


def build_status(
    row: Row,
    state: State,
    definition: Definition,
    slots: Slots | None,
    records: Sequence[RunRecord],
    kinds: Collection[str],
    since: Since,
    now: Instant,
    begun: Begun = _NONE_BEGUN,
) -> dict[str, Any]:
    """The whole status, as a merge patch: a field that is None is to be absent.

    ``state``: the row's. ``records``: the newest runs of this object, newest first. ``kinds``: what this operator can
    run. ``since``: of the conditions that stand there now. ``begun``: what is known of runs beside the state.
    """
    # What is due may begin without a write, as soon as the row has an owner.
    begins = state.next if row.owner is not None and state.next is not None and state.next.due <= now else None
    next_due = _next_due(row.uid, state, begins, definition, slots, now)
    newest = next((record for record in records if record.outcome in (Outcome.SUCCEEDED, Outcome.FAILED)), None)
    active = state.runs if begins is None else [*state.runs, begins]
    # Of what nobody runs, nor can, the state may say only that it might have begun with a replica that was lost.
    stands = row.owner is None and bool(unknown_kind(row.kind, kinds))
    status = {
        "observedGeneration": row.generation,
        "conditions": _conditions(row, definition, state, newest, kinds, since, now),
        "schedule": ", ".join(trigger.short() for trigger in definition.triggers) or None,
        "nextRunTime": _time(next_due),
        "nextRun": _next_in_words(state, definition, next_due),
        "lastScheduleTime": _time(state.last_schedule),
        "lastSuccessTime": _time(state.last_success),
        "lastFailureTime": _time(state.last_failure),
        "lastOutcome": _last_outcome(state, records),
        "activeCount": len(active),
        "active": [_active(row, run, now, begun, stands=stands) for run in active],
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
    return _NOTHING | Status.model_validate(status).body()


def engine_text(state: State) -> str:
    """The state as status keeps it: payloads stay in the annotations and the spec, where they came from, and revisions
    are of one store."""
    kept = msgspec.structs.replace(
        state,
        revision=1,
        runs=[_without_payload(run) for run in state.runs],
        waiting=[_without_payload(run) for run in state.waiting[:WAITING_KEPT]],
    )
    return kept.encode().decode()


def since_of(conditions: Sequence[Mapping[str, Any]]) -> Since:
    """Since when the conditions of an object are as they are."""
    return {found["type"]: (found["status"], found["lastTransitionTime"]) for found in conditions}


def begun_of(active: Sequence[Mapping[str, Any]]) -> Begun:
    """When the active runs of an object started, as far as its status says so."""
    return {run["runID"]: run["started"] for run in active if "started" in run} or _NONE_BEGUN


def _without_payload(run: Run) -> Run:
    return run if run.payload is None else msgspec.structs.replace(run, payload=None)


# ---------------------------------------------------------------- conditions

_OF_SPEC = ("Ready", "Stalled")


def _conditions(
    row: Row,
    definition: Definition,
    state: State,
    newest: RunRecord | None,
    kinds: Collection[str],
    since: Since,
    now: Instant,
) -> list[dict[str, Any]]:
    stalled, reason, message = _standing(row, definition, state, kinds)
    found = [
        ("Ready", not stalled, reason, message),
        ("Stalled", stalled, reason, message if stalled else ""),
        _suspended(state),
        _last_run(state, newest),
    ]
    if definition.expect_success_within is not None or state.overdue:
        within = format_duration(definition.expect_success_within or 0)
        message = f"no success for {within}" if state.overdue else f"a success is expected every {within}"
        found.append(("Overdue", state.overdue, "NoSuccess" if state.overdue else "InTime", message))
    conditions = []
    for kind, holds, why, words in found:
        status = "Unknown" if holds is None else str(holds)
        known = since.get(kind)
        conditions.append(
            {
                "type": kind,
                "status": status,
                "reason": why,
                "message": words,
                "lastTransitionTime": known[1] if known is not None and known[0] == status else _second(now),
                # What follows from the spec is said of the spec that stands there; the rest of that which is gone by.
                "observedGeneration": row.generation if kind in _OF_SPEC else state.generation or row.generation,
            }
        )
    return conditions


def _standing(row: Row, definition: Definition, state: State, kinds: Collection[str]) -> tuple[bool, str, str]:
    """Whether the schedule stands still for a reason that somebody has to mend; the reason, and words."""
    if problem := problem_of(definition):
        return True, "InvalidSpec", problem
    if words := unknown_kind(row.kind, kinds):
        return True, UNKNOWN_KIND, words
    if state.completed is not None:
        return False, "Completed", COMPLETED[state.completed]
    if state.paused:
        return False, "AutoPaused", f"{state.failures_in_row} runs in a row have failed"
    if state.suspended:
        return False, "Suspended", "spec.suspend is true: no new slot starts"
    return False, "Scheduled", "its slots are run as they come due"


def _suspended(state: State) -> tuple[str, bool | None, str, str]:
    if state.suspended:
        return "Suspended", True, "Suspended", "spec.suspend is true"
    if state.paused:
        words = "pauseAfterFailures is reached: change the spec, or annotate scheduledjobs.dev/resume with a new token"
        return "Suspended", True, "AutoPaused", words
    return "Suspended", False, "NotSuspended", ""


def _last_run(state: State, newest: RunRecord | None) -> tuple[str, bool | None, str, str]:
    succeeded, failed = state.last_success or 0, state.last_failure or 0
    if not succeeded and not failed:
        return "LastRunSucceeded", None, "NoRunYet", "no run has ended yet"
    if succeeded >= failed:
        return "LastRunSucceeded", True, "Succeeded", ""
    reason = newest.reason if newest is not None and newest.outcome is Outcome.FAILED else ""
    return "LastRunSucceeded", False, "Failed", reason


def _last_outcome(state: State, records: Sequence[RunRecord]) -> str | None:
    """Of the newest run, whether or not history has kept it."""
    if records:
        return records[0].outcome.value
    succeeded, failed = state.last_success or 0, state.last_failure or 0
    if not succeeded and not failed:
        return None
    return (Outcome.SUCCEEDED if succeeded >= failed else Outcome.FAILED).value


# ---------------------------------------------------------------- times


def _next_due(
    uid: str, state: State, begins: Run | None, definition: Definition, slots: Slots | None, now: Instant
) -> Instant | None:
    """When the next run starts, apart from the one that begins already."""
    if state.completed is not None or state.suspended or state.paused or problem_of(definition):
        return None
    if state.next is not None and begins is None:
        return state.next.due
    started = state.started + (begins is not None)
    if slots is None or (definition.max_runs is not None and started >= definition.max_runs):
        return None
    slot = slots.next(max(state.decided_until, now))
    return None if slot is None else slot + jitter_of(uid, slot, definition.jitter)


def _next_in_words(state: State, definition: Definition, due: Instant | None) -> str:
    if due is not None:
        return rfc3339(due // SECOND * SECOND)
    if problem_of(definition):
        return "invalid"
    if state.completed is not None:
        return "completed"
    if state.suspended:
        return "suspended"
    return "paused" if state.paused else "none"


def _time(instant: Instant | None) -> str | None:
    return None if instant is None else rfc3339(instant)


def _second(instant: Instant) -> str:
    """Conditions have whole seconds."""
    return rfc3339(instant // SECOND * SECOND)


# ---------------------------------------------------------------- runs


def _active(row: Row, run: Run, now: Instant, begun: Begun, *, stands: bool) -> dict[str, Any]:
    name = run_id(row.uid, run)
    shown: dict[str, Any] = {"runID": name, "slot": rfc3339(run.slot), "attempt": run.attempt}
    if name in begun:  # first: where its replica was lost, the state has no more than when it was due
        shown["started"] = begun[name]
    elif run.begun and not stands:
        shown["started"] = rfc3339(run.begun)
    if run.due > now:
        shown["due"] = rfc3339(run.due)
    elif run.detached:
        shown["pod"] = pod_name(row.slug.rpartition("/")[2], name, run.attempt)
    if run.token:
        shown["token"] = run.token
    return shown


def _kept(records: Sequence[RunRecord], now: Instant) -> list[RunRecord]:
    """Those that history keeps: the store drops the others in its own time, and status is not to tell of that."""
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
    handled: dict[str, list[str]] = {"runNow": [], "cancel": [], "resume": []}
    for act in state.handled:
        name, _, token = act.partition("/")
        handled["runNow" if name == "run-now" else name].append(token)
    return handled
