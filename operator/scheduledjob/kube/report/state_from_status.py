"""What status says in so many words, for a store that does not know the object and finds no record of the engine's.

That record is left out where it would be too long (a thousand runs at once), and somebody may have edited it away. What
people are told is less: the newest of the runs that were active, the newest of the acts that were carried out. But it
is enough that no slot that was decided runs again, and nothing that was asked for by hand is done twice.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from scheduledjob.domain.schedule.state import Completion, Run, State
from scheduledjob.domain.time.instants import Instant, to_instant

from .status import COMPLETED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scheduledjob.kube.reconcile.desired_state import DesiredState

_REQUESTS = {"runNow": "run-now", "cancel": "cancel", "resume": "resume"}


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
    """The state that this status tells of; None where it tells of none, or of what can't be."""
    try:
        fields = msgspec.convert(status, _StatusFields)
        decided_until = to_instant(fields.decided_until)
        runs = [_run(run, now) for run in fields.active]
        last_schedule = _time(fields.last_schedule_time)
        last_success = _time(fields.last_success_time)
        last_failure = _time(fields.last_failure_time)
    except ValueError:  # msgspec's errors are ValueErrors
        return None
    as_it_was = fields.observed_generation == desired.generation
    ready = next((condition for condition in fields.conditions if condition.type == "Ready"), None)
    # The slot that was planned and due is among what is active, because it may have begun: it is not decided yet.
    planned = next(
        (run for run in runs if run.slot > decided_until and not (run.begun or run.token or run.adoptable)), None
    )
    # One that is said to have begun is decided by that, though nothing was written then that says so.
    decided: list[Instant] = []
    if not desired.follows:  # slots that follow other runs have a floor of their own
        decided = [run.slot for run in runs if run.slot > decided_until and not run.token and run is not planned]
    counted = fields.counters.get
    return State(
        decided_until=max(decided_until, *decided) if decided else decided_until,
        next=planned,
        runs=[run for run in runs if run is not planned],
        when=desired.definition.when_digest if as_it_was else "",
        generation=fields.observed_generation,
        suspended=any(
            condition.reason == "Suspended" and condition.status == "True" for condition in fields.conditions
        ),
        paused=ready is not None and ready.reason == "AutoPaused",
        completed=Completion.JOB if ready is not None and ready.message == COMPLETED[Completion.JOB] else None,
        started=counted("started", 0) + len(decided),
        succeeded=counted("succeeded", 0),
        failed=counted("failed", 0),
        cancelled=counted("cancelled", 0),
        skipped=counted("skippedOverlap", 0),
        missed=counted("missed", 0),
        excluded=counted("excluded", 0),
        last_schedule=last_schedule,
        last_success=last_success,
        last_failure=last_failure,
        expect_from=desired.created_at,
        followed=decided_until,
        handled=tuple(f"{act}/{token}" for name, act in _REQUESTS.items() for token in fields.handled.get(name, ())),
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
