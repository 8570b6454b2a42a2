"""History of the memory store: the runs that ended, found by name and by age, and never more than was asked for.

It stands beside the store because it shares nothing with rows and leases but the store's lock, under which each of
these methods is called. A busy schedule ends a run each second, so what its records say to keep is enforced while
they are added, with some slack so that the cost is spread; ``prune`` does it to the letter.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from typing import TYPE_CHECKING, TypeAlias

from scheduledjob.domain.schedule.state import Outcome, RunRecord
from scheduledjob.domain.time.instants import Instant

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Line: TypeAlias = tuple[Instant, int, RunRecord]
"""(when it finished, a number that breaks ties in order of arrival, what is kept)."""

Shelf: TypeAlias = tuple[str, bool]
"""(slug, whether the run succeeded): what ``RunRecord.keep`` counts within."""

SLACK = 4
"""A shelf is cut when it holds more than twice what it should, and this many more."""


class History:
    """The ended runs of one installation."""

    def __init__(self) -> None:
        self._lines: dict[str, Line] = {}
        self._shelves: dict[Shelf, list[Line]] = {}
        self._by_age: list[Line] = []
        """Sorted; lines that were dropped stay until they are half of it."""
        self._expiries: list[tuple[Instant, str]] = []
        """A heap, with the same laziness."""
        self._overfull: dict[Shelf, None] = {}
        self._added = 0

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, records: Iterable[RunRecord]) -> None:
        """Keep each record whose run is not there yet."""
        for record in records:
            if record.run_id in self._lines:
                continue
            self._added += 1
            line = (record.finished, self._added, record)
            self._lines[record.run_id] = line
            shelf = (record.slug, record.outcome is Outcome.SUCCEEDED)
            lines = self._shelves.setdefault(shelf, [])
            insort(lines, line)
            insort(self._by_age, line)
            heapq.heappush(self._expiries, (record.expires, record.run_id))
            if len(lines) > record.keep:
                self._overfull[shelf] = None
                if len(lines) > 2 * record.keep + SLACK:
                    self._cut(shelf, len(lines))
        self._sweep()

    def recorded(self, run_ids: Iterable[str]) -> set[str]:
        return {run_id for run_id in run_ids if run_id in self._lines}

    def newest(self, slug: str | None, uid: str | None, before: Instant | None, limit: int) -> list[RunRecord]:
        """Records (of one slug, of one uid) that finished earlier than ``before``, the newest first."""
        lines: Sequence[Line] = self._by_age
        if slug is not None:
            lines = sorted(line for ok in (True, False) for line in self._shelves.get((slug, ok), ()))
        end = len(lines) if before is None else bisect_left(lines, before, key=_finished)
        found: list[RunRecord] = []
        for position in range(end - 1, -1, -1):
            if len(found) >= limit:
                break
            line = lines[position]
            if self._lines.get(line[2].run_id) is line and uid in {None, line[2].uid}:
                found.append(line[2])
        return found

    def prune(self, now: Instant, limit: int) -> int:
        """Drop at most ``limit`` records that have expired, or that newer ones push out; how many went."""
        gone = 0
        while gone < limit and self._expiries and self._expiries[0][0] <= now:
            expires, run_id = heapq.heappop(self._expiries)
            line = self._lines.get(run_id)
            if line is not None and line[2].expires == expires:
                self._drop(line)
                gone += 1
        while gone < limit and self._overfull:
            gone += self._cut(next(iter(self._overfull)), limit - gone)
        self._sweep()
        return gone

    def _cut(self, shelf: Shelf, limit: int) -> int:
        """Drop up to ``limit`` of the shelf's records that have as many newer ones as they say to keep."""
        lines = self._shelves.get(shelf, [])
        size = len(lines)
        surplus = [line for position, line in enumerate(lines) if size - position > line[2].keep]
        for line in surplus[:limit]:
            self._drop(line)
        if len(surplus) <= limit:
            self._overfull.pop(shelf, None)
        return min(len(surplus), limit)

    def _drop(self, line: Line) -> None:
        record = line[2]
        del self._lines[record.run_id]
        shelf = (record.slug, record.outcome is Outcome.SUCCEEDED)
        lines = self._shelves[shelf]
        del lines[bisect_left(lines, line)]
        if not lines:
            del self._shelves[shelf]

    def _sweep(self) -> None:
        enough = 2 * len(self._lines) + 64
        if len(self._by_age) > enough:
            self._by_age = [line for line in self._by_age if self._lines.get(line[2].run_id) is line]
        if len(self._expiries) > enough:
            self._expiries = [(line[2].expires, run_id) for run_id, line in self._lines.items()]
            heapq.heapify(self._expiries)


def _finished(line: Line) -> Instant:
    return line[0]
