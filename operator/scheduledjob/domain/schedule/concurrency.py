"""Concurrency: what happens to a slot that comes due while another run of its schedule is active."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .definition import Concurrency

if TYPE_CHECKING:
    from .definition import Definition
    from .state import Run, State


def is_skipped(definition: Definition, state: State, run: Run) -> bool:
    """Whether a due slot is consumed as SkippedOverlap: its policy has neither room for it nor a place to wait.

    Slots caught up by ``All`` always get a place to wait. Under Replace nothing is skipped before it has waited.
    """
    active = len(state.runs) + len(state.waiting)
    if run.catch_up or not active:
        return False
    policy = definition.concurrency
    if policy is Concurrency.FORBID:
        return True
    if policy is Concurrency.QUEUE:
        room = len(state.runs) < (definition.max_concurrent or 1) and not state.waiting
        return not room and len(state.waiting) >= definition.queue_depth
    if policy is Concurrency.ALLOW:
        return definition.max_concurrent is not None and active >= definition.max_concurrent
    return False


def has_room(definition: Definition, state: State, run: Run) -> bool:
    """Whether a run may become active beside those that are; slots caught up by ``All`` don't overlap each other."""
    runs = state.runs
    if not runs:
        return True
    if run.catch_up and any(one.catch_up for one in runs):
        return False
    policy, limit = definition.concurrency, definition.max_concurrent
    if policy is Concurrency.ALLOW:
        return limit is None or len(runs) < limit
    return policy is Concurrency.QUEUE and len(runs) < (limit or 1)
