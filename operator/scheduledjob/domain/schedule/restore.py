"""Restore: from what an object's status remembers to the state of a new row.

A store that does not know an object (memory after a restart, a database that is new or was restored) must neither
lose what came due meanwhile nor run again in silence what had begun. Whoever wrote the status either ended in order,
and then it tells the whole truth, or did not, and then runs may have begun that it does not speak of. Those carry the
doubt in their number: they start as the attempt after one that was lost.

Status is open to anybody who may edit it, and what stands there may be of the right form and still be nonsense. What
no version of this product could have meant is refused here, as a whole: behind this point nobody looks again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from scheduledjob.domain.time.instants import SECOND
from scheduledjob.domain.time.zones import LAST_SECOND

from .machine import Schedule
from .state import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scheduledjob.domain.time.instants import Instant

    from .definition import Definition
    from .misfire import Slots
    from .state import Run

_REQUESTS = frozenset({"run-now", "cancel", "resume"})
_LAST: Instant = LAST_SECOND * SECOND
_MOST = 2**31 - 1
"""Of whatever is counted: what the stores hold."""
_LONGEST = 1024
"""Characters of a token or of a reason."""


def restored_state(
    text: str, definition: Definition, slots: Slots | None, uid: str, now: Instant, *, in_order: bool, detached: bool
) -> tuple[State, Instant | None]:
    """The state to begin a row with, and when it is due; ``text`` is ``State.encode()`` as it was last written.

    ``in_order``: whoever wrote it had stopped before, so nothing has begun since. ``detached``: its attempts outlive
    their replica. Raises ``msgspec.ValidationError`` for a text that no version of this product wrote.
    """
    state = State.decode(text)
    if wrong := next(_nonsense(state), None):
        raise msgspec.ValidationError(f"{wrong} can't be")
    schedule = Schedule("", uid, definition, slots, state, detached=detached)
    if not in_order:
        edited = definition.when_digest != state.when
        schedule.recovered(now, edited=edited)
        known = [*state.runs, *state.waiting]
        if not edited:  # else what else came due since is not known, and an edit replays nothing
            schedule.step(now)
        for run in [*state.runs, *state.waiting]:
            if not any(run is one for one in known) and not run.detached:
                run.attempt, run.lost, run.begun = run.attempt + 1, 1, run.begun or run.due
    # Less than any row's: whoever takes it goes by the object as it is now.
    state.revision = 0
    idle = state.next is None and schedule.open  # a slot is planned by whoever takes it
    return state, now if state.runs or state.waiting or idle else schedule.wake()


def _nonsense(state: State) -> Iterator[str]:
    """What in a state of the right form no schedule can come to."""
    instants = [
        state.decided_until,
        state.paused_under,
        state.expect_from,
        state.followed,
        *state.followed_ids.values(),
    ]
    instants += [one for one in (state.last_schedule, state.last_success, state.last_failure) if one is not None]
    counts = [state.generation, state.started, state.succeeded, state.failed, state.cancelled]
    counts += [state.skipped, state.missed, state.excluded, state.failures_in_row]
    runs = [*state.runs, *state.waiting, *state.upcoming, *([state.next] if state.next is not None else ())]
    for run in runs:
        instants += [run.slot, run.due, run.begun]
        counts += [run.attempt - 1, run.failed, run.lost]
        if len(run.token) > _LONGEST or len(run.cancel_reason) > _LONGEST:
            yield "a token or a reason of that length"
    if any(not 0 <= one <= _LAST for one in instants):
        yield "an instant of that size"
    if any(not 0 <= one <= _MOST for one in counts):
        yield "a count of that size"
    if any(entry.partition("/")[0] not in _REQUESTS for entry in state.handled):
        yield "an act of that name"
    if len({_identity(run) for run in runs}) < len(runs):
        yield "a run twice"


def _identity(run: Run) -> tuple[Instant, str]:
    return (0, run.token) if run.token else (run.slot, "")
