"""Timetable: when a schedule fires, with all its triggers and exclusions taken together.

It answers three questions without visiting every slot: which slot is next, which is the newest, and how many there are
in a period. A single trigger without exclusions computes the answer itself. If there are several triggers, or an
expression excludes slots, the slots of a UTC day become an int with a bit for each second. Union, difference and count
are single operations on it, and equal days are counted once. Only ``At`` has slots between whole seconds. They are few,
and are handled one by one.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final, NamedTuple

from scheduledjob.domain.time.instants import DAY, SECOND, Instant
from scheduledjob.domain.time.zones import LAST_SECOND

from .cron import Cron, CronError
from .every import Every
from .following import FollowingTrigger
from .manual import ManualTrigger
from .once import At
from .stored_trigger import BoundTrigger, DayPattern, Repeating

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from scheduledjob.domain.cron.search import CronSearch

_DAY_SECONDS: Final = DAY // SECOND
_WHOLE_DAY: Final = (1 << _DAY_SECONDS) - 1

_STEPS: Final = 32
"""Excluded slots in a row that are skipped one by one before the search continues with whole days."""
_SEARCHED_DAYS: Final = 4500
"""Days (with slots) that are searched. If all slots of twelve years are excluded, there is no next slot."""
_SEARCHED_SPAN: Final = 36_525 * DAY
"""The search also ends after this time, a century, if slots are so rare that it has few days."""
_CACHED_DAYS: Final = 64
"""Bit masks of days (10 KiB each) that are kept during one search."""


class Window(NamedTuple):
    """Slots with ``start <= slot < end`` are excluded."""

    start: Instant
    end: Instant


class Timetable:
    """The union of bound triggers, without what is excluded, from ``start_at`` to ``end_at`` (both inclusive).

    An expression in ``exclude`` excludes its own slots. If it has five fields, it says nothing about seconds and
    excludes the whole minute. ``@every`` in ``exclude`` raises ``CronError``.
    """

    __slots__ = ("_end_at", "_excluding", "_moments", "_repeating", "_start_at", "_windows", "by_hand", "following")

    def __init__(
        self,
        triggers: Sequence[BoundTrigger],
        exclude: Iterable[Window | Cron] = (),
        start_at: Instant | None = None,
        end_at: Instant | None = None,
    ) -> None:
        exclude = tuple(exclude)
        self._repeating: tuple[Repeating, ...] = tuple(
            dict.fromkeys(trigger for trigger in triggers if isinstance(trigger, Repeating))
        )
        self._moments = tuple(sorted({trigger.instant for trigger in triggers if isinstance(trigger, At)}))
        """The slots of ``At`` triggers."""
        self.following = tuple(trigger for trigger in triggers if isinstance(trigger, FollowingTrigger))
        """The triggers that follow other jobs. They have no slots until a run of such a job ends."""
        self.by_hand = any(isinstance(trigger, ManualTrigger) for trigger in triggers)
        """Whether the schedule can be run by hand at any time, so that it never completes for lack of slots."""
        self._windows = _merged(excluded for excluded in exclude if isinstance(excluded, Window))
        self._excluding = tuple(_exclusion(excluded) for excluded in exclude if isinstance(excluded, Cron))
        self._start_at = start_at
        self._end_at = LAST_SECOND * SECOND if end_at is None else min(end_at, LAST_SECOND * SECOND)

    def next(self, after: Instant) -> Instant | None:
        """Return the first slot after an instant, or None."""
        if self._start_at is not None:
            after = max(after, self._start_at - 1)
        slot = self._first(after)
        for _ in self._steps():
            if slot is None or slot > self._end_at:
                return None
            window = self._window_of(slot)
            if window is not None:
                slot = self._first(window.end - 1)
            elif not self._excluded_by_expression(slot):
                return slot
            else:
                slot = self._first(slot)
        return None if slot is None else self._search(slot, forward=True)

    def previous(self, at: Instant) -> Instant | None:
        """Return the newest slot at or before an instant, or None."""
        slot = self._last(min(at, self._end_at))
        for _ in self._steps():
            if slot is None or (self._start_at is not None and slot < self._start_at):
                return None
            window = self._window_of(slot)
            if window is not None:
                slot = self._last(window.start - 1)
            elif not self._excluded_by_expression(slot):
                return slot
            else:
                slot = self._last(slot - 1)
        return None if slot is None else self._search(slot, forward=False)

    def count(self, after: Instant, until: Instant) -> tuple[int, int]:
        """Return how many slots in ``after < slot <= until`` fire, and how many are excluded."""
        if self._start_at is not None:
            after = max(after, self._start_at - 1)
        until = min(until, self._end_at)
        fires = excluded = 0
        for begin, end, in_window in self._pieces(after, until):
            kept, dropped = self._count_piece(begin, end)
            fires += 0 if in_window else kept
            excluded += dropped + (kept if in_window else 0)
        return fires, excluded

    # ---------------------------------------------------------------- single slots

    def _first(self, after: Instant) -> Instant | None:
        """Return the first slot after an instant, excluded or not."""
        if len(self._repeating) == 1 and not self._moments:
            return self._repeating[0].next_instant(after)
        slots = [slot for trigger in self._repeating if (slot := trigger.next_instant(after)) is not None]
        later = bisect_right(self._moments, after)
        return min((*slots, *self._moments[later : later + 1]), default=None)

    def _last(self, at: Instant) -> Instant | None:
        """Return the newest slot at or before an instant, excluded or not."""
        if len(self._repeating) == 1 and not self._moments:
            return self._repeating[0].previous_instant(at)
        slots = [slot for trigger in self._repeating if (slot := trigger.previous_instant(at)) is not None]
        later = bisect_right(self._moments, at)
        return max((*slots, *self._moments[max(later - 1, 0) : later]), default=None)

    def _steps(self) -> range:
        """Steps of a search: each window is jumped over once at most, and each slot that an expression excludes."""
        return range(len(self._windows) + _STEPS)

    def _window_of(self, slot: Instant) -> Window | None:
        index = bisect_right(self._windows, slot, key=_start_of) - 1
        return self._windows[index] if index >= 0 and slot < self._windows[index].end else None

    def _excluded_by_expression(self, slot: Instant) -> bool:
        second = slot // SECOND
        return any(expression.previous(second) == second for expression in self._excluding)

    # ---------------------------------------------------------------- whole days

    def _search(self, slot: Instant, *, forward: bool) -> Instant | None:
        """Return the nearest slot from ``slot`` on that is not excluded, searching whole days.

        Returns None if nothing is found in ``_SEARCHED_DAYS``: all slots count as excluded then.
        """
        days = _Days(self._repeating, self._excluding)
        sign = 1 if forward else -1
        moments = [at for at in self._moments if (at - slot) * sign >= 0 and not self.is_excluded(at)]
        moment = (min if forward else max)(moments, default=None)
        current: Instant | None = slot
        for _ in range(_SEARCHED_DAYS):
            if current is None or abs(current - slot) > _SEARCHED_SPAN:
                break
            if moment is not None and (current - moment) * sign >= 0:
                break
            if not self.is_within(current):
                break
            day = current // DAY
            from_second = current // SECOND - day * _DAY_SECONDS
            bits = days.kept(day)
            bits &= -1 << from_second if forward else (2 << from_second) - 1
            while bits:
                found = ((bits & -bits) if forward else bits).bit_length() - 1
                candidate = day * DAY + found * SECOND
                window = self._window_of(candidate)
                if window is None:
                    current = candidate if moment is None else (min if forward else max)(candidate, moment)
                    return current if self.is_within(current) else None
                beyond = (window.end - 1 if forward else window.start) // SECOND - day * _DAY_SECONDS
                if forward:
                    bits &= -1 << min(max(beyond + 1, found + 1), _DAY_SECONDS)
                else:
                    bits &= (1 << min(max(beyond, 0), found)) - 1
            current = self._first((day + 1) * DAY - 1) if forward else self._last(day * DAY - 1)
        return moment if moment is not None and self.is_within(moment) else None

    def is_within(self, slot: Instant) -> bool:
        """Whether an instant is between ``startAt`` and ``endAt``."""
        return slot <= self._end_at and (self._start_at is None or slot >= self._start_at)

    def is_excluded(self, slot: Instant) -> bool:
        """Whether a slot at that instant is excluded."""
        return self._window_of(slot) is not None or self._excluded_by_expression(slot)

    def _pieces(self, after: Instant, until: Instant) -> Iterator[tuple[Instant, Instant, bool]]:
        """Split ``(after, until]`` at the edges of the windows. The flag says whether a piece is inside a window."""
        index = max(bisect_right(self._windows, after, key=_start_of) - 1, 0)
        for window in self._windows[index:]:
            begin, end = window.start - 1, min(window.end - 1, until)
            if begin >= until:
                break
            if after < begin:
                yield after, begin, False
                after = begin
            if after < end:
                yield after, end, True
                after = end
        if after < until:
            yield after, until, False

    def _count_piece(self, after: Instant, until: Instant) -> tuple[int, int]:
        """Return how many slots in ``(after, until]`` the expressions keep, and how many they exclude."""
        kept = dropped = 0
        if not self._repeating:
            pass
        elif len(self._repeating) == 1 and not self._excluding:
            kept = self._repeating[0].count(after, until)
        else:
            kept, dropped = _Days(self._repeating, self._excluding).count(after // SECOND + 1, until // SECOND + 1)
        for moment in self._moments:
            if after < moment <= until and all(
                trigger.previous_instant(moment) != moment for trigger in self._repeating
            ):
                if self._excluded_by_expression(moment):
                    dropped += 1
                else:
                    kept += 1
        return kept, dropped


class _Days:
    """The slots of whole UTC days as bits, with a cache for the duration of one search."""

    def __init__(self, triggers: Sequence[Repeating], excluding: Sequence[CronSearch]) -> None:
        self._included = [(days, days.day_pattern()) for days in (trigger.by_day() for trigger in triggers)]
        self._excluded = [(days, days.day_pattern()) for days in excluding]
        self._all: list[DayPattern] = [days for days, _ in (*self._included, *self._excluded)]
        self._kept: dict[object, int] = {}
        self._counted: dict[object, tuple[int, int]] = {}

    def kept(self, day: int) -> int:
        """Return the slots of a day that are not excluded."""
        key = self._key(day)
        bits = self._kept.get(key)
        if bits is None:
            if len(self._kept) >= _CACHED_DAYS:
                self._kept.clear()
            slots, excluded = self._bits(day)
            bits = self._kept[key] = slots & ~excluded
        return bits

    def count(self, start: int, stop: int) -> tuple[int, int]:
        """Return how many slots are kept and how many are excluded in ``start <= second < stop``."""
        kept = dropped = 0
        for day in range(start // _DAY_SECONDS, -(-stop // _DAY_SECONDS)):
            first, last = start - day * _DAY_SECONDS, stop - day * _DAY_SECONDS
            if first <= 0 and last >= _DAY_SECONDS:
                counts = self._count_day(day)
            else:
                mask = _WHOLE_DAY if last >= _DAY_SECONDS else (1 << last) - 1
                counts = _counts(*self._bits(day), mask & -1 << max(first, 0))
            kept += counts[0]
            dropped += counts[1]
        return kept, dropped

    def _count_day(self, day: int) -> tuple[int, int]:
        key = self._key(day)
        counts = self._counted.get(key)
        if counts is None:
            counts = self._counted[key] = _counts(*self._bits(day), _WHOLE_DAY)
        return counts

    def _key(self, day: int) -> tuple[tuple[int, ...], ...]:
        return tuple([days.day_key(day) for days in self._all])

    def _bits(self, day: int) -> tuple[int, int]:
        """Return the slots of a day, excluded or not, and the seconds that are excluded."""
        slots = excluded = 0
        for days, pattern in self._included:
            slots |= days.day_slots(day, pattern)
        for days, pattern in self._excluded:
            excluded |= days.day_slots(day, pattern)
        return slots, excluded


def _counts(slots: int, excluded: int, mask: int) -> tuple[int, int]:
    """Return how many of the slots in ``mask`` are kept, and how many are excluded."""
    slots &= mask
    dropped = (slots & excluded).bit_count()
    return slots.bit_count() - dropped, dropped


def _exclusion(expression: Cron) -> CronSearch:
    search = expression.whole_minutes()
    if isinstance(search, Every):
        raise CronError(f"{expression.expression!r} excludes nothing: write an expression with fields, or a window")
    return search


def _start_of(window: Window) -> Instant:
    return window.start


def _merged(windows: Iterable[Window]) -> tuple[Window, ...]:
    """Sort the windows, and merge those that overlap or touch."""
    merged: list[Window] = []
    for window in sorted(windows):
        if merged and window.start <= merged[-1].end:
            merged[-1] = Window(merged[-1].start, max(merged[-1].end, window.end))
        elif window.start < window.end:
            merged.append(window)
    return tuple(merged)
