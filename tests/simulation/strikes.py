"""Strikes: how often each kind of fault struck, and how often it had an effect.

A fault that never strikes, or that changes nothing, tests nothing. ``STRIKES`` and ``EFFECTS`` name what must occur.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scheduledjob.engine.stored_row import Key

STORE_CALLS = (
    "claim",
    "renew",
    "settle: keep",
    "settle: release",
    "settle: remove",
    "claim_hooks",
    "settle_hooks",
    "announce",
    "put",
    "reconcile",
    "delete",
    "tombstone",
)
"""The calls that change the store. A release gives a row back."""

STRIKES = (
    "crash",
    "pause",
    "block",
    "cut off",
    "bad network",
    "restart",
    "update zones",
    "restore: after a clean end",
    "restore: after a hard end",
    "hold back",
    "late answers",
    "answers of one kind are lost",
    "lock rows",
    "lock rows for long",
    "suspend",
    "lease thread dies",
    *(f"lost answer: {call}" for call in STORE_CALLS),
    "lost answer: of the only replica",
    "late answer: claim",
    "late answer: renew",
    "late answer: settle",
)

EFFECTS = (
    "crash: another replica recovered a row",
    "pause: another replica recovered a row",
    "suspend: another replica recovered a row",
    "cut off: another replica recovered a row",
    "lease thread dies: fenced in its place",
    "block: a timer was late",
    "suspend: the deadline of a process passed",
    "hold back: a call arrived when its caller had given up",
    "late answers: a claim with rows took seconds",
    "update zones: newer data here, older data elsewhere",
    "update zones: newer data elsewhere, older data here",
    "restore: a row was older than its status",
    "restore: a row was missing",
    "lock rows: a claim passed over a due row",
    "lock rows: a write waited",
    "lock rows: a renewal waited",
    "lost answer: a repeated write was refused",
    "lost answer: a claimed row waited for its lease to end",
)


@dataclass(slots=True)
class Strikes:
    """Counts of one seed."""

    struck: Counter[str] = field(default_factory=Counter)
    effects: Counter[str] = field(default_factory=Counter)

    unknown_claims: set[tuple[Key, int]] = field(default_factory=set)
    """Rows and versions of claims whose answers were lost."""
    unknown_writes: set[tuple[Key, int]] = field(default_factory=set)
    """Rows and versions of writes whose answers were lost."""

    def strike(self, kind: str) -> None:
        self.struck[kind] += 1

    def effect(self, kind: str) -> None:
        self.effects[kind] += 1

    def add(self, others: Strikes) -> None:
        self.struck += others.struck
        self.effects += others.effects

    def missing(self) -> list[str]:
        """Return what never struck, and what never had this effect."""
        struck = [f"never struck: {kind}" for kind in STRIKES if not self.struck[kind]]
        return struck + [f"never seen: {effect}" for effect in EFFECTS if not self.effects[effect]]

    def table(self) -> str:
        """Return the counts, a line for each kind."""
        lines = [f"{self.struck[kind]:8}  {kind}" for kind in STRIKES]
        return "\n".join(lines + [f"{self.effects[effect]:8}  {effect}" for effect in EFFECTS])
