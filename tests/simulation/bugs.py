"""Planted bugs: one for each promise, to see that the checker finds it.

Each changes one place of the real engine or of the store, the way a careless edit might. ``BUGS`` names the rule that
has to find it: the first word of the checker's complaint.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from scheduledjob.domain.schedule import due, followed_runs, machine, misfire, runs
from scheduledjob.domain.schedule.requests import PendingRequests, Requests
from scheduledjob.domain.schedule.schedule import Schedule
from scheduledjob.domain.schedule.write_tracker import WriteTracker
from scheduledjob.engine.attempt_runner import AttemptRunner
from scheduledjob.engine.clock import StoreClock
from scheduledjob.engine.followers import UpstreamPoller
from scheduledjob.engine.leases import Leases
from scheduledjob.engine.owned_schedule import Phase
from scheduledjob.engine.ownership import Ownership
from scheduledjob.engine.poll_timer import PollTimer
from scheduledjob.engine.stored_row import Settlement
from scheduledjob.stores.memory import MemoryStore, agendas, rows
from scheduledjob.stores.memory import reconciling as memory_reconciling
from scheduledjob.stores.memory.history import History
from scheduledjob.stores.memory.hook_calls import HookCalls

from .data_bugs import (
    new_zones_replay_the_past,
    restored_runs_start_anew,
    status_is_not_compared,
    zones_are_refreshed_once,
)
from .lease_thread import SimulatedLeaseThread
from .row_locks import LockingStore
from .world import Machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from scheduledjob.domain.schedule.state import Run, RunRecord, State
    from scheduledjob.domain.time.instants import Instant
    from scheduledjob.engine.leases import Renewed
    from scheduledjob.engine.owned_schedule import OwnedSchedule
    from scheduledjob.engine.store import Renewal
    from scheduledjob.engine.stored_row import Disposition, HookCall, Row


@contextmanager
def leases_are_not_respected() -> Iterator[None]:
    """A claim takes rows of living owners too, four seconds before their lease ends."""
    due_rows = agendas.due_rows

    def impatient(of_kinds: Any, until: int, now: int, limit: int) -> Any:
        return due_rows(of_kinds, until, now + 4_000_000, limit)

    with patch("scheduledjob.stores.memory.claims.due_rows", impatient):
        yield


@contextmanager
def leases_are_not_fenced() -> Iterator[None]:
    """A replica that can't renew continues, and its jobs never learn of a deadline."""
    add = Leases.add
    with (
        patch.object(Leases, "expired", lambda self, now: []),
        patch.object(Leases, "add", lambda self, key, version, deadline: add(self, key, version, deadline + 1e6)),
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
def recoveries_are_not_counted() -> Iterator[None]:
    """The attempt of a dead owner is started again under the same number."""
    with patch.object(machine, "recover", lambda schedule, now, *, edited: None):
        yield


@contextmanager
def unstored_runs_start() -> Iterator[None]:
    """A run is started before the store knows of it."""
    with patch.object(WriteTracker, "is_unstored", lambda self, run: False):
        yield


@contextmanager
def released_rows_go_on() -> Iterator[None]:
    """A timer of a released row still starts it."""
    write = Ownership._write

    def forgetful(self: Ownership, owned: Any, disposition: Disposition, wake: Any) -> None:
        write(self, owned, disposition, wake)
        if owned.phase is Phase.RELEASED:
            owned.phase = Phase.ACTIVE

    with patch.object(Ownership, "_write", forgetful):
        yield


@contextmanager
def releases_forget_the_plan() -> Iterator[None]:
    """A row is released without the slot that comes next."""
    with patch.object(machine, "prepare_release", lambda schedule, now: None):
        yield


@contextmanager
def missed_slots_are_not_counted() -> Iterator[None]:
    """The misfire rule drops slots silently."""

    def silent(*arguments: Any) -> misfire.SlotDecision:
        return misfire.decide_slots(*arguments)._replace(missed=0)

    with patch.object(due, "decide_slots", silent):
        yield


@contextmanager
def history_keeps_doubles() -> Iterator[None]:
    """History has a second record of a run, after a write that was repeated."""
    settle = MemoryStore.settle
    newest = History.newest
    doubles: list[RunRecord] = []

    def all_of_them(self: History, *arguments: Any) -> list[RunRecord]:
        found = newest(self, *arguments)
        return found + [record for record in doubles if record.run_id in self._lines]

    async def keep_doubles(self: MemoryStore, replica: str, settlements: Any) -> list[bool]:
        done = await settle(self, replica, settlements)
        for settlement, carried_out in zip(settlements, done, strict=True):
            if not carried_out:
                doubles.extend(settlement.records)
        return done

    with patch.object(MemoryStore, "settle", keep_doubles), patch.object(History, "newest", all_of_them):
        yield


@contextmanager
def failed_runs_stay() -> Iterator[None]:
    """A run whose retries are used up waits for a retry that never comes."""
    finish = runs.finish

    def never(schedule: Schedule, run: Run, outcome: Any, *arguments: Any) -> Any:
        if outcome == "Failed":
            run.due += 10**15
            return None
        return finish(schedule, run, outcome, *arguments)

    with patch.object(runs, "finish", never):
        yield


@contextmanager
def requests_are_done_again() -> Iterator[None]:
    """A handled manual request is not remembered."""
    request = machine.request

    def forgetful(schedule: Schedule, wanted: Requests, since: Instant) -> None:
        request(schedule, wanted, since)
        schedule.pending = PendingRequests(wanted, since)
        schedule.state.handled = ()

    with patch.object(machine, "request", forgetful):
        yield


@contextmanager
def replaced_requests_are_dropped() -> Iterator[None]:
    """A request that a newer one replaces before a replica has read it is forgotten."""
    with patch.object(memory_reconciling, "merged", lambda stored, observed, state: observed):
        yield


@contextmanager
def cancellations_are_forgotten() -> Iterator[None]:
    """The store does not learn that a run is being cancelled."""
    begin = WriteTracker.begin

    def without_them(self: WriteTracker, state: State) -> Any:
        reasons = [(run, run.cancel_reason) for run in state.runs]
        for run, _ in reasons:
            run.cancel_reason = ""
        try:
            return begin(self, state)
        finally:
            for run, reason in reasons:
                run.cancel_reason = reason

    with patch.object(WriteTracker, "begin", without_them):
        yield


@contextmanager
def pods_are_not_adopted() -> Iterator[None]:
    """A detached attempt is started again as the next attempt."""
    lose = runs.lose_attempt

    def as_inline(schedule: Schedule, run: Run, now: Instant) -> RunRecord | None:
        run.detached = False
        return lose(schedule, run, now)

    with patch.object(runs, "lose_attempt", as_inline):
        yield


@contextmanager
def adoptions_count_as_lost() -> Iterator[None]:
    """An adopted attempt gets another number."""
    lose = runs.lose_attempt

    def counted(schedule: Schedule, run: Run, now: Instant) -> RunRecord | None:
        record = lose(schedule, run, now)
        run.attempt += run.adoptable
        return record

    with patch.object(runs, "lose_attempt", counted):
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
    """A follower regards everything that finished before its last poll as decided."""
    with patch.object(followed_runs, "MAX_RECORD_DELAY", 0):
        yield


@contextmanager
def followers_sleep() -> Iterator[None]:
    """A follower polls once, and nobody reports an end to it."""
    poll_ended = followed_runs.poll_ended

    def then_never(schedule: Schedule, records: Any, now: Instant) -> None:
        poll_ended(schedule, records, now)
        schedule.poll_at = None

    with (
        patch.object(followed_runs, "poll_ended", then_never),
        patch.object(UpstreamPoller, "notify_followers", lambda self, slug: None),
    ):
        yield


@contextmanager
def followers_forget() -> Iterator[None]:
    """A follower does not remember which runs it has decided."""
    take = followed_runs.take_ends

    def forgetful(schedule: Schedule, records: Any, now: Instant) -> None:
        take(schedule, records, now)
        schedule.state.followed_ids = {}

    with patch.object(followed_runs, "take_ends", forgetful):
        yield


@contextmanager
def hooks_die_with_their_replica() -> Iterator[None]:
    """A call of a hook that a replica has claimed is never due again."""
    claim = HookCalls.claim

    def for_ever(calls: HookCalls, now: Instant, limit: int, lease: int, without: Sequence[str]) -> list[HookCall]:
        return claim(calls, now, limit, 1 << 60, without)

    with patch.object(HookCalls, "claim", for_ever):
        yield


@contextmanager
def named_slots_are_skipped() -> Iterator[None]:
    """A slot that a client names for a schedule is skipped like any other while a run is active."""
    new_run = Schedule.new_run
    with patch.object(Schedule, "new_run", lambda schedule, slot, due, **_: new_run(schedule, slot, due)):
        yield


@contextmanager
def runs_overwrite_payloads() -> Iterator[None]:
    """What a run leaves is written over the payload that a client has set meanwhile."""
    with patch.object(Settlement, "payload_base", 1 << 62):
        yield


@contextmanager
def claims_count_from_their_answer() -> Iterator[None]:
    """The lease of a claimed row is measured from the receipt of the claim instead of its sending."""
    accept = Ownership.accept

    def accept_later(self: Ownership, row: Row, deadline: float) -> None:
        accept(self, row, self._context.monotonic() + self._context.settings.lease)

    with patch.object(Ownership, "accept", accept_later):
        yield


@contextmanager
def starts_need_no_lease() -> Iterator[None]:
    """A slot that comes due starts although its lease is over, as after a suspension."""
    step = Ownership._step

    def careless(self: Ownership, owned: OwnedSchedule, now: Instant) -> bool:
        margin, self._leases.margin = self._leases.margin, -1e9
        try:
            return step(self, owned, now)
        finally:
            self._leases.margin = margin

    with patch.object(Ownership, "_step", careless):
        yield


@contextmanager
def suspended_time_does_not_count() -> Iterator[None]:
    """Leases are measured by a clock that stands still while the machine is suspended."""
    with patch.object(Machine, "monotonic", Machine.loop_time):
        yield


@contextmanager
def locked_rows_count_as_written() -> Iterator[None]:
    """A settlement that the store left out, because a client had locked the row, counts as carried out."""
    settle = LockingStore.settle

    async def optimistic(self: LockingStore, replica: str, settlements: Any) -> list[bool | None]:
        return [done is not False for done in await settle(self, replica, settlements)]

    with patch.object(LockingStore, "settle", optimistic):
        yield


@contextmanager
def locked_rows_count_as_renewed() -> Iterator[None]:
    """The lease of a row that could not be renewed, because a client had locked it, counts as renewed."""
    renewed = Leases.renewed

    def optimistic(self: Leases, requested: Any, answer: Renewal, sent: float) -> Renewed:
        answer.revisions |= dict.fromkeys(answer.busy, 1)
        return renewed(self, requested, answer, sent)

    with patch.object(Leases, "renewed", optimistic):
        yield


@contextmanager
def the_lease_thread_stays_dead() -> Iterator[None]:
    """A lease thread that has died is not started again."""
    with patch.object(SimulatedLeaseThread, "restart", lambda self, life: None):
        yield


@contextmanager
def notifications_are_ignored() -> Iterator[None]:
    """A replica that is told of a row that became due polls no earlier."""
    with patch.object(PollTimer, "due", lambda self, instant: None):
        yield


BUGS: dict[str, tuple[Callable[[], Any], str]] = {
    "leases are not respected": (leases_are_not_respected, "twice at once"),
    "leases are not fenced": (leases_are_not_fenced, "twice at once"),
    "stale writes count": (stale_writes_count, "stale"),
    "the clock is fast": (the_clock_is_fast, "early"),
    "recoveries are not counted": (recoveries_are_not_counted, "silent"),
    "unstored runs start": (unstored_runs_start, "silent"),
    "released rows go on": (released_rows_go_on, "twice at once"),
    "releases forget the plan": (releases_forget_the_plan, "lost"),
    "missed slots are not counted": (missed_slots_are_not_counted, "lost"),
    "history keeps doubles": (history_keeps_doubles, "completed twice"),
    "failed runs stay": (failed_runs_stay, "never ended"),
    "requests are done again": (requests_are_done_again, "silent"),
    "replaced requests are dropped": (replaced_requests_are_dropped, "unheard"),
    "cancellations are forgotten": (cancellations_are_forgotten, "uncancelled"),
    "pods are not adopted": (pods_are_not_adopted, "twice at once"),
    "adoptions count as lost": (adoptions_count_as_lost, "twice at once"),
    "pods are only let go": (pods_are_only_let_go, "twice at once"),
    "late ends are overlooked": (late_ends_are_overlooked, "unfollowed"),
    "followers sleep": (followers_sleep, "unfollowed"),
    "followers forget": (followers_forget, "unfollowed"),
    "hooks die with their replica": (hooks_die_with_their_replica, "uncalled"),
    "named slots are skipped": (named_slots_are_skipped, "unnamed"),
    "runs overwrite payloads": (runs_overwrite_payloads, "unnamed"),
    "claims count from their answer": (claims_count_from_their_answer, "twice at once"),
    "starts need no lease": (starts_need_no_lease, "twice at once"),
    "suspended time does not count": (suspended_time_does_not_count, "twice at once"),
    "locked rows count as written": (locked_rows_count_as_written, "never ended"),
    "locked rows count as renewed": (locked_rows_count_as_renewed, "twice at once"),
    "the lease thread stays dead": (the_lease_thread_stays_dead, "fenced"),
    "notifications are ignored": (notifications_are_ignored, "overlooked"),
    "zones are refreshed once": (zones_are_refreshed_once, "misplaced"),
    "status is not compared": (status_is_not_compared, "repeated"),
    "restored runs start anew": (restored_runs_start_anew, "repeated"),
    "new zones replay the past": (new_zones_replay_the_past, "silent"),
}
