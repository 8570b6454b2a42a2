"""Kinds: what this replica can run, and how a row of such a kind is read.

A row says its kind; a replica claims the kinds that it knows. A kind registered in Python brings its definition
(trigger, backoff) with it, and its rows hold none; every other row holds its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from scheduledjob.domain.schedule.definition import Definition
from scheduledjob.domain.schedule.plan import Plan, slots_of

from .store import Row, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from scheduledjob.domain.schedule.misfire import Slots

    from .executor import Executor


class UnreadableRowError(StoreError):
    """A row was written by a version of this program that says things this one does not understand."""


@dataclass(slots=True)
class JobKind:
    """One kind of job on this replica."""

    name: str
    executor: Executor
    plan: Plan | None = None
    """Of a kind registered in code: the definition that its rows go by."""
    params: Callable[[Definition], Any] = lambda definition: definition.job
    """What the executor is given as ``Attempt.params``."""
    detached: bool = False
    """Its attempts live outside the replica: whoever takes a run over goes on with them. What its payload refers to
    is for its executor to resolve."""

    def read(self, row: Row) -> tuple[Definition, Slots | None]:
        """The definition of a row and when it fires. Raises UnreadableRowError."""
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
