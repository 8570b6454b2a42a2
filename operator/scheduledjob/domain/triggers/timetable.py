"""Timetable: when a schedule fires, with all its triggers and exclusions taken together.

It answers three questions without visiting each slot: which slot is next, which is the newest, and how many there were
since an instant. A single trigger without exclusions answers with its own arithmetic. If slots of several triggers may
coincide, or an expression excludes some, a UTC day becomes an int with a bit for each second: union, difference and
count are single operations on it, and days that are alike are counted once. Only ``At`` has slots between whole
seconds; they are few and are handled one by one.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from scheduledjob.domain.time.instants import DAY, SECOND, Instant
from scheduledjob.domain.time.zones import LAST_SECOND

from .cron import Cron, CronError
from .every import Every
from .following import FollowingTrigger
from .manual import ManualTrigger
from .once import At
from .stored_trigger import DayPattern, Repeating

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from scheduledjob.domain.cron.search import CronSearch

Bound: TypeAlias = Repeating | At | FollowingTrigger | ManualTrigger
"""A trigger that belongs to one schedule, as ``StoredTrigger.bind`` returns it."""

_DAY_SECONDS: Final = DAY // SECOND
_WHOLE_DAY: Final = (1 << _DAY_SECONDS) - 1

_STEPS: Final = 32  # excluded slots in a row that are stepped over before whole days are looked at
_SEARCHED_DAYS: Final = 4500  # days of nothing but excluded slots after which there is none: twelve years
_SEARCHED_SPAN: Final = 36_525 * DAY  # and the century in which they must lie, where slots are rare
_REMEMBERED: Final = 64  # bit masks of days (10 KiB each) kept during one search


class Window(NamedTuple):
    """Slots with ``start <= slot < end`` are left out."""

    start: Instant
    end: Instant


class Timetable:
    """The union of bound triggers, without what is excluded, from ``start_at`` to ``end_at`` (both inclusive).

    An expression among the exclusions excludes the slots that it has itself. With five fields it says nothing about
    seconds and excludes the whole minute. ``@every`` among the exclusions raises ``CronError``.
    """

    __slots__ = ("_end_at", "_left_out", "_moments", "_repeating", "_start_at", "_windows", "by_hand", "following")

    def __init__(
        self,
        triggers: Sequence[Bound],
        exclude: Iterable[Window | Cron] = (),
        start_at: Instant | None = None,
        end_at: Instant | None = None,
    ) -> None:
        exclude = tuple(exclude)
        self._repeating: tuple[Repeating, ...] = tuple(
            dict.fromkeys(
                trigger for trigger in triggers if not isinstance(trigger, At | FollowingTrigger | ManualTrigger)
            )
        )
        self._moments = tuple(sorted({trigger.instant for trigger in triggers if isinstance(trigger, At)}))
        self.following = tuple(trigger for trigger in triggers if isinstance(trigger, FollowingTrigger))
        """The jobs that it follows: these triggers have no slots until a run of such a job ends."""
        self.by_hand = any(isinstance(trigger, ManualTrigger) for trigger in triggers)
        """Whether it waits for runs by hand, and so never completes for want of a slot."""
        self._windows = _merged(excluded for excluded in exclude if isinstance(excluded, Window))
        self._left_out = tuple(_exclusion(excluded) for excluded in exclude if isinstance(excluded, Cron))
        self._start_at = start_at
        self._end_at = LAST_SECOND * SECOND if end_at is None else min(end_at, LAST_SECOND * SECOND)

    def next(self, after: Instant) -> Instant | None:
        """The first slot after an instant, or None."""
        if self._start_at is not None:
            after = max(after, self._start_at - 1)
        slot = self._first(after)
        for _ in self._tries():
            if slot is None or slot > self._end_at:
                return None
            window = self._window_of(slot)
            if window is not None:
                slot = self._first(window.end - 1)
            elif not self._is_left_out(slot):
                return slot
            else:
                slot = self._first(slot)
        return None if slot is None else self._search(slot, forward=True)

    def previous(self, at: Instant) -> Instant | None:
        """The newest slot at or before an instant, or None."""
        slot = self._last(min(at, self._end_at))
        for _ in self._tries():
            if slot is None or (self._start_at is not None and slot < self._start_at):
                return None
            window = self._window_of(slot)
            if window is not None:
                slot = self._last(window.start - 1)
            elif not self._is_left_out(slot):
                return slot
            else:
                slot = self._last(slot - 1)
        return None if slot is None else self._search(slot, forward=False)

    def count(self, after: Instant, until: Instant) -> tuple[int, int]:
        """How many slots lie in ``after < slot <= until``: those that fire, and those that are excluded."""
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
        """The first slot after an instant, excluded or not."""
        if len(self._repeating) == 1 and not self._moments:
            return self._repeating[0].next_instant(after)
        slots = [slot for one in self._repeating if (slot := one.next_instant(after)) is not None]
        later = bisect_right(self._moments, after)
        return min((*slots, *self._moments[later : later + 1]), default=None)

    def _last(self, at: Instant) -> Instant | None:
        """The newest slot at or before an instant, excluded or not."""
        if len(self._repeating) == 1 and not self._moments:
            return self._repeating[0].previous_instant(at)
        slots = [slot for one in self._repeating if (slot := one.previous_instant(at)) is not None]
        later = bisect_right(self._moments, at)
        return max((*slots, *self._moments[max(later - 1, 0) : later]), default=None)

    def _tries(self) -> range:
        """Windows are jumped over, each at most once; slots that an expression excludes are stepped over."""
        return range(len(self._windows) + _STEPS)

    def _window_of(self, slot: Instant) -> Window | None:
        index = bisect_right(self._windows, slot, key=_start_of) - 1
        return self._windows[index] if index >= 0 and slot < self._windows[index].end else None

    def _is_left_out(self, slot: Instant) -> bool:
        second = slot // SECOND
        return any(one.previous(second) == second for one in self._left_out)

    # ---------------------------------------------------------------- whole days

    def _search(self, slot: Instant, *, forward: bool) -> Instant | None:
        """The slot nearest to one (it included) that is not excluded, by whole days.

        What an expression excludes for years on end counts as excluded for good.
        """
        days = _Days(self._repeating, self._left_out)
        edge = 1 if forward else -1
        moments = [one for one in self._moments if (one - slot) * edge >= 0 and not self.is_excluded(one)]
        moment = (min if forward else max)(moments, default=None)
        current: Instant | None = slot
        for _ in range(_SEARCHED_DAYS):
            if current is None or abs(current - slot) > _SEARCHED_SPAN:
                break
            if moment is not None and (current - moment) * edge >= 0:
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
        """Whether ``startAt`` and ``endAt`` let a slot be at that instant."""
        return slot <= self._end_at and (self._start_at is None or slot >= self._start_at)

    def is_excluded(self, slot: Instant) -> bool:
        """Whether a slot at that instant is left out."""
        return self._window_of(slot) is not None or self._is_left_out(slot)

    def _pieces(self, after: Instant, until: Instant) -> Iterator[tuple[Instant, Instant, bool]]:
        """``(after, until]`` cut at the edges of the windows; the flag says whether a piece is in one."""
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
        """Slots in ``(after, until]`` that the expressions keep and leave out."""
        kept = dropped = 0
        if not self._repeating:
            pass
        elif len(self._repeating) == 1 and not self._left_out:
            kept = self._repeating[0].count(after, until)
        else:
            kept, dropped = _Days(self._repeating, self._left_out).count(after // SECOND + 1, until // SECOND + 1)
        for moment in self._moments:
            if after < moment <= until and all(one.previous_instant(moment) != moment for one in self._repeating):
                if self._is_left_out(moment):
                    dropped += 1
                else:
                    kept += 1
        return kept, dropped


class _Days:
    """The slots of whole UTC days as bits, for one question: what it remembers goes with it."""

    def __init__(self, triggers: Sequence[Repeating], left_out: Sequence[CronSearch]) -> None:
        self._wanted = [(days, days.day_pattern()) for days in (trigger.by_day() for trigger in triggers)]
        self._unwanted = [(days, days.day_pattern()) for days in left_out]
        self._all: list[DayPattern] = [days for days, _ in (*self._wanted, *self._unwanted)]
        self._known: dict[object, int] = {}
        self._counted: dict[object, tuple[int, int]] = {}

    def kept(self, day: int) -> int:
        """The slots of a day that are not left out."""
        key = self._key(day)
        bits = self._known.get(key)
        if bits is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            slots, left_out = self._bits(day)
            bits = self._known[key] = slots & ~left_out
        return bits

    def count(self, start: int, stop: int) -> tuple[int, int]:
        """Slots kept and left out in ``start <= second < stop``."""
        kept = dropped = 0
        for day in range(start // _DAY_SECONDS, -(-stop // _DAY_SECONDS)):
            first, last = start - day * _DAY_SECONDS, stop - day * _DAY_SECONDS
            if first <= 0 and last >= _DAY_SECONDS:
                counts = self._count_day(day)
            else:
                among = _WHOLE_DAY if last >= _DAY_SECONDS else (1 << last) - 1
                counts = _counts(*self._bits(day), among & -1 << max(first, 0))
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
        slots = left_out = 0
        for days, pattern in self._wanted:
            slots |= days.day_slots(day, pattern)
        for days, pattern in self._unwanted:
            left_out |= days.day_slots(day, pattern)
        return slots, left_out


def _counts(slots: int, left_out: int, among: int) -> tuple[int, int]:
    slots &= among
    dropped = (slots & left_out).bit_count()
    return slots.bit_count() - dropped, dropped


def _exclusion(expression: Cron) -> CronSearch:
    search = expression.whole_minutes()
    if isinstance(search, Every):
        raise CronError(f"{expression.expression!r} excludes nothing: write an expression with fields, or a window")
    return search


def _start_of(window: Window) -> Instant:
    return window.start


def _merged(windows: Iterable[Window]) -> tuple[Window, ...]:
    """Windows in order, those that touch made one."""
    merged: list[Window] = []
    for window in sorted(windows):
        if merged and window.start <= merged[-1].end:
            merged[-1] = Window(merged[-1].start, max(merged[-1].end, window.end))
        elif window.start < window.end:
            merged.append(window)
    return tuple(merged)
