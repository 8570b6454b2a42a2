"""Moves: what a schedule and its owner say to each other about runs, and how lists of runs are handled.

A run is found by identity, never by equality: two runs of one schedule may look the same for a moment.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, TypeVar

import msgspec

from .state import Run

if TYPE_CHECKING:
    from collections.abc import Sequence

_T = TypeVar("_T")


class AttemptEnd(Enum):
    """How an attempt ended."""

    SUCCEEDED = "succeeded"
    COMPLETED = "completed"
    """Succeeded, and the schedule is done for good."""
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"
    """Its replica ended it for reasons of its own: it counts against nobody."""


class Actions(msgspec.Struct, gc=False):
    """What the owner is to do now."""

    start: tuple[Run, ...] = ()
    cancel: tuple[Run, ...] = ()
    became_overdue: bool = False


def has(runs: Sequence[Run], run: Run) -> bool:
    for one in runs:  # noqa: SIM110  # on the path of every start: a generator costs more than the search
        if one is run:
            return True
    return False


def remove(runs: list[Run], run: Run) -> None:
    for index, one in enumerate(runs):
        if one is run:
            del runs[index]
            return


def without(those: tuple[_T, ...], this: _T) -> tuple[_T, ...]:
    if len(those) == 1 and those[0] is this:
        return ()
    return tuple([one for one in those if one is not this]) if those else those
