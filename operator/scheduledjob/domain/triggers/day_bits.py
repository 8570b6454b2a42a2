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
"""Steps of one search or count. A step takes about a microsecond."""
MIN_SEARCHED_DAYS: Final = 370
"""Days for which the steps have to suffice."""

_DAY_SECONDS: Final = DAY // SECOND
_CACHED_DAYS: Final = 64
"""Days that are alike are computed once while so many kinds of days are remembered (10 KiB each, at most)."""


class _Source(Protocol):
    """The slots of one trigger, or of the expressions of a group."""

    cost: int

    def key(self, day: int) -> Hashable: ...

    def slots(self, day: int) -> int: ...


class _TriggerDays:
    """The slots of a trigger that is no cron expression."""

    cost = 1

    def __init__(self, days: DayPattern, unit: int) -> None:
        self._days = days
        self._unit = unit
        self._pattern = days.day_pattern(unit)

    def key(self, day: int) -> Hashable:
        return self._days.day_key(day)

    def slots(self, day: int) -> int:
        return self._days.day_slots(day, self._pattern, self._unit)


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
        self._new_day_steps = sum(_steps(source, unit) for source in (*self._included, *self._excluded))
        self._known: dict[Hashable, tuple[int, int]] = {}
        self.steps = 0
        """Steps so far."""

    @property
    def steps_of_day(self) -> int:
        """The most steps that a day can take."""
        return len(self._included) + len(self._excluded) + self._new_day_steps

    def kept(self, day: int) -> int | None:
        """Return the slots of a day that are not excluded; None if it has no slots."""
        found = self._bits(day)
        return None if found is None else found[0]

    def count(self, start: int, stop: int) -> tuple[int, int]:
        """Return how many slots are kept and how many are excluded in ``start <= second < stop``.

        It ends early if the steps are used up.
        """
        unit, kept, dropped = self.unit, 0, 0
        counted: dict[int, tuple[int, int]] = {}
        for day in range(start // _DAY_SECONDS, -(-stop // _DAY_SECONDS)):
            if self.steps > MAX_STEPS:
                break
            found = self._bits(day)
            if found is None:
                continue
            first, last = start - day * _DAY_SECONDS, stop - day * _DAY_SECONDS
            if first <= 0 and last >= _DAY_SECONDS:
                counts = counted.get(id(found))
                if counts is None:
                    counts = counted[id(found)] = (found[0].bit_count(), found[1].bit_count())
            else:
                mask = (1 << -(-min(last, _DAY_SECONDS) // unit)) - 1 & -1 << -(-max(first, 0) // unit)
                counts = ((found[0] & mask).bit_count(), (found[1] & mask).bit_count())
            kept += counts[0]
            dropped += counts[1]
        return kept, dropped

    def _bits(self, day: int) -> tuple[int, int] | None:
        """Return the slots of a day that are kept, and those that are excluded; None if it has none."""
        self.steps += len(self._included)
        key = [source.key(day) for source in self._included]
        if all(part is None for part in key):
            return None
        self.steps += len(self._excluded)
        whole = (*key, *[source.key(day) for source in self._excluded])
        found = self._known.get(whole)
        if found is None:
            if len(self._known) >= _CACHED_DAYS:
                self._known.clear()
            self.steps += self._new_day_steps
            found = self._known[whole] = self._make(day, whole)
        return found

    def _make(self, day: int, key: Sequence[Hashable]) -> tuple[int, int]:
        slots = kept = 0
        for source, part in zip(self._included, key, strict=False):
            if part is not None:
                slots |= source.slots(day)
        kept = slots
        for source, part in zip(self._excluded, key[len(self._included) :], strict=True):
            if part is not None and kept:
                kept &= ~source.slots(day)
        return kept, slots & ~kept


def _steps(source: _Source, unit: int) -> int:
    """Return how many steps it takes to compute the slots of a day."""
    return 2 + source.cost // 8 if unit > 1 else 6 + source.cost // 2
