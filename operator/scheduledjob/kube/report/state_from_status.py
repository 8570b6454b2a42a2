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


class _Active(msgspec.Struct):
    slot: datetime
    attempt: int
    started: datetime | None = None
    due: datetime | None = None
    pod: str = ""
    token: str = ""


class _Told(msgspec.Struct, rename="camel"):
    decided_until: datetime = msgspec.field(name="floor")
    observed_generation: int = 0
    conditions: list[_Condition] = []
    last_schedule_time: datetime | None = None
    last_success_time: datetime | None = None
    last_failure_time: datetime | None = None
    active: list[_Active] = []
    counters: dict[str, int] = {}
    handled: dict[str, list[str]] = {}


def state_from_status(status: Mapping[str, Any], desired: DesiredState, now: Instant) -> State | None:
    """The state that this status tells of; None where it tells of none, or of what can't be."""
    try:
        told = msgspec.convert(status, _Told)
        decided_until = to_instant(told.decided_until)
        runs = [_run(one, now) for one in told.active]
        times = [_time(one) for one in (told.last_schedule_time, told.last_success_time, told.last_failure_time)]
    except ValueError:  # msgspec's errors are ValueErrors
        return None
    as_it_was = told.observed_generation == desired.generation
    ready = next((one for one in told.conditions if one.type == "Ready"), None)
    # The slot that was planned and due is among what is active, because it may have begun: it is not decided yet.
    planned = next(
        (run for run in runs if run.slot > decided_until and not (run.begun or run.token or run.adoptable)), None
    )
    # One that is said to have begun is decided by that, though nothing was written then that says so.
    decided: list[Instant] = []
    if not desired.follows:  # slots that follow other runs have a floor of their own
        decided = [run.slot for run in runs if run.slot > decided_until and not run.token and run is not planned]
    counted = told.counters.get
    return State(
        decided_until=max(decided_until, *decided) if decided else decided_until,
        next=planned,
        runs=[run for run in runs if run is not planned],
        when=desired.definition.when_digest if as_it_was else "",
        generation=told.observed_generation,
        suspended=any(one.reason == "Suspended" and one.status == "True" for one in told.conditions),
        paused=ready is not None and ready.reason == "AutoPaused",
        completed=Completion.JOB if ready is not None and ready.message == COMPLETED[Completion.JOB] else None,
        started=counted("started", 0) + len(decided),
        succeeded=counted("succeeded", 0),
        failed=counted("failed", 0),
        cancelled=counted("cancelled", 0),
        skipped=counted("skippedOverlap", 0),
        missed=counted("missed", 0),
        excluded=counted("excluded", 0),
        last_schedule=times[0],
        last_success=times[1],
        last_failure=times[2],
        expect_from=desired.created_at,
        followed=decided_until,
        handled=tuple(f"{act}/{token}" for name, act in _REQUESTS.items() for token in told.handled.get(name, ())),
    )


def _run(one: _Active, now: Instant) -> Run:
    return Run(
        slot=to_instant(one.slot),
        due=now if one.due is None else to_instant(one.due),
        attempt=one.attempt,
        begun=0 if one.started is None else to_instant(one.started),
        token=one.token,
        detached=bool(one.pod),
        adoptable=bool(one.pod),
    )


def _time(told: datetime | None) -> Instant | None:
    return None if told is None else to_instant(told)
