"""Restore: from what an object's status remembers to the state of a new row.

A store that does not know an object (memory after a restart, a database that is new or was restored) must neither
lose what came due meanwhile nor run again in silence what had begun. Whoever wrote the status either ended in order,
and then it tells the whole truth, or did not, and then runs may have begun that it does not speak of. Those carry the
doubt in their number: they start as the attempt after one that was lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .schedule import Schedule
from .state import State

if TYPE_CHECKING:
    from .definition import Definition
    from .instants import Instant
    from .misfire import Slots


def restored_state(
    text: str, definition: Definition, slots: Slots | None, uid: str, now: Instant, *, in_order: bool, outlives: bool
) -> tuple[State, Instant | None]:
    """The state to begin a row with, and when it is due; ``text`` is ``State.encode()`` as it was last written.

    ``in_order``: whoever wrote it had stopped before, so nothing has begun since. ``outlives``: its attempts outlive
    their replica. Raises ``msgspec.ValidationError`` for a text that no version of this product wrote.
    """
    state = State.decode(text)
    schedule = Schedule("", uid, definition, slots, state, outlives=outlives)
    if not in_order and definition.when_digest == state.when:
        schedule.taken_over(now)
        known = [*state.runs, *state.waiting]
        schedule.step(now)
        for run in [*state.runs, *state.waiting]:
            if not any(run is one for one in known) and not run.outlives:
                run.attempt, run.lost, run.begun = run.attempt + 1, 1, run.begun or run.due
    # Less than any row's: whoever takes it goes by the object as it is now.
    state.revision = 0
    return state, now if state.runs or state.waiting else schedule.wake()
