"""Cron: the slots of an expression in a time zone.

``domain/cron`` parses the dialect, searches it for slots and explains it in words; this module puts the three together.
What depends on the expression alone is computed once and shared by all schedules that have it.
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
from .stored_trigger import StoredTrigger

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["Cron", "CronError", "CronTrigger", "cron_of"]


@dataclass(frozen=True, slots=True)
class Cron:
    """The slots of a cron expression in a time zone (an IANA name). ``seed`` decides the values of ``H``.

    Raises ``CronError``, a ``ValueError`` that names the field, the value and what is allowed.
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
        """Return itself, or for ``@every`` the interval counted from the creation of the schedule."""
        return self._times.bind(created) if isinstance(self._times, Every) else self

    def next(self, after: datetime) -> datetime | None:
        """Return the first slot after a moment, in UTC, or None."""
        if isinstance(self._times, Every):
            return self._times.next(after)
        slot = self.next_instant(to_instant(after))
        return None if slot is None else to_datetime(slot)

    def previous(self, at: datetime) -> datetime | None:
        """Return the newest slot at or before a moment, in UTC, or None."""
        if isinstance(self._times, Every):
            return self._times.previous(at)
        slot = self.previous_instant(to_instant(at))
        return None if slot is None else to_datetime(slot)

    def explain(self) -> str:
        """Return the expression in words."""
        if self._fields is None:
            return self._times.explain() if isinstance(self._times, Every) else ""
        return explain(self._fields, self.time_zone)

    def next_instant(self, after: Instant) -> Instant | None:
        """Return the first slot after an instant, or None."""
        if isinstance(self._times, Every):
            return self._times.next_instant(after)
        slot = self._times.next(after // SECOND + 1)
        return None if slot is None else slot * SECOND

    def previous_instant(self, at: Instant) -> Instant | None:
        """Return the newest slot at or before an instant, or None."""
        if isinstance(self._times, Every):
            return self._times.previous_instant(at)
        slot = self._times.previous(at // SECOND)
        return None if slot is None else slot * SECOND

    def count(self, after: Instant, until: Instant) -> int:
        """Return how many slots lie in ``after < slot <= until``, without visiting each."""
        if isinstance(self._times, Every):
            return self._times.count(after, until)
        return self._times.count(after // SECOND + 1, until // SECOND + 1)

    def by_day(self) -> CronSearch | Every:
        """Return the search behind it, in seconds."""
        return self._times

    def whole_minutes(self) -> CronSearch | Every:
        """Return the search for an exclusion.

        An expression of five fields says nothing about seconds. As an exclusion, such as ``* 22-23 * * *`` for an
        interval of 30 s, it matches each second of its minutes.
        """
        if self._fields is None or self._fields.with_seconds:
            return self._times
        local = _local_times(self.expression, self.seed, any_second=True)
        return CronSearch(local, zone_of(self.time_zone), wall_clock=self._fields.wall_clock)

    def stored(self) -> CronTrigger:
        """Return the expression as a definition stores it."""
        return CronTrigger(self.expression, self.time_zone, self.seed)


class CronTrigger(StoredTrigger, frozen=True, tag="cron"):
    """The slots of a cron expression."""

    expression: str
    time_zone: str = "UTC"
    seed: str = ""
    """Decides the values of ``H``; empty: the name of the schedule does."""

    def bind(self, seed: str, created: Instant) -> Cron | Every:
        """Return the expression, or the interval of ``@every``. Raises ``CronError``."""
        return cron_of(self.expression, self.time_zone, self.seed or seed).bind(created)

    def short(self) -> str:
        """Return the expression, and the time zone unless it is UTC."""
        return self.expression if self.time_zone == "UTC" else f"{self.expression} {self.time_zone}"

    def long(self, seed: str) -> str:
        """Return ``at 02:30 every day, Europe/Lisbon time (30 2 * * *)``."""
        return f"{Cron(self.expression, self.time_zone, seed=self.seed or seed).explain()} ({self.expression})"

    @property
    def counts_from_creation(self) -> bool:
        """Whether it is an interval."""
        return self.expression.lstrip().upper().startswith("@EVERY")

    @property
    def depends_on_row(self) -> bool:
        """Whether it is an interval, or ``H`` has the values of the schedule's name."""
        return self.counts_from_creation or (not self.seed and "H" in self.expression.upper())

    @property
    def zone(self) -> str:
        """The time zone of the expression."""
        return self.time_zone


@lru_cache(maxsize=10_000)
def cron_of(expression: str, time_zone: str, seed: str) -> Cron:
    """Return the expression, parsed once for all schedules that share it. Raises ``CronError``."""
    return Cron(expression, time_zone, seed=seed if "H" in expression.upper() else "")


@lru_cache(maxsize=4096)
def _local_times(expression: str, seed: str, *, any_second: bool) -> LocalTimes:
    fields = parse(expression, seed)
    if not isinstance(fields, CronFields):
        raise TypeError(f"{expression!r} is an interval")
    return LocalTimes(fields, any_second=any_second)
