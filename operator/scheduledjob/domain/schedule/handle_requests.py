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

    from .actions import Moves
    from .requests import Acts
    from .runs import Runs

REMEMBERED = 32


def asked(acts: Acts) -> dict[str, str]:
    """What is asked for, as ``State.handled`` will name it, by the kind of act."""
    tokens = {"resume": acts.resume, "cancel": acts.cancel, "run-now": acts.run}
    return {act: f"{act}/{token}" for act, token in tokens.items() if token}


def is_handled(acts: Acts, state: State) -> bool:
    return all(entry in state.handled for entry in asked(acts).values())


def carry_out(schedule: Runs, acts: Acts, now: Instant, moves: Moves) -> None:
    """Do what is asked for and was not done before."""
    state = schedule.state
    wanted = asked(acts)
    for act, entry in wanted.items():
        if entry in state.handled:
            continue
        if act == "resume":
            _resume(schedule, now)
        elif act == "cancel":
            _cancel(schedule, acts.cancel, now, moves)
        else:
            _run(schedule, acts, now, moves)
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
        state.floor = max(state.floor, now)
        start_anew(state, now)
        schedule.look(now)


def _cancel(schedule: Runs, wanted: str, now: Instant, moves: Moves) -> None:
    for run in [*schedule.state.runs, *schedule.state.waiting]:
        if run_id(schedule.uid, run) == wanted and schedule.cancel(run, now, "cancelled by hand"):
            moves.cancel += (run,)


def _run(schedule: Runs, acts: Acts, now: Instant, moves: Moves) -> None:
    run = Run(slot=now, due=now, token=acts.run, payload=acts.payload, outlives=schedule.outlives)
    if schedule.state.completed is Completion.JOB:
        schedule.finish(run, Outcome.CANCELLED, now, COMPLETED)
        return
    schedule.fresh += (run,)
    schedule.admit(run, now, moves)
