"""Restore: from the status of an object to the state of a new row.

A store may not know an object: memory after a restart, a new database, or one from a backup. Then nothing that came due
in the meantime may be lost, and nothing that had started may run again silently. If the operator that wrote the status
shut down cleanly, the status is complete. If it did not, runs may have started that the status does not mention. So
their first attempt counts as lost, and they start with the next one.

Anybody with the right to edit the status can write to it, so a state may have the right form and still make no sense.
A state that no version of this product could have written is refused here as a whole. Later code does not check again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from scheduledjob.domain.time.instants import SECOND
from scheduledjob.domain.time.zones import LAST_SECOND

from . import due, machine
from .actions import identities
from .schedule import Schedule
from .state import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scheduledjob.domain.time.instants import Instant

    from .definition import Definition
    from .misfire import Slots
    from .state import Run

_REQUESTS = frozenset({"run-now", "cancel", "resume"})
_LAST_INSTANT: Instant = LAST_SECOND * SECOND
_LARGEST_COUNT = 2**31 - 1
"""The largest count that the stores hold."""
_LONGEST_TEXT = 1024
"""Characters of a token or of a reason."""


def restored_state(
    text: str,
    definition: Definition,
    slots: Slots | None,
    uid: str,
    now: Instant,
    *,
    clean_shutdown: bool,
    detached: bool,
) -> tuple[State, Instant | None]:
    """Return the first state of a row and when the row is due. ``text`` is ``State.encode()`` as it was last written.

    ``clean_shutdown``: its writer shut down cleanly, so nothing has started since. ``detached``: attempts survive their
    replica. Raises ``msgspec.ValidationError`` for a text that no version of this product wrote.
    """
    state = State.decode(text)
    state.unrecorded = ()  # nobody may write history by way of the status
    if wrong := next(_contradictions(state), None):
        raise msgspec.ValidationError(f"the state has {wrong}")
    schedule = Schedule("", uid, definition, slots, state, detached=detached)
    active_until = max((run.due for run in [*state.runs, *state.waiting]), default=now)
    if not clean_shutdown:
        edited = definition.when_digest != state.when
        machine.recover(schedule, now, edited=edited)
        told = [*state.runs, *state.waiting]  # the list keeps them alive, so that their identities stay their own
        known = identities(told)
        if not edited:  # after an edit it is unknown what else came due, and an edit replays nothing
            machine.step(schedule, now)
        for run in [*state.runs, *state.waiting]:
            if id(run) not in known and not run.detached:
                run.attempt, run.lost, run.begun = run.attempt + 1, 1, run.begun or run.due
    if definition.when_digest == state.when:
        due.miss_outage(schedule, active_until, now)
    state.unrecorded = schedule.writes.records
    # Lower than any row's revision: the first owner applies the object as it is now.
    state.revision = 0
    idle = state.next is None and schedule.open  # its first owner plans a slot
    return state, now if state.runs or state.waiting or state.unrecorded or idle else machine.wake_at(schedule)


def told_state(text: str) -> State | None:
    """Return the state that a status contains, or None if no version of this program wrote it."""
    try:
        state = State.decode(text)
    except msgspec.MsgspecError:
        return None
    return None if any(_contradictions(state)) else state


def is_older(state: State, told: State) -> bool:
    """Return whether the store has an older state of a schedule than its status, which was once read from the store.

    Then the store was restored from a backup, or it lost its last writes in a failover.
    """
    counts = [(state.decided_until, told.decided_until), (state.succeeded, told.succeeded)]
    counts += [(state.failed, told.failed), (state.cancelled, told.cancelled), (state.skipped, told.skipped)]
    counts += [(state.missed, told.missed), (state.excluded, told.excluded)]
    counts += [(state.started, told.started), (state.followed, told.followed)]
    if any(end > state.followed and run not in state.followed_ids for run, end in told.followed_ids.items()):
        return True  # it has not decided about an end that it followed
    reported_runs = {_identity(run): run for run in told.runs}
    if any(_identity(run) in reported_runs for run in [*state.waiting, *state.upcoming]):
        return True  # it has not started a run that was under way
    counts += [(run.attempt, again.attempt) for run in state.runs if (again := reported_runs.get(_identity(run)))]
    if any(stored < reported for stored, reported in counts):
        return True
    # A state forgets old requests, so only the newest one counts, and only if nothing has happened since.
    same = all(stored == reported for stored, reported in counts)
    return same and bool(told.handled) and told.handled[-1] not in state.handled


def _contradictions(state: State) -> Iterator[str]:
    """Return what makes no sense in a state of the right form."""
    instants = [
        state.decided_until,
        state.paused_under,
        state.expect_from,
        state.followed,
        *state.followed_ids.values(),
    ]
    instants += [last for last in (state.last_schedule, state.last_success, state.last_failure) if last is not None]
    counts = [state.generation, state.started, state.succeeded, state.failed, state.cancelled]
    counts += [state.skipped, state.missed, state.excluded, state.failures_in_row]
    runs = [*state.runs, *state.waiting, *state.upcoming, *([state.next] if state.next is not None else ())]
    for run in runs:
        instants += [run.slot, run.due, run.begun]
        counts += [run.attempt - 1, run.failed, run.lost, run.repeat, run.revision]
        if len(run.token) > _LONGEST_TEXT or len(run.cancel_reason) > _LONGEST_TEXT:
            yield "a token or a reason that is too long"
    if any(not 0 <= instant <= _LAST_INSTANT for instant in instants):
        yield "an instant out of range"
    if any(not 0 <= count <= _LARGEST_COUNT for count in counts):
        yield "a count out of range"
    if any(entry.partition("/")[0] not in _REQUESTS for entry in state.handled):
        yield "an unknown request"
    if len({_identity(run) for run in runs}) < len(runs):
        yield "the same run twice"


def _identity(run: Run) -> tuple[Instant, str, int]:
    return (0, run.token, 0) if run.token else (run.slot, "", run.repeat)
