"""History of the memory store: the ended runs, by slug and by age.

Call each method under the database's lock. A busy schedule ends a run each second, so a record that newer ones push
out is dropped soon after they are added; some slack spreads the cost. ``prune`` drops every record that need not be
kept. One-shots have a slug each, so nothing pushes their records out. So all records together have a limit, beyond
which the oldest are dropped.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections import Counter
from typing import TYPE_CHECKING, TypeAlias

from scheduledjob.domain.schedule.state import Outcome, RunRecord
from scheduledjob.domain.time.instants import Instant

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

Line: TypeAlias = tuple[Instant, int, RunRecord]
"""(when the run finished, a number that orders runs of the same instant, the record)."""

Group: TypeAlias = tuple[str, bool]
"""(slug, whether the run succeeded): ``RunRecord.keep`` limits the number of records in such a group."""

SLACK = 4
"""A group is cut when it exceeds twice its limit by more than this."""


MAX_BYTES = 64 * 2**20
"""Bytes that all records take at most."""
RECORD_BYTES = 600
"""Bytes that a record takes in memory without its output and reason."""


class History:
    """The ended runs of one installation."""

    def __init__(self) -> None:
        self._lines: dict[str, Line] = {}
        self._groups: dict[Group, list[Line]] = {}
        self._by_age: list[Line] = []
        """Sorted. Dropped lines stay until they are half of it."""
        self._expiries: list[tuple[Instant, str]] = []
        """A heap. Dropped records stay until they are half of it."""
        self._overfull: dict[Group, None] = {}
        self._added = 0
        self._bytes = 0
        """What the records take, by estimate."""
        self._bytes_of: Counter[str] = Counter()
        """The same by namespace."""

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, records: Iterable[RunRecord]) -> None:
        """Add each record whose run history does not have yet."""
        for record in records:
            if record.run_id in self._lines:
                continue
            self._added += 1
            line = (record.finished, self._added, record)
            self._lines[record.run_id] = line
            self._bytes += _size(record)
            self._bytes_of[_namespace(record)] += _size(record)
            group = (record.slug, record.outcome is Outcome.SUCCEEDED)
            lines = self._groups.setdefault(group, [])
            insort(lines, line)
            insort(self._by_age, line)
            heapq.heappush(self._expiries, (record.expires, record.run_id))
            if len(lines) > record.keep:
                self._overfull[group] = None
                if len(lines) > 2 * record.keep + SLACK:
                    self._cut(group, len(lines))
        if self._bytes > MAX_BYTES:
            self._drop_oldest()
        self._drop_stale_entries()

    def recorded(self, run_ids: Iterable[str]) -> set[str]:
        return {run_id for run_id in run_ids if run_id in self._lines}

    def newest(self, slug: str | None, uid: str | None, before: Instant | None, limit: int) -> list[RunRecord]:
        """Return records (of one slug, of one uid) of runs that finished before ``before``, the newest first."""
        groups = [self._by_age] if slug is None else [self._groups.get((slug, ok), []) for ok in (True, False)]
        found: list[RunRecord] = []
        for line in heapq.merge(*(_backwards(lines, before) for lines in groups), reverse=True):
            if len(found) >= limit:
                break
            if self._lines.get(line[2].run_id) is line and uid in {None, line[2].uid}:
                found.append(line[2])
        return found

    def prune(self, now: Instant, limit: int) -> int:
        """Drop at most ``limit`` records that have expired or that newer ones push out, and return how many."""
        dropped = 0
        while dropped < limit and self._expiries and self._expiries[0][0] <= now:
            expires, run_id = heapq.heappop(self._expiries)
            line = self._lines.get(run_id)
            if line is not None and line[2].expires == expires:
                self._drop(line)
                dropped += 1
        while dropped < limit and self._overfull:
            dropped += self._cut(next(iter(self._overfull)), limit - dropped)
        self._drop_stale_entries()
        return dropped

    def _cut(self, group: Group, limit: int) -> int:
        """Drop up to ``limit`` of the group's records that newer ones push out, and return how many."""
        lines = self._groups.get(group, [])
        size = len(lines)
        surplus = [line for position, line in enumerate(lines) if size - position > line[2].keep]
        for line in surplus[:limit]:
            self._drop(line)
        if len(surplus) <= limit:
            self._overfull.pop(group, None)
        return min(len(surplus), limit)

    def _drop_oldest(self) -> None:
        """Drop the oldest records of namespaces with more than their share, until a twentieth of the space is free."""
        self._bytes_of = +self._bytes_of
        most = MAX_BYTES * 19 // 20
        share = most // len(self._bytes_of)
        for line in self._by_age:
            if self._bytes <= most:
                return
            if self._lines.get(line[2].run_id) is line and self._bytes_of[_namespace(line[2])] > share:
                self._drop(line)

    def _drop(self, line: Line) -> None:
        record = line[2]
        del self._lines[record.run_id]
        self._bytes -= _size(record)
        self._bytes_of[_namespace(record)] -= _size(record)
        group = (record.slug, record.outcome is Outcome.SUCCEEDED)
        lines = self._groups[group]
        del lines[bisect_left(lines, line)]
        if not lines:
            del self._groups[group]
            self._overfull.pop(group, None)

    def _drop_stale_entries(self) -> None:
        enough = 2 * len(self._lines) + 64
        if len(self._by_age) > enough:
            self._by_age = [line for line in self._by_age if self._lines.get(line[2].run_id) is line]
        if len(self._expiries) > enough:
            self._expiries = [(line[2].expires, run_id) for run_id, line in self._lines.items()]
            heapq.heapify(self._expiries)


def _size(record: RunRecord) -> int:
    return RECORD_BYTES + len(record.output) + len(record.reason)


def _finished(line: Line) -> Instant:
    return line[0]


def _backwards(lines: Sequence[Line], before: Instant | None) -> Iterator[Line]:
    """Yield the lines of runs that finished before ``before``, the newest first."""
    end = len(lines) if before is None else bisect_left(lines, before, key=_finished)
    return (lines[position] for position in range(end - 1, -1, -1))


def _namespace(record: RunRecord) -> str:
    namespace, slash, _ = record.slug.partition("/")
    return namespace if slash else ""
