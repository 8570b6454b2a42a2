"""Misfire: which slots run if they could not start on time.

A slot that is less than a second late is on time. Of later slots, the definition's rule runs the newest or the newest
few, and the rest are counted as missed. The cost does not depend on how many were missed: nothing here walks over them.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple, Protocol

from scheduledjob.domain.time.instants import SECOND, Instant, Micros

from .definition import CatchUp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.domain.triggers.following import FollowingTrigger

    from .definition import Definition
    from .state import Run

ON_TIME: Micros = SECOND
"""A slot that is less late than this is on time. Slots of one trigger are at least this far apart."""

JITTER_WALK = 64
"""How many slots to look back for the newest one whose jitter has passed."""
MAX_WALK_STEPS = 20_000
"""Steps of the searches (``Timetable``) after which a walk from slot to slot ends. Slots that are this hard to find are
not caught up."""
MAX_DECISION_STEPS = 45_000
"""Steps of a decision. Those that the walks do not use are left for counting the slots that do not run."""
_MIN_COUNT_STEPS = 5_000


class Slots(Protocol):
    """The slots of a schedule: the union of its triggers, without what is excluded."""

    @property
    def following(self) -> Sequence[FollowingTrigger]:
        """The schedules that it follows. The ends of their runs are slots, too, and are known only when they happen."""

    @property
    def by_hand(self) -> bool:
        """Whether it has a manual trigger. Then it does not complete when it has no slot left."""

    @property
    def zoned(self) -> bool:
        """Whether they depend on the rules of a time zone, which new zone data may change."""

    @property
    def steps(self) -> int:
        """The work of all searches so far, in steps of about a microsecond."""

    def next(self, after: Instant) -> Instant | None:
        """Return the first slot after an instant."""

    def previous(self, at: Instant) -> Instant | None:
        """Return the last slot at or before an instant."""

    def count(self, after: Instant, until: Instant, max_steps: int = ..., /) -> tuple[int, int]:
        """Count the slots after one instant and up to another, and those that are excluded.

        ``max_steps``: the work after which the end of the period is not counted exactly.
        """

    def is_within(self, slot: Instant) -> bool:
        """Return whether an instant is between ``startAt`` and ``endAt``."""

    def is_excluded(self, slot: Instant) -> bool:
        """Return whether a slot at this instant is excluded."""


class SlotDecision(NamedTuple):
    """What happens to the slots from the planned one to now."""

    start: list[Instant]
    """The slots that run, oldest first."""
    missed: int
    excluded: int
    decided_until: Instant
    """Slots at or before this instant are decided."""


def jitter_of(uid: str, slot: Instant, jitter: Micros) -> Micros:
    """Return the delay of a slot: uniform from 0 to ``jitter``, and the same on every replica and in every version."""
    if not jitter:
        return 0
    digest = blake2b(f"{uid}\0{slot}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) * (jitter + 1) >> 64


def newest_due(slots: Slots, uid: str, jitter: Micros, now: Instant) -> Instant | None:
    """Return the newest slot that is due, its jitter included."""
    slot = slots.previous(now)
    if not jitter:
        return slot
    spent = slots.steps
    for _ in range(JITTER_WALK):
        if slot is None or slot + jitter_of(uid, slot, jitter) <= now:
            return slot
        if slots.steps - spent > MAX_WALK_STEPS:
            break
        slot = slots.previous(slot - 1)
    return slots.previous(now - jitter)


def decide_slots(
    definition: Definition,
    slots: Slots | None,
    uid: str,
    planned_run: Run,
    decided_until: Instant,
    now: Instant,
) -> SlotDecision:
    """Decide what happens to the planned slot, which is due, and to every later one that is due by ``now``."""
    planned, due = planned_run.slot, planned_run.due
    rule = definition.misfire
    late = now - due
    if late < ON_TIME or slots is None:
        missed = 1 if rule.deadline is not None and late > rule.deadline else 0
        excluded = slots.count(decided_until, planned)[1] if definition.exclude and slots is not None else 0
        return SlotDecision([] if missed else [planned], missed, excluded, max(decided_until, planned))
    newest, begin_steps = planned, slots.steps
    # A slot that a caller named may lie in the past. Those between it and ``decided_until`` are decided already.
    since = max(planned, decided_until)
    newest_of_triggers = newest_due(slots, uid, definition.jitter, now)
    if newest_of_triggers is not None and newest_of_triggers > since:
        newest = newest_of_triggers
    wanted = rule.max_catch_up if rule.catch_up is CatchUp.ALL else 1
    chosen: list[Instant] = []
    slot, spent = newest, slots.steps
    while len(chosen) < wanted:
        slot_due = due if slot == planned else slot + jitter_of(uid, slot, definition.jitter)
        if rule.deadline is not None and now - slot_due > rule.deadline:
            break
        chosen.append(slot)
        if slot == planned or slots.steps - spent > MAX_WALK_STEPS:
            break
        slot = slots.previous(slot - 1) or planned
        if slot <= since:
            slot = planned
    chosen.reverse()
    max_steps = max(MAX_DECISION_STEPS - (slots.steps - begin_steps), _MIN_COUNT_STEPS)
    # Each part of the time is counted once: a count can take long.
    excluded = slots.count(decided_until, since, max_steps)[1] if definition.exclude and decided_until < since else 0
    later, later_excluded = slots.count(since, newest, max_steps) if since < newest else (0, 0)
    total, excluded = max(1 + later, len(chosen)), excluded + later_excluded
    return SlotDecision(chosen, total - len(chosen), excluded, max(decided_until, newest))
