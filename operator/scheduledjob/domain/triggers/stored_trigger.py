"""StoredTrigger: the base class of all kinds of triggers.

Each kind is a subclass in its own module in this package. Its fields are what the store keeps. Its ``tag`` is its name
in the store, and its key in a manifest. ``registry`` lists all kinds, and docs/architecture.md says how to add one.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

import msgspec

if TYPE_CHECKING:
    from scheduledjob.domain.cron.search import CronSearch
    from scheduledjob.domain.time.instants import Instant


class StoredTrigger(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="trigger"):
    """A trigger as a definition stores it, before it belongs to a schedule.

    The class is abstract for mypy only, which reports a kind without one of the abstract methods. It has no ABCMeta,
    because msgspec's structs have a metaclass of their own.
    """

    @abstractmethod
    def bind(self, seed: str, created: Instant) -> BoundTrigger:
        """Return the slots of one schedule, for its timetable; or the trigger itself if it has no slots of its own.

        ``seed`` is the name of the schedule, which decides the values of ``H``. ``created`` is when the schedule was
        created. Raises ``ValueError`` for a value that is not allowed.
        """

    @abstractmethod
    def short(self) -> str:
        """Return the trigger in a few words, for a column of a table."""

    @abstractmethod
    def long(self, seed: str) -> str:
        """Return the trigger in words that complete "It runs ...", with the seed of ``bind``."""

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
        """The runs that a list of next slots can't show, as a sentence about the job; empty if there are none."""
        return ""


class DayPattern(Protocol):
    """The slots of a UTC day as the bits of an int."""

    def day_key(self, day: int) -> tuple[int, ...]:
        """Return what the slots of a day depend on: days with equal keys have equal slots."""

    def day_pattern(self, unit: int) -> int:
        """Return what all days share, for ``day_slots``."""

    def day_slots(self, day: int, pattern: int, unit: int) -> int:
        """Return the slots of a day (days since 1970-01-01), bit n for its n-th ``unit`` seconds."""

    @property
    def whole_minutes(self) -> bool:
        """Whether all slots are at the first second of a minute, so that ``unit`` may be 60."""


class SlotSequence(Protocol):
    """The slots that a trigger has in one schedule."""

    def next_instant(self, after: Instant) -> Instant | None:
        """Return the first slot after an instant, or None."""

    def previous_instant(self, at: Instant) -> Instant | None:
        """Return the newest slot at or before an instant, or None."""

    def count(self, after: Instant, until: Instant) -> int:
        """Return how many slots lie in ``after < slot <= until``."""


@runtime_checkable
class Repeating(SlotSequence, Protocol):
    """A bound trigger with any number of slots, all at whole seconds. It can be compared and hashed."""

    def by_day(self) -> DayPattern | CronSearch:
        """Return the same slots, day by day. Those of cron expressions are put together (``domain/cron/days``)."""


BoundTrigger: TypeAlias = SlotSequence | StoredTrigger
"""What ``StoredTrigger.bind`` returns."""
