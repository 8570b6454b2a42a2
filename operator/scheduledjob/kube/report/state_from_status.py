"""Restores the state of a schedule from the readable fields of its status.

A store that does not know an object restores its state from ``status.engine``. That field is missing if it would be too
long (a thousand runs at once) or if somebody removed it. The other fields say less: they have only the newest active
runs and the newest requests. But they suffice to run no slot twice, and to carry out no request by hand twice.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from scheduledjob.domain.schedule.state import Completion, Run, State
from scheduledjob.domain.time.instants import Instant, to_instant

from .status import COMPLETED, HANDLED_FIELDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scheduledjob.kube.reconcile.desired_state import DesiredState


class _Condition(msgspec.Struct):
    type: str
    status: str
    reason: str
    message: str


class _ActiveRun(msgspec.Struct):
    slot: datetime
    attempt: int
    started: datetime | None = None
    due: datetime | None = None
    pod: str = ""
    token: str = ""


class _StatusFields(msgspec.Struct, rename="camel"):
    decided_until: datetime = msgspec.field(name="floor")
    observed_generation: int = 0
    conditions: list[_Condition] = []
    last_schedule_time: datetime | None = None
    last_success_time: datetime | None = None
    last_failure_time: datetime | None = None
    active: list[_ActiveRun] = []
    counters: dict[str, int] = {}
    handled: dict[str, list[str]] = {}


def state_from_status(status: Mapping[str, Any], desired: DesiredState, now: Instant) -> State | None:
    """Return the state that this status describes, or None if it describes none or makes no sense."""
    try:
        fields = msgspec.convert(status, _StatusFields)
        decided_until = to_instant(fields.decided_until)
        runs = [_run(run, now) for run in fields.active]
        last_schedule = _time(fields.last_schedule_time)
        last_success = _time(fields.last_success_time)
        last_failure = _time(fields.last_failure_time)
    except ValueError:  # msgspec's errors are ValueErrors
        return None
    unchanged = fields.observed_generation == desired.generation
    ready = next((condition for condition in fields.conditions if condition.type == "Ready"), None)
    # A slot that was planned and due is listed as active, because it may have begun. It is not decided yet.
    planned = next(
        (run for run in runs if run.slot > decided_until and not (run.begun or run.token or run.adoptable)), None
    )
    # An active run that has begun is decided, although the watermark was not written yet.
    decided: list[Instant] = []
    if not desired.follows:  # schedules that follow others have a watermark of their own: `followed`
        decided = [run.slot for run in runs if run.slot > decided_until and not run.token and run is not planned]
    count = fields.counters.get
    return State(
        decided_until=max(decided_until, *decided) if decided else decided_until,
        next=planned,
        runs=[run for run in runs if run is not planned],
        when=desired.definition.when_digest if unchanged else "",
        generation=fields.observed_generation,
        suspended=any(
            condition.reason == "Suspended" and condition.status == "True" for condition in fields.conditions
        ),
        paused=ready is not None and ready.reason == "AutoPaused",
        completed=Completion.JOB if ready is not None and ready.message == COMPLETED[Completion.JOB] else None,
        started=count("started", 0) + len(decided),
        succeeded=count("succeeded", 0),
        failed=count("failed", 0),
        cancelled=count("cancelled", 0),
        skipped=count("skippedOverlap", 0),
        missed=count("missed", 0),
        excluded=count("excluded", 0),
        last_schedule=last_schedule,
        last_success=last_success,
        last_failure=last_failure,
        expect_from=desired.created_at,
        followed=decided_until,
        handled=tuple(
            f"{request}/{token}" for request, field in HANDLED_FIELDS.items() for token in fields.handled.get(field, ())
        ),
    )


def _run(active: _ActiveRun, now: Instant) -> Run:
    return Run(
        slot=to_instant(active.slot),
        due=now if active.due is None else to_instant(active.due),
        attempt=active.attempt,
        begun=0 if active.started is None else to_instant(active.started),
        token=active.token,
        detached=bool(active.pod),
        adoptable=bool(active.pod),
    )


def _time(time: datetime | None) -> Instant | None:
    return None if time is None else to_instant(time)
