"""Requests: what people ask of a schedule by hand, beside what its definition says.

Requests are read from the object as it is now, again and again; they are not events. So each request has a token, and a
token counts once. ``State.handled`` remembers the handled tokens, in the same write as what
came of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from . import runs
from .actions import EndDetails
from .followed_runs import plan_poll, start_anew
from .state import Completion, Outcome, Run, State, run_id

if TYPE_CHECKING:
    from scheduledjob.domain.time.instants import Instant

    from .actions import Actions
    from .schedule import Schedule

MAX_REMEMBERED_REQUESTS = 32


class Requests(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is requested. An empty token requests nothing."""

    run: str = ""
    """Token of a run to start now: with the uid it identifies that run."""
    payload: bytes | None = None
    """For that run, in place of the schedule's own payload."""
    cancel: str = ""
    """Id of a run to cancel."""
    resume: str = ""
    """Token of a request to resume after ``pauseAfterFailures``."""

    def encode(self) -> str:
        """Return canonical JSON; empty if nothing is requested."""
        return "" if self == NO_REQUESTS else _encoder.encode(self).decode()

    @staticmethod
    def decode(text: str) -> Requests:
        """Read what ``encode`` returned. Raises ``msgspec.ValidationError`` for text that no version wrote."""
        return _decoder.decode(text) if text else NO_REQUESTS


class PendingRequests(NamedTuple):
    """Requests that a schedule has yet to handle."""

    requests: Requests
    since: Instant
    """When they were written."""


NO_REQUESTS = Requests()
_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder(Requests)


def is_handled(requests: Requests, state: State) -> bool:
    return all(entry in state.handled for entry in _entries_of(requests).values())


def handle(schedule: Schedule, requests: Requests, now: Instant, actions: Actions) -> None:
    """Do what is requested and was not done before."""
    state = schedule.state
    entries = _entries_of(requests)
    for request, entry in entries.items():
        if entry in state.handled:
            continue
        if request == "resume":
            _resume(schedule, now)
        elif request == "cancel":
            _cancel(schedule, requests.cancel, now, actions)
        else:
            _run_now(schedule, requests, now, actions)
        state.handled += (entry,)
        schedule.writes.changed = True
    # What the object still requests is remembered, however old it is. Otherwise it would be done again.
    keep = max(0, MAX_REMEMBERED_REQUESTS - len(entries))
    others = [entry for entry in state.handled if entry not in entries.values()]
    if len(others) > keep:
        dropped = set(others[: len(others) - keep])
        state.handled = tuple(entry for entry in state.handled if entry not in dropped)


def _entries_of(requests: Requests) -> dict[str, str]:
    """Return the entry of ``State.handled`` for each request that is made."""
    tokens = {"resume": requests.resume, "cancel": requests.cancel, "run-now": requests.run}
    return {request: f"{request}/{token}" for request, token in tokens.items() if token}


def _resume(schedule: Schedule, now: Instant) -> None:
    state = schedule.state
    if state.paused:
        state.paused = False
        state.paused_under = 0
        state.failures_in_row = 0
        state.decided_until = max(state.decided_until, now)
        start_anew(state, now)
        plan_poll(schedule, now)


def _cancel(schedule: Schedule, wanted: str, now: Instant, actions: Actions) -> None:
    for run in [*schedule.state.runs, *schedule.state.waiting]:
        if run_id(schedule.uid, run) == wanted and runs.cancel(schedule, run, now, "cancelled by hand"):
            actions.cancel += (run,)


def _run_now(schedule: Schedule, requests: Requests, now: Instant, actions: Actions) -> None:
    run = Run(slot=now, due=now, token=requests.run, payload=requests.payload, detached=schedule.detached)
    if schedule.state.completed is Completion.JOB:
        runs.finish(schedule, run, Outcome.CANCELLED, now, EndDetails(runs.COMPLETED_REASON))
        return
    schedule.writes.add(run)
    runs.admit(schedule, run, now, actions)
