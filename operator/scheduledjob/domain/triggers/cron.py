"""Cron: an expression in a time zone, as one value that can be asked for its slots.

The dialect is read by ``cron_parse``, searched by ``cron_search`` and put into words by ``explain``; here they meet.
What depends on the expression alone is made once and shared by all schedules that have it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from scheduledjob.domain.cron.explain import explain
from scheduledjob.domain.cron.local_times import LocalTimes
from scheduledjob.domain.cron.parse import CronError, CronFields, parse
from scheduledjob.domain.cron.search import CronSearch
from scheduledjob.domain.time.instants import SECOND, Instant, to_datetime, to_instant
from scheduledjob.domain.time.zones import zone_of

from .every import Every

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["Cron", "CronError"]


@dataclass(frozen=True, slots=True)
class Cron:
    """The slots of a cron expression in a time zone (an IANA name); ``seed`` is what ``H`` is spread by.

    Raises ``CronError``, a ``ValueError``, which names the field, the value and what is allowed.
    """

    expression: str
    time_zone: str = "UTC"
    seed: str = field(default="", kw_only=True)
    _fields: CronFields | None = field(init=False, repr=False, compare=False)
    _times: CronSearch | Every = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for what, given, example in (
            ("an expression", self.expression, "30 2 * * *"),
            ("a time zone", self.time_zone, "Europe/Lisbon"),
            ("a seed", self.seed, "team-a/nightly"),
        ):
            if not isinstance(given, str):
                raise CronError(f'{what} of {given!r:.60} is not allowed: give text, as in "{example}"')
        try:
            zone = zone_of(self.time_zone)
        except ValueError as error:
            raise CronError(str(error)) from None
        parsed = parse(self.expression, self.seed)
        times: CronSearch | Every
        if isinstance(parsed, CronFields):
            local = _local_times(self.expression, self.seed, any_second=False)
            times = CronSearch(local, zone, wall_clock=parsed.wall_clock)
            object.__setattr__(self, "_fields", parsed)
        else:
            times = Every(parsed // SECOND)
            object.__setattr__(self, "_fields", None)
        object.__setattr__(self, "_times", times)

    def bind(self, created: Instant) -> Cron | Every:
        """What fires once the schedule exists: itself, or the interval of ``@every``, counted from the creation."""
        return self._times.bind(created) if isinstance(self._times, Every) else self

    def next(self, after: datetime) -> datetime | None:
        """The first slot after a moment, in UTC; None if there is none any more."""
        if isinstance(self._times, Every):
            return self._times.next(after)
        slot = self.next_instant(to_instant(after))
        return None if slot is None else to_datetime(slot)

    def previous(self, at: datetime) -> datetime | None:
        """The newest slot at or before a moment, in UTC; None if there was none."""
        if isinstance(self._times, Every):
            return self._times.previous(at)
        slot = self.previous_instant(to_instant(at))
        return None if slot is None else to_datetime(slot)

    def explain(self) -> str:
        """The expression in words."""
        if self._fields is None:
            return self._times.explain() if isinstance(self._times, Every) else ""
        return explain(self._fields, self.time_zone)

    def next_instant(self, after: Instant) -> Instant | None:
        """The first slot after an instant."""
        if isinstance(self._times, Every):
            return self._times.next_instant(after)
        slot = self._times.next(after // SECOND + 1)
        return None if slot is None else slot * SECOND

    def previous_instant(self, at: Instant) -> Instant | None:
        """The newest slot at or before an instant."""
        if isinstance(self._times, Every):
            return self._times.previous_instant(at)
        slot = self._times.previous(at // SECOND)
        return None if slot is None else slot * SECOND

    def count(self, after: Instant, until: Instant) -> int:
        """How many slots lie in ``after < slot <= until``, without a walk over them."""
        if isinstance(self._times, Every):
            return self._times.count(after, until)
        return self._times.count(after // SECOND + 1, until // SECOND + 1)

    def searches(self, *, whole_minutes: bool = False) -> CronSearch | Every:
        """The search behind it, in seconds.

        With ``whole_minutes`` an expression of five fields, which says nothing of seconds, matches each second of
        its minutes: what an exclusion such as ``* 22-6 * * *`` means for an interval of 30 s.
        """
        if not whole_minutes or self._fields is None or self._fields.with_seconds:
            return self._times
        local = _local_times(self.expression, self.seed, any_second=True)
        return CronSearch(local, zone_of(self.time_zone), wall_clock=self._fields.wall_clock)


@lru_cache(maxsize=4096)
def _local_times(expression: str, seed: str, *, any_second: bool) -> LocalTimes:
    fields = parse(expression, seed)
    if not isinstance(fields, CronFields):
        raise TypeError(f"{expression!r} is an interval")
    return LocalTimes(fields, any_second=any_second)
