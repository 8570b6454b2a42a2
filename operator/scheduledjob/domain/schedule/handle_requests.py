"""Manual: what becomes of acts, the things that people ask of a schedule by hand.

Acts are handed over again and again, as they stand on the object. Each counts once: what was carried out is
remembered in ``state.handled``, in the same write as what came of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .followed_runs import start_anew
from .runs import COMPLETED
from .state import Completion, Outcome, Run, State, run_id

if TYPE_CHECKING:
    from scheduledjob.domain.time.instants import Instant

    from .actions import Actions
    from .requests import Requests
    from .runs import Runs

REMEMBERED = 32


def asked(requests: Requests) -> dict[str, str]:
    """What is asked for, as ``State.handled`` will name it, by the kind of act."""
    tokens = {"resume": requests.resume, "cancel": requests.cancel, "run-now": requests.run}
    return {act: f"{act}/{token}" for act, token in tokens.items() if token}


def is_handled(requests: Requests, state: State) -> bool:
    return all(entry in state.handled for entry in asked(requests).values())


def carry_out(schedule: Runs, requests: Requests, now: Instant, actions: Actions) -> None:
    """Do what is asked for and was not done before."""
    state = schedule.state
    wanted = asked(requests)
    for act, entry in wanted.items():
        if entry in state.handled:
            continue
        if act == "resume":
            _resume(schedule, now)
        elif act == "cancel":
            _cancel(schedule, requests.cancel, now, actions)
        else:
            _run(schedule, requests, now, actions)
        state.handled += (entry,)
        schedule.changed = True
    # What still stands on the object is not forgotten, however old it is: it would be done again.
    keep = max(0, REMEMBERED - len(wanted))
    others = [entry for entry in state.handled if entry not in wanted.values()]
    if len(others) > keep:
        dropped = set(others[: len(others) - keep])
        state.handled = tuple(entry for entry in state.handled if entry not in dropped)


def _resume(schedule: Runs, now: Instant) -> None:
    state = schedule.state
    if state.paused:
        state.paused = False
        state.paused_under = 0
        state.failures_in_row = 0
        state.decided_until = max(state.decided_until, now)
        start_anew(state, now)
        schedule.look(now)


def _cancel(schedule: Runs, wanted: str, now: Instant, actions: Actions) -> None:
    for run in [*schedule.state.runs, *schedule.state.waiting]:
        if run_id(schedule.uid, run) == wanted and schedule.cancel(run, now, "cancelled by hand"):
            actions.cancel += (run,)


def _run(schedule: Runs, requests: Requests, now: Instant, actions: Actions) -> None:
    run = Run(slot=now, due=now, token=requests.run, payload=requests.payload, detached=schedule.detached)
    if schedule.state.completed is Completion.JOB:
        schedule.finish(run, Outcome.CANCELLED, now, COMPLETED)
        return
    schedule.unstored += (run,)
    schedule.admit(run, now, actions)
