"""What a schedule and its owner tell each other about runs, and the search in lists of runs.

A run is found by identity, never by equality: two runs of one schedule may be equal for a moment.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, TypeVar

import msgspec

from scheduledjob.domain.time.instants import Micros

from .state import Run

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

_T = TypeVar("_T")


class AttemptEnd(Enum):
    """How an attempt ended."""

    SUCCEEDED = "succeeded"
    COMPLETED = "completed"
    """It succeeded, and the schedule is complete for good."""
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"
    """Its replica died, or stopped it for reasons of its own. That uses up no retry."""


class EndDetails(msgspec.Struct, frozen=True, gc=False):
    """What else is known of an attempt that ended."""

    reason: str = ""
    code: int | None = None
    """Exit code or HTTP status."""
    output: bytes = b""
    where: str = ""
    """The Pod that it ran in; empty if it ran in the replica."""
    retry_after: Micros | None = None
    """How long the server asks to wait before the next attempt."""


NO_DETAILS = EndDetails()


class Actions(msgspec.Struct, gc=False):
    """What the owner has to do now."""

    start: tuple[Run, ...] = ()
    cancel: tuple[Run, ...] = ()
    became_overdue: bool = False


MAX_ASSERTED = 64
"""Assertions search only lists up to this length, so that their cost is bounded."""


def has(runs: Sequence[Run], run: Run) -> bool:
    for other in runs:  # noqa: SIM110  # called for each start, where a generator costs more than the search
        if other is run:
            return True
    return False


def may_lack(runs: Sequence[Run], run: Run) -> bool:
    """Return whether a run is not among others; also True if there are too many to search for an assertion."""
    return len(runs) > MAX_ASSERTED or not has(runs, run)


def identities(runs: Sequence[Run]) -> Container[int]:
    """Return the ``id`` of each run, to look for many runs among many without comparing each with each."""
    if len(runs) <= 1:  # nearly always
        return (id(runs[0]),) if runs else ()
    return {id(run) for run in runs}


def remove(runs: list[Run], run: Run) -> None:
    for index, other in enumerate(runs):
        if other is run:
            del runs[index]
            return


def without(items: tuple[_T, ...], item: _T) -> tuple[_T, ...]:
    if len(items) == 1 and items[0] is item:
        return ()
    return tuple([other for other in items if other is not item]) if items else items
