"""DayBits: the slots of a timetable, UTC day by UTC day, as the bits of ints.

Union, difference and count of the slots of a day are single operations on an int, and days that are alike are computed
once. A bit stands for a second, or for a minute if all triggers fire at whole minutes, which makes the ints short.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from scheduledjob.domain.cron.days import CronGroup, GroupDays, groups_of
from scheduledjob.domain.cron.search import CronSearch
from scheduledjob.domain.time.instants import DAY, SECOND

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from .stored_trigger import DayPattern

MAX_STEPS: Final = 25_000
"""Steps of one search. A step takes half a microsecond to one."""
MAX_COUNT_STEPS: Final = 40_000
"""Steps of one count: enough for years of daily slots in ten time zones."""
MIN_SEARCHED_DAYS: Final = 370
"""Days for which the steps have to suffice."""

_DAY_SECONDS: Final = DAY // SECOND
_EXPRESSIONS_READ: Final = 32
"""Expressions whose days of a month are found in one step for each day of that month."""
_COUNT_OF_SECONDS: Final = 12
"""Steps to count the slots of a day in seconds."""
_CACHED_DAYS: Final = 64
"""Days that are alike are computed once while so many kinds of days are remembered (10 KiB each, at most)."""


class _Source(Protocol):
    """The slots of one trigger, or of the expressions of a group."""

    cost: int
    """Steps to compute the slots of a day; of days in minutes an eighth, of days in seconds half of it."""
    expressions: int
    """How many expressions are asked for their days."""

    def key(self, day: int) -> Hashable: ...

    def slots(self, day: int) -> int: ...


class _TriggerDays:
    """The slots of a trigger that is not a cron expression."""

    cost = 2
    expressions = 0

    def __init__(self, days: DayPattern, unit: int) -> None:
        self._days = days
        self._unit = unit
        self._pattern = days.day_pattern(unit)

    def key(self, day: int) -> Hashable:
        return self._days.day_key(day)

    def slots(self, day: int) -> int:
        return self._days.day_slots(day, self._pattern, self._unit)


class _Day:
    """The slots of a day."""

    __slots__ = ("counts", "dropped", "kept")

    def __init__(self, kept: int, dropped: int) -> None:
        self.kept = kept
        """The slots that are not excluded."""
        self.dropped = dropped
        """Those that are."""
        self.counts: tuple[int, int] | None = None
        """How many there are of both; None: they are not counted yet."""


class DayBits:
    """The slots of whole UTC days, with a cache for the duration of one search."""

    def __init__(self, included: Sequence[DayPattern | CronSearch], excluded: Sequence[CronGroup], unit: int) -> None:
        self.unit = unit
        expressions = [days for days in included if isinstance(days, CronSearch)]
        self._included: list[_Source] = [
            *(GroupDays(group, unit) for group in groups_of(expressions)),
            *(_TriggerDays(days, unit) for days in included if not isinstance(days, CronSearch)),
        ]
        # The fullest day comes first: nothing has to be computed any more once all slots are excluded.
        fullest = sorted(excluded, key=lambda group: -max(times.count for times in group.times))
        self._excluded: list[_Source] = [GroupDays(group, unit) for group in fullest]
        self._included_steps = 1 + _key_steps(self._included)
        self._excluded_steps = _key_steps(self._excluded)
        self._new_day_steps = sum(_steps(source, unit) for source in (*self._included, *self._excluded))
        self._known: dict[Hashable, _Day] = {}
        self.steps = 0
        """Steps so far."""

    @property
    def steps_of_day(self) -> int:
        """The most steps that a day can take."""
        return self._included_steps + self._excluded_steps + self._new_day_steps

    def kept(self, day: int) -> int | None:
        """Return the slots of a day that are not excluded; None if it has no slots."""
        found = self._bits(day)
        return None if found is None else found.kept

    def count(self, start: int, stop: int, max_steps: int = MAX_COUNT_STEPS) -> tuple[int, int, int]:
        """Return how many slots are kept and how many are excluded in ``start <= second < end``, and the ``end``.

        That is ``stop``, or an earlier second if ``max_steps`` are used up.
        """
        unit, kept, dropped = self.unit, 0, 0
        for day in range(start // _DAY_SECONDS, -(-stop // _DAY_SECONDS)):
            if self.steps > max_steps:
                return kept, dropped, max(start, day * _DAY_SECONDS)
            found = self._bits(day)
            if found is None:
                continue
            first, last = start - day * _DAY_SECONDS, stop - day * _DAY_SECONDS
            if first <= 0 and last >= _DAY_SECONDS:
                if found.counts is None:
                    self.steps += 0 if unit > 1 else _COUNT_OF_SECONDS
                    found.counts = (found.kept.bit_count(), found.dropped.bit_count())
                counts = found.counts
            else:
                mask = (1 << -(-min(last, _DAY_SECONDS) // unit)) - 1 & -1 << -(-max(first, 0) // unit)
                counts = ((found.kept & mask).bit_count(), (found.dropped & mask).bit_count())
            kept += counts[0]
            dropped += counts[1]
        return kept, dropped, stop

    def _bits(self, day: int) -> _Day | None:
        """Return the slots of a day; None if it has none."""
        self.steps += self._included_steps
        key = [source.key(day) for source in self._included]
        if key.count(None) == len(key):
            return None
        self.steps += self._excluded_steps
        whole = (*key, *[source.key(day) for source in self._excluded])
        found = self._known.get(whole)
        if found is None:
            if len(self._known) >= _CACHED_DAYS:
                self._known.clear()
            self.steps += self._new_day_steps
            found = self._known[whole] = self._make(day, whole)
        return found

    def _make(self, day: int, key: Sequence[Hashable]) -> _Day:
        slots = kept = 0
        for source, part in zip(self._included, key, strict=False):
            if part is not None:
                slots |= source.slots(day)
        kept = slots
        for source, part in zip(self._excluded, key[len(self._included) :], strict=True):
            if part is not None and kept:
                kept &= ~source.slots(day)
        return _Day(kept, slots ^ kept)


def _key_steps(sources: Sequence[_Source]) -> int:
    """Return how many steps it takes to find the keys of a day."""
    return sum(1 + source.expressions // _EXPRESSIONS_READ for source in sources)


def _steps(source: _Source, unit: int) -> int:
    """Return how many steps it takes to compute the slots of a day."""
    return 2 + source.cost // 8 if unit > 1 else 6 + source.cost // 2
