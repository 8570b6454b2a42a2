"""Concurrency: what happens to a run that comes due while other runs of its schedule are active or waiting.

All that depends on ``concurrencyPolicy`` is decided here, most of it in ``decide``. The rest of the package carries the
decisions out: ``runs.py`` starts, queues, skips or replaces a run as ``decide`` says, and promotes waiting runs while
``has_room`` allows it.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from .definition import Concurrency

if TYPE_CHECKING:
    from .definition import Definition
    from .state import Run, State


MAX_CONCURRENT = 10_000
"""Active runs of a schedule under Allow that sets no maximum. Its state, which each write contains, grows with them."""


class Admission(Enum):
    """What happens to a run that comes due."""

    START = "start"
    WAIT = "wait"
    """It starts when the runs before it have ended."""
    SKIP = "skip"
    """It does not run: its slot is counted as SkippedOverlap."""
    REPLACE_ACTIVE = "replace active"
    """Active runs are cancelled and waiting ones dropped. It starts at once, or waits for the cancelled runs to end."""


def decide(definition: Definition, state: State, run: Run, most_active: int | None = None) -> Admission:
    """Decide what happens to a run that comes due, given the runs that are active or waiting.

    ``most_active``: how many runs of the schedule may be active, as its owner has no capacity for more; None: any
    number. Slots caught up by ``All`` never overlap each other. They wait where another run would be skipped, and so
    does a slot that a client named: whoever schedules a job anew while it runs wants another run.
    """
    active, waiting = len(state.runs), len(state.waiting)
    if not active and not waiting:
        return Admission.START
    start_or_wait = Admission.START if not waiting and has_room(definition, state, run, most_active) else Admission.WAIT
    match definition.concurrency:
        case Concurrency.REPLACE:
            return Admission.REPLACE_ACTIVE
        case _ if run.catch_up or run.named:
            return start_or_wait
        case Concurrency.FORBID:
            return Admission.SKIP
        case Concurrency.QUEUE:
            full = start_or_wait is Admission.WAIT and waiting >= definition.queue_depth
            return Admission.SKIP if full else start_or_wait
        case Concurrency.ALLOW:
            limit = _smaller(definition.max_concurrent or MAX_CONCURRENT, most_active)
            return Admission.SKIP if limit is not None and active + waiting >= limit else start_or_wait


def has_room(definition: Definition, state: State, run: Run, most_active: int | None = None) -> bool:
    """Return whether a run may become active beside those that are, whether or not others wait before it."""
    runs = state.runs
    if not runs:
        return True
    if run.catch_up and any(other.catch_up for other in runs):
        return False
    if most_active is not None and len(runs) >= most_active:
        return False
    policy, limit = definition.concurrency, definition.max_concurrent
    if policy is Concurrency.ALLOW:
        return len(runs) < (limit or MAX_CONCURRENT)
    return policy is Concurrency.QUEUE and len(runs) < (limit or 1)


def lacks_capacity(definition: Definition, state: State, most_active: int | None) -> bool:
    """Return whether a slot is skipped only because the owner has no capacity for another run of the schedule."""
    active = len(state.runs) + len(state.waiting)
    limit = definition.max_concurrent
    return (
        definition.concurrency is Concurrency.ALLOW
        and most_active is not None
        and active >= most_active
        and (limit is None or active < limit)
    )


def _smaller(first: int | None, second: int | None) -> int | None:
    if first is None or second is None:
        return second if first is None else first
    return min(first, second)


def only_newest_starts(definition: Definition) -> bool:
    """Return whether of several slots that could start at the same time only the newest does.

    Under Replace, each of them would be cancelled at once by the next.
    """
    return definition.concurrency is Concurrency.REPLACE


def skips_while_active(definition: Definition) -> bool:
    """Return whether every slot that comes due while a run is active is skipped, as under Forbid.

    Then no slot is planned while a run is active. When the last one ends, the slots that came due are counted.
    """
    return definition.concurrency is Concurrency.FORBID
