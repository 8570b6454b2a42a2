"""Kinds of jobs: what this replica can run, and how it reads a row of a kind.

A row names its kind, and a replica claims only rows of kinds that it knows. A kind that is registered in Python has a
definition (trigger, backoff) for all its rows. Every other row contains its own definition.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from scheduledjob.domain.schedule.definition import Definition
from scheduledjob.domain.schedule.plan import Plan, slots_of

from .store import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from scheduledjob.domain.schedule.misfire import Slots

    from .executor import Executor
    from .stored_row import Row


class UnreadableRowError(StoreError):
    """Another version of this program wrote the row, and this version can't read it."""


@dataclass(slots=True)
class JobKind:
    """One kind of job on this replica."""

    name: str
    executor: Executor
    plan: Plan | None = None
    """The definition of its rows, if the kind is registered in code."""
    params: Callable[[Definition], Any] = lambda definition: definition.job
    """Makes ``Attempt.params`` for the executor."""
    detached: bool = False
    """Its attempts live outside the replica, and the next owner of a run continues them. Its executor resolves
    ``payloadFrom``."""

    def read(self, row: Row) -> tuple[Definition, Slots | None]:
        """Return the definition of a row, and its slots. Raises UnreadableRowError."""
        plan = self.plan
        if row.definition:
            try:
                plan = _plan(row.definition)
            except (msgspec.MsgspecError, ValueError) as error:
                raise UnreadableRowError(f"schedule {row.slug!r}: its definition can't be read: {error}") from None
        elif plan is None:
            raise UnreadableRowError(
                f"schedule {row.slug!r}: kind {row.kind!r} is registered here without a definition"
            )
        return plan.definition, slots_of(plan, seed=row.slug, created=row.created_at)


@lru_cache(maxsize=20_000)
def _plan(text: str) -> Plan:
    return Plan(Definition.decode(text))
