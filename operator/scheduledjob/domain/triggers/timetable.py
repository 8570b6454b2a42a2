"""Timetable: when a schedule fires, with all its triggers and exclusions taken together.

It answers three questions without visiting every slot: which slot is next, which is the newest, and how many there are
in a period. A single trigger without exclusions computes the answer itself. If there are several triggers, or an
expression excludes slots, ``day_bits`` makes an int of the slots of each UTC day. Only ``At`` has slots between whole
seconds. They are few, and are handled one by one.

The work of each answer is bounded. It is counted in steps of about a microsecond, so the bound is the same on every
machine. A timetable for which the steps do not suffice to search ``MIN_SEARCHED_DAYS`` is refused when it is made.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final, NamedTuple

from scheduledjob.domain.cron.days import WHOLE_MINUTES_FROM, groups_of
from scheduledjob.domain.time.instants import DAY, SECOND, Instant
from scheduledjob.domain.time.zones import LAST_SECOND

from .cron import Cron, CronError
from .day_bits import MAX_COUNT_STEPS, MAX_STEPS, MIN_SEARCHED_DAYS, DayBits
from .every import Every
from .following import FollowingTrigger
from .manual import ManualTrigger
from .once import At
from .stored_trigger import BoundTrigger, Repeating

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from scheduledjob.domain.cron.search import CronSearch

_STEPS: Final = 32
"""Excluded slots in a row that are skipped one by one before the search continues with whole days."""
_SEARCHED_DAYS: Final = 4500
"""Days (with slots) that are searched. If all slots of twelve years are excluded, there is no next slot."""
_SEARCHED_SPAN: Final = 36_525
"""Days after which the search ends if slots are so rare that it has searched few of them: a century."""
_EMPTY_DAYS: Final = 8
"""Days without slots that are visited before the triggers are asked for the next slot."""
_STEPS_OF_TRIGGER: Final = 4
"""Steps to ask one trigger for its next slot."""


class Window(NamedTuple):
    """Slots with ``start <= slot < end`` are excluded."""

    start: Instant
    end: Instant


class SearchCostError(CronError):
    """The search for the slots of a timetable would take too long."""

    def __init__(self, steps_of_day: int) -> None:
        most = MAX_STEPS // MIN_SEARCHED_DAYS
        self.message = (
            f"the search for slots takes up to {steps_of_day} steps for each day, and {most} are allowed, because each "
            "time zone costs some steps, and most if slots are not at whole minutes"
        )
        self.advice = (
            "use fewer time zones in triggers and exclude, write cron expressions without seconds, or exclude windows"
        )
        super().__init__(f"triggers and exclude: {self.message}: {self.advice}")


class Timetable:
    """The union of bound triggers, without what is excluded, from ``start_at`` to ``end_at`` (both inclusive).

    An expression in ``exclude`` excludes its own slots. If it has five fields, it says nothing about seconds and
    excludes the whole minute. ``@every`` in ``exclude`` raises ``CronError``, and a search that takes too long
    ``SearchCostError``.
    """

    __slots__ = (
        "_end_at",
        "_excluding",
        "_minute_bits",
        "_moments",
        "_repeating",
        "_start_at",
        "_windows",
        "by_hand",
        "following",
        "steps",
        "zoned",
    )

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
        self._excluding = tuple(groups_of(_exclusion(excluded) for excluded in exclude if isinstance(excluded, Cron)))
        self.zoned = any(
            getattr(sequence, "time_zone", "UTC") not in ("UTC", "Etc/UTC") for sequence in (*triggers, *exclude)
        )
        """Whether its slots depend on the rules of a time zone."""
        self._start_at = start_at
        self._end_at = LAST_SECOND * SECOND if end_at is None else min(end_at, LAST_SECOND * SECOND)
        self.steps = 0
        """Steps of all searches so far. A slot that is found at once costs none."""
        self._minute_bits = all(trigger.by_day().whole_minutes for trigger in self._repeating)
        if self._excluding:
            _refuse_costly(self._bits(60 if self._minute_bits else 1).steps_of_day)

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
            self.steps += _STEPS_OF_TRIGGER * len(self._repeating)
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
            self.steps += _STEPS_OF_TRIGGER * len(self._repeating)
        return None if slot is None else self._search(slot, forward=False)

    def count(self, after: Instant, until: Instant, max_steps: int = MAX_COUNT_STEPS) -> tuple[int, int]:
        """Return how many slots in ``after < slot <= until`` fire, and how many are excluded.

        Of a period so long that ``max_steps`` do not suffice, the end is not counted if expressions exclude slots.
        Otherwise, a slot that several triggers share counts several times there.
        """
        if self._start_at is not None:
            after = max(after, self._start_at - 1)
        until = min(until, self._end_at)
        fires = excluded = 0
        bits: dict[int, DayBits] = {}
        for begin, end, in_window in self._pieces(after, until):
            kept, dropped = self._count_piece(begin, end, bits, max_steps)
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
        return any(group.matches(second) for group in self._excluding)

    # ---------------------------------------------------------------- whole days

    def _bits(self, unit: int) -> DayBits:
        return DayBits([trigger.by_day() for trigger in self._repeating], self._excluding, unit)

    def _search(self, slot: Instant, *, forward: bool) -> Instant | None:
        """Return the nearest slot from ``slot`` on that is not excluded, searching whole days.

        Returns None if nothing is found in ``_SEARCHED_DAYS``, or in ``MAX_STEPS``: all slots count as excluded then.
        """
        sign = 1 if forward else -1
        moments = [at for at in self._moments if (at - slot) * sign >= 0 and not self.is_excluded(at)]
        moment = (min if forward else max)(moments, default=None)
        bits: DayBits | None = None
        first_day = day = slot // DAY
        searched = empty = steps = 0
        while searched < _SEARCHED_DAYS and abs(day - first_day) <= _SEARCHED_SPAN:
            if (moment is not None and (day - moment // DAY) * sign > 0) or not self._overlaps(day):
                break
            unit = 60 if self._minute_bits and day >= WHOLE_MINUTES_FROM else 1
            if bits is None or bits.unit != unit:
                bits = self._bits(unit)
            if steps + bits.steps > MAX_STEPS:
                break
            spent = bits.steps
            kept = bits.kept(day)
            self.steps += bits.steps - spent
            if kept is None:
                empty += 1
            else:
                searched, empty = searched + 1, 0
                found = self._nearest(kept, day, unit, slot if day == first_day else None, forward=forward)
                if found is not None:
                    found = found if moment is None else (min if forward else max)(found, moment)
                    return found if self.is_within(found) else None
            day += sign
            if empty >= _EMPTY_DAYS:
                steps += _STEPS_OF_TRIGGER * len(self._repeating)
                jump = self._first(day * DAY - 1) if forward else self._last((day + 1) * DAY - 1)
                if jump is None:
                    break
                day, empty = jump // DAY, 0
        return moment if moment is not None and self.is_within(moment) else None

    def _nearest(self, bits: int, day: int, unit: int, limit: Instant | None, *, forward: bool) -> Instant | None:
        """Return the first slot of a day, from ``limit`` on, that no window excludes; the last one, if not forward."""
        if limit is not None:
            second = limit // SECOND - day * (DAY // SECOND)
            bits &= -1 << -(-second // unit) if forward else (2 << second // unit) - 1
        while bits:
            found = ((bits & -bits) if forward else bits).bit_length() - 1
            slot = day * DAY + found * unit * SECOND
            window = self._window_of(slot)
            if window is None:
                return slot
            edge = -(-((window.end if forward else window.start) - day * DAY) // (unit * SECOND))
            if forward:
                bits &= -1 << min(max(edge, found + 1), DAY // SECOND)
            else:
                bits &= (1 << min(max(edge, 0), found)) - 1
        return None

    def _overlaps(self, day: int) -> bool:
        """Whether a part of a UTC day is between ``startAt`` and ``endAt``."""
        return day * DAY <= self._end_at and (self._start_at is None or (day + 1) * DAY > self._start_at)

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

    def _count_piece(self, after: Instant, until: Instant, bits: dict[int, DayBits], max_steps: int) -> tuple[int, int]:
        """Return how many slots in ``(after, until]`` the expressions keep, and how many they exclude."""
        kept = dropped = 0
        if not self._repeating:
            pass
        elif len(self._repeating) == 1 and not self._excluding:
            kept = self._repeating[0].count(after, until)
        else:
            start, stop = after // SECOND + 1, until // SECOND + 1
            middle = min(max(start, WHOLE_MINUTES_FROM * (DAY // SECOND)), stop) if self._minute_bits else stop
            for begin, end, unit in ((start, middle, 1), (middle, stop, 60)):
                if begin < end:
                    if unit not in bits:
                        bits[unit] = self._bits(unit)
                    spent = bits[unit].steps
                    *counts, counted_until = bits[unit].count(begin, end, max_steps)
                    self.steps += bits[unit].steps - spent
                    kept, dropped = kept + counts[0], dropped + counts[1]
                    if counted_until < end and not self._excluding:
                        rest = counted_until * SECOND - 1, end * SECOND - 1
                        kept += sum(trigger.count(*rest) for trigger in self._repeating)
        for moment in self._moments:
            if after < moment <= until and all(
                trigger.previous_instant(moment) != moment for trigger in self._repeating
            ):
                if self._excluded_by_expression(moment):
                    dropped += 1
                else:
                    kept += 1
        return kept, dropped


def _refuse_costly(steps_of_day: int) -> None:
    if steps_of_day * MIN_SEARCHED_DAYS > MAX_STEPS:
        raise SearchCostError(steps_of_day)


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
