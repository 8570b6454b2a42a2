"""Planted bugs: one for each promise, to see that the checker bites.

Each changes one place of the real engine or of the store, the way a careless edit might, and names the rule that has to
find it: the first word of the checker's complaint.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from scheduledjob.domain.schedule import Schedule
from scheduledjob.engine.clock import StoreClock
from scheduledjob.engine.leases import Leases
from scheduledjob.engine.owner import Owner
from scheduledjob.stores.memory import MemoryStore, rows
from scheduledjob.stores.memory.history import History

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scheduledjob.domain.state import RunRecord
    from scheduledjob.engine.store import Fate


@contextmanager
def leases_are_not_respected() -> Iterator[None]:
    """A claim takes rows of living owners too, four seconds before their lease ends."""
    due_rows = rows.due_rows

    def impatient(agendas: Any, until: int, now: int, limit: int) -> Any:
        return due_rows(agendas, until, now + 4_000_000, limit)

    with patch("scheduledjob.stores.memory.store.due_rows", impatient):
        yield


@contextmanager
def leases_are_not_fenced() -> Iterator[None]:
    """A replica that can't renew goes on, and its jobs are never told of a deadline."""
    hold = Leases.hold
    with (
        patch.object(Leases, "expired", lambda self, now: []),
        patch.object(Leases, "hold", lambda self, key, version, deadline: hold(self, key, version, deadline + 1e6)),
    ):
        yield


@contextmanager
def stale_writes_count() -> Iterator[None]:
    """A settlement is carried out whoever owns the row by now."""

    def anybodys(self: Any, key: Any, replica: str, version: int) -> Any:
        return self.keys.get(key)

    with patch.object(rows.Installation, "owned", anybodys):
        yield


@contextmanager
def the_clock_is_fast() -> Iterator[None]:
    """The store's clock is taken to be a little ahead of what it says."""
    now = StoreClock.now
    with patch.object(StoreClock, "now", lambda self: now(self) + 20_000):
        yield


@contextmanager
def takeovers_are_not_counted() -> Iterator[None]:
    """The attempt of a dead owner is started again under the same number."""
    with patch.object(Schedule, "taken_over", lambda self, now, *, edited: None):
        yield


@contextmanager
def fresh_runs_start() -> Iterator[None]:
    """A run is started before the store knows of it."""
    with patch.object(Schedule, "_is_fresh", lambda self, run: False):
        yield


@contextmanager
def released_holds_go_on() -> Iterator[None]:
    """A timer of a row that was given back still starts it."""
    settle = Owner._settle

    def forgetful(self: Owner, hold: Any, fate: Fate, wake: Any) -> None:
        settle(self, hold, fate, wake)
        hold.released = False

    with patch.object(Owner, "_settle", forgetful):
        yield


@contextmanager
def leaving_forgets_the_plan() -> Iterator[None]:
    """A row is given back without the slot that comes next."""
    with patch.object(Schedule, "leave", lambda self, now: None):
        yield


@contextmanager
def missed_slots_are_not_counted() -> Iterator[None]:
    """The misfire rule drops slots without a word."""
    from scheduledjob.domain import due, misfire

    def silent(*arguments: Any) -> misfire.Decided:
        return misfire.decide(*arguments)._replace(missed=0)

    with patch.object(due, "decide", silent):
        yield


@contextmanager
def history_takesdoubles() -> Iterator[None]:
    """History has a second record of a run, after a write that was repeated."""
    settle = MemoryStore.settle
    newest = History.newest
    doubles: list[RunRecord] = []

    def all_of_them(self: History, *arguments: Any) -> list[RunRecord]:
        found = newest(self, *arguments)
        return found + [record for record in doubles if record.run_id in self._lines]

    async def keepdoubles(self: MemoryStore, replica: str, settlements: Any) -> list[bool]:
        done = await settle(self, replica, settlements)
        for settlement, carried_out in zip(settlements, done, strict=True):
            if not carried_out:
                doubles.extend(settlement.records)
        return done

    with patch.object(MemoryStore, "settle", keepdoubles), patch.object(History, "newest", all_of_them):
        yield


@contextmanager
def failed_runs_stay() -> Iterator[None]:
    """A run whose retries are used up waits for a retry that never comes."""
    finish = Schedule.finish

    def never(self: Schedule, run: Any, outcome: Any, *arguments: Any) -> Any:
        if outcome == "Failed":
            run.due += 10**15
            return None
        return finish(self, run, outcome, *arguments)

    with patch.object(Schedule, "finish", never):
        yield


BUGS: dict[str, tuple[Callable[[], Any], str]] = {
    "leases are not respected": (leases_are_not_respected, "twice at once"),
    "leases are not fenced": (leases_are_not_fenced, "twice at once"),
    "stale writes count": (stale_writes_count, "stale"),
    "the clock is fast": (the_clock_is_fast, "early"),
    "takeovers are not counted": (takeovers_are_not_counted, "unsaid"),
    "fresh runs start": (fresh_runs_start, "unsaid"),
    "released holds go on": (released_holds_go_on, "twice at once"),
    "leaving forgets the plan": (leaving_forgets_the_plan, "lost"),
    "missed slots are not counted": (missed_slots_are_not_counted, "lost"),
    "history takes doubles": (history_takesdoubles, "completed twice"),
    "failed runs stay": (failed_runs_stay, "never ended"),
}
