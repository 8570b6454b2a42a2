"""Misfire: which of the slots that came due are run, when not each could be at its time.

A slot that is less than a second late was not missed by anybody. Of later ones the rule of the definition takes the
newest, or the newest few; the rest is counted. However many were missed, the cost is the same: nothing here walks
over them.
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

ON_TIME: Micros = SECOND
"""A slot less late than this is on time: slots of one trigger are at least as far apart."""

JITTER_WALK = 64
"""How many slots to look back over for the newest whose jitter has passed."""


class Slots(Protocol):
    """When a schedule fires: the union of its triggers without what is excluded."""

    @property
    def following(self) -> Sequence[FollowingTrigger]:
        """What it follows besides: the ends of those runs are slots too, which only their end makes known."""

    @property
    def by_hand(self) -> bool:
        """Whether it waits for runs by hand, and so never completes for want of a slot."""

    def next(self, after: Instant) -> Instant | None: ...

    def previous(self, at: Instant) -> Instant | None: ...

    def count(self, after: Instant, until: Instant) -> tuple[int, int]: ...

    def is_within(self, slot: Instant) -> bool: ...

    def is_excluded(self, slot: Instant) -> bool: ...


class Decided(NamedTuple):
    """What becomes of the slots from the planned one to now."""

    taken: list[Instant]
    """To be run, oldest first."""
    missed: int
    excluded: int
    decided_until: Instant
    """Slots at or before it are decided by this."""


def jitter_of(uid: str, slot: Instant, jitter: Micros) -> Micros:
    """By how much a slot is put off: from 0 to ``jitter``, uniform, and the same on every replica and version."""
    if not jitter:
        return 0
    digest = blake2b(f"{uid}\0{slot}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) * (jitter + 1) >> 64


def newest_due(slots: Slots, uid: str, jitter: Micros, now: Instant) -> Instant | None:
    """The newest slot whose time, jitter included, has come."""
    slot = slots.previous(now)
    if not jitter:
        return slot
    for _ in range(JITTER_WALK):
        if slot is None or slot + jitter_of(uid, slot, jitter) <= now:
            return slot
        slot = slots.previous(slot - 1)
    return slots.previous(now - jitter)


def decide(
    definition: Definition,
    slots: Slots | None,
    uid: str,
    planned: Instant,
    due: Instant,
    decided_until: Instant,
    now: Instant,
) -> Decided:
    """Decide the slot that was planned, due at ``due``, and every later one whose time has come by ``now``."""
    rule = definition.misfire
    late = now - due
    if late < ON_TIME or slots is None:
        missed = 1 if rule.deadline is not None and late > rule.deadline else 0
        excluded = slots.count(decided_until, planned)[1] if definition.exclude and slots is not None else 0
        return Decided([] if missed else [planned], missed, excluded, max(decided_until, planned))
    newest, total = planned, 1
    # A slot that a caller named may lie in the past: those between it and the floor are decided already.
    since = max(planned, decided_until)
    newest_of_triggers = newest_due(slots, uid, definition.jitter, now)
    if newest_of_triggers is not None and newest_of_triggers > since:
        newest = newest_of_triggers
        total += slots.count(since, newest)[0]
    excluded = slots.count(decided_until, newest)[1]
    wanted = rule.max_catch_up if rule.catch_up is CatchUp.ALL else 1
    taken: list[Instant] = []
    slot = newest
    while len(taken) < wanted:
        slot_due = due if slot == planned else slot + jitter_of(uid, slot, definition.jitter)
        if rule.deadline is not None and now - slot_due > rule.deadline:
            break
        taken.append(slot)
        if slot == planned:
            break
        slot = slots.previous(slot - 1) or planned
        if slot <= since:
            slot = planned
    taken.reverse()
    return Decided(taken, total - len(taken), excluded, max(decided_until, newest))
