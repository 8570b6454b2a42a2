"""Planted bugs: one for each promise, to see that the checker bites.

Each changes one place of the real engine or of the store, the way a careless edit might, and names the rule that has to
find it: the first word of the checker's complaint.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from scheduledjob.domain.schedule.machine import Schedule
from scheduledjob.engine.attempt_runner import AttemptRunner
from scheduledjob.engine.clock import StoreClock
from scheduledjob.engine.followers import UpstreamPoller
from scheduledjob.engine.leases import Leases
from scheduledjob.engine.owned_schedule import Phase
from scheduledjob.engine.ownership import Ownership
from scheduledjob.stores.memory import MemoryStore, rows
from scheduledjob.stores.memory.history import History

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scheduledjob.domain.schedule.state import RunRecord
    from scheduledjob.engine.store import Disposition


@contextmanager
def leases_are_not_respected() -> Iterator[None]:
    """A claim takes rows of living owners too, four seconds before their lease ends."""
    due_rows = rows.due_rows

    def impatient(agendas: Any, until: int, now: int, limit: int) -> Any:
        return due_rows(agendas, until, now + 4_000_000, limit)

    with patch("scheduledjob.stores.memory.claims.due_rows", impatient):
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
    with patch.object(Schedule, "recovered", lambda self, now, *, edited: None):
        yield


@contextmanager
def fresh_runs_start() -> Iterator[None]:
    """A run is started before the store knows of it."""
    with patch.object(Schedule, "_is_unstored", lambda self, run: False):
        yield


@contextmanager
def released_holds_go_on() -> Iterator[None]:
    """A timer of a row that was given back still starts it."""
    write = Ownership._write

    def forgetful(self: Ownership, owned: Any, disposition: Disposition, wake: Any) -> None:
        write(self, owned, disposition, wake)
        if owned.phase is Phase.RELEASED:
            owned.phase = Phase.ACTIVE

    with patch.object(Ownership, "_write", forgetful):
        yield


@contextmanager
def leaving_forgets_the_plan() -> Iterator[None]:
    """A row is given back without the slot that comes next."""
    with patch.object(Schedule, "leave", lambda self, now: None):
        yield


@contextmanager
def missed_slots_are_not_counted() -> Iterator[None]:
    """The misfire rule drops slots without a word."""
    from scheduledjob.domain.schedule import due, misfire

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


@contextmanager
def acts_are_done_again() -> Iterator[None]:
    """What was asked for by hand is not remembered."""

    def forgetful(self: Schedule, requests: Any, at: int) -> None:
        asked(self, requests, at)
        self._requests = requests
        self.state.handled = ()

    asked = Schedule.asked
    with patch.object(Schedule, "asked", forgetful):
        yield


@contextmanager
def acts_are_taken_with_the_wish() -> Iterator[None]:
    """What is asked for is looked at when the wish is another one, and not when it was put off then."""
    asked = Schedule.asked

    def once(self: Schedule, requests: Any, at: int) -> None:
        if self.changed:
            asked(self, requests, at)

    with (
        patch.object(Schedule, "asked", once),
        patch.object(Schedule, "wake", without_requests),
    ):
        yield


def without_requests(schedule: Schedule) -> int | None:
    requests, schedule._requests = schedule._requests, None
    try:
        return WAKE(schedule)
    finally:
        schedule._requests = requests


WAKE = Schedule.wake


@contextmanager
def cancellations_are_forgotten() -> Iterator[None]:
    """The store is not told that a run is to end."""
    snapshot = Schedule.snapshot

    def without_them(self: Schedule) -> bytes:
        reasons = [(run, run.cancel_reason) for run in self.state.runs]
        for run, _ in reasons:
            run.cancel_reason = ""
        try:
            return snapshot(self)
        finally:
            for run, reason in reasons:
                run.cancel_reason = reason

    with patch.object(Schedule, "snapshot", without_them):
        yield


@contextmanager
def pods_are_not_adopted() -> Iterator[None]:
    """What outlives its replica is started again as the next attempt."""
    lose = Schedule._lose

    def as_inline(self: Schedule, run: Any, now: int) -> Any:
        run.detached = False
        return lose(self, run, now)

    with patch.object(Schedule, "_lose", as_inline):
        yield


@contextmanager
def adoptions_count_as_lost() -> Iterator[None]:
    """An attempt that goes on is given another number."""
    lose = Schedule._lose

    def counted(self: Schedule, run: Any, now: int) -> Any:
        record = lose(self, run, now)
        run.attempt += run.adoptable
        return record

    with patch.object(Schedule, "_lose", counted):
        yield


@contextmanager
def pods_are_only_let_go() -> Iterator[None]:
    """A run whose Pod should end is over at once, and its Pod goes on."""
    stop = AttemptRunner._stop

    def careless(this: Any, end: Any, reason: str, ending: str) -> None:
        stop(this, end, reason, "released")

    with patch.object(AttemptRunner, "_stop", staticmethod(careless)):
        yield


@contextmanager
def late_ends_are_overlooked() -> Iterator[None]:
    """A follower takes everything that finished before its last look for decided."""
    with patch("scheduledjob.domain.schedule.followed_runs.LATE", 0):
        yield


@contextmanager
def followers_sleep() -> Iterator[None]:
    """A follower looks once, and is never nudged."""
    followed = Schedule.followed

    def then_never(self: Schedule, records: Any, now: int) -> None:
        followed(self, records, now)
        self.poll_at = None

    with (
        patch.object(Schedule, "followed", then_never),
        patch.object(UpstreamPoller, "notify_followers", lambda self, slug: None),
    ):
        yield


@contextmanager
def followers_forget() -> Iterator[None]:
    """A follower does not remember what it has seen."""
    from scheduledjob.domain.schedule import followed_runs

    take = followed_runs.take_ends

    def forgetful(schedule: Any, records: Any, now: int) -> None:
        take(schedule, records, now)
        schedule.state.followed_ids = {}

    with patch.object(followed_runs, "take_ends", forgetful):
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
    "acts are done again": (acts_are_done_again, "unsaid"),
    "acts are taken with the wish": (acts_are_taken_with_the_wish, "unheard"),
    "cancellations are forgotten": (cancellations_are_forgotten, "uncancelled"),
    "pods are not adopted": (pods_are_not_adopted, "twice at once"),
    "adoptions count as lost": (adoptions_count_as_lost, "twice at once"),
    "pods are only let go": (pods_are_only_let_go, "twice at once"),
    "late ends are overlooked": (late_ends_are_overlooked, "unfollowed"),
    "followers sleep": (followers_sleep, "unfollowed"),
    "followers forget": (followers_forget, "unfollowed"),
}
