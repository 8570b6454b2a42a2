"""StoredTrigger: what every kind of trigger has, and what the rest of the product asks of it.

A kind of trigger is a class below this one, in a module of its own beside this one. Its fields are what the store
keeps, its ``tag`` is both the name in the store and the key in a manifest. ``registry`` lists all kinds, and
docs/architecture.md says how to add one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from scheduledjob.domain.time.instants import Instant

    from .timetable import Bound


class StoredTrigger(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="trigger"):
    """A trigger as a definition stores it, before it knows which schedule it belongs to."""

    def bind(self, seed: str, created: Instant) -> Bound:
        """Return what gives the slots of one schedule, for its timetable.

        ``seed`` spreads ``H`` (the name of the schedule), ``created`` is when the schedule was created. Raises
        ``ValueError`` for a value that is not allowed.
        """
        raise NotImplementedError

    def short(self) -> str:
        """Return the trigger in a few words, for a column of a table."""
        raise NotImplementedError

    def long(self, seed: str) -> str:
        """Return the trigger in words that complete "It runs ...", with the seed of ``bind``."""
        raise NotImplementedError

    @property
    def counts_from_creation(self) -> bool:
        """Whether its slots depend on when the schedule was created."""
        return False

    @property
    def depends_on_row(self) -> bool:
        """Whether two schedules with this trigger may have different slots."""
        return self.counts_from_creation

    @property
    def zone(self) -> str | None:
        """The time zone in which the user thinks of its slots; None if the trigger names none."""
        return None

    @property
    def unlisted(self) -> str:
        """What a list of its next slots can't show, as a sentence about the job; empty if it shows everything."""
        return ""


class DayPattern(Protocol):
    """The slots of a UTC day as the bits of an int, bit n for its n-th second."""

    def day_key(self, day: int) -> tuple[int, ...]:
        """Return what the slots of a day depend on: days with equal keys have equal slots."""

    def day_pattern(self) -> int:
        """Return what all days share, for ``day_slots``."""

    def day_slots(self, day: int, pattern: int) -> int:
        """Return the slots of a day (days since 1970-01-01)."""


class Repeating(Protocol):
    """A bound trigger with any number of slots, all at whole seconds. Equal ones are equal and hash alike."""

    def next_instant(self, after: Instant) -> Instant | None:
        """Return the first slot after an instant, or None."""

    def previous_instant(self, at: Instant) -> Instant | None:
        """Return the newest slot at or before an instant, or None."""

    def count(self, after: Instant, until: Instant) -> int:
        """Return how many slots lie in ``after < slot <= until``."""

    def by_day(self) -> DayPattern:
        """Return the same slots, day by day."""
