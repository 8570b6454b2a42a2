"""The owner: everything between the claim of a row and its release.

Each row that was claimed is a ``OwnedSchedule`` here. The owner asks its schedule what is due, has attempts started and
cancelled (``runner.py``), and writes what became of it. ``_advance`` is the one place where the next move of a hold is
decided; whatever happens (a timer, an end of an attempt, an answer of the store, an edit) ends in a call of it.

A hold that is ``gone`` was lost: to another replica, to a deletion, to a store that could not be reached in time. What
runs under it is stopped at once, and nothing of it is written but what had ended before.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from scheduledjob.domain.schedule.actions import has
from scheduledjob.domain.schedule.machine import Schedule
from scheduledjob.domain.schedule.state import Outcome, State
from scheduledjob.domain.time.instants import SECOND, Instant, Micros

from .edits import Edits, requests_of
from .followers import Following
from .kinds import JobKind, UnreadableRowError
from .owned_schedule import OwnedSchedule
from .runner import Runner
from .settler import Settler
from .stats import Stats
from .store import Disposition, Key, Origin, Row, Settlement, Store
from .timers import Timers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from scheduledjob.domain.schedule.state import RunRecord

    from .attempts import Attempts
    from .clock import Clock, StoreClock
    from .leases import Leases, Renewed
    from .observer import Observer

log = structlog.get_logger("scheduledjob.owner")

UNREADABLE_AGAIN: Micros = 60 * SECOND
"""When a row that this version can't read is looked at again: by then a newer replica may have it."""


class Owner:
    """The rows of one replica. Runs in its event loop; attempts are tasks of ``tasks``."""

    def __init__(
        self,
        store: Store,
        replica: str,
        kinds: Mapping[str, JobKind],
        *,
        tasks: asyncio.TaskGroup,
        clock: StoreClock,
        monotonic: Clock,
        leases: Leases,
        observer: Observer,
        attempts: Attempts,
        ahead: Micros,
        on_freed: Callable[[Instant | None], None],
        followers: Callable[[str], Sequence[str]] | None = None,
    ) -> None:
        self._replica = replica
        self._kinds = kinds
        self._clock = clock
        self._monotonic = monotonic
        self._leases = leases
        self._observer = observer
        self._ahead = ahead
        self._on_freed = on_freed
        """Called when a hold goes, with the instant at which its row is due again, where it is nobody's now."""
        self._holds: dict[Key, OwnedSchedule] = {}
        self._empty = asyncio.Event()
        self._leaving = False
        self.settler: Settler[OwnedSchedule | None] = Settler(store, replica, self._settled)
        self._timers: Timers[OwnedSchedule] = Timers(clock, self._timer_due)
        self._runner = Runner(tasks, clock, observer, attempts, self._attempt_ended)
        self.following = Following(store, followers, self._upstream_seen)
        self.edits = Edits(store, kinds, clock, self._advance, self._lose)

    @property
    def held(self) -> int:
        return len(self._holds)

    def stats(self) -> Stats:
        stats = Stats(len(self._holds))
        for hold in self._holds.values():
            state, executing = hold.schedule.state, len(hold.attempts)
            stats.ahead += not executing
            stats.executing += executing
            stats.detached += sum(this.kind.detached for this in hold.attempts)
            stats.waiting += len(state.waiting)
            stats.retrying += sum(run.attempt > 1 and not has(hold.schedule.executing, run) for run in state.runs)
        return stats

    # ---------------------------------------------------------------- rows come

    def accept(self, row: Row, deadline: float) -> None:
        """A row was claimed; its lease ends at ``deadline`` (monotonic seconds)."""
        kind = self._kinds[row.kind]
        lease = self._leases.hold(row.key, row.version, deadline)
        try:
            definition, slots = kind.read(row)
            state = State.decode(row.state)
        except (UnreadableRowError, ValueError) as error:
            log.error("a schedule is left alone", slug=row.slug, error=str(error))
            self._leave_alone(row)
            return
        schedule = Schedule(
            row.slug,
            row.uid,
            definition,
            slots,
            state,
            self._replica,
            detached=kind.detached,
            definition_changed_at=row.edited_at,
        )
        hold = OwnedSchedule(row, kind, schedule, lease, (state.skipped, state.missed, state.excluded))
        self._holds[row.key] = hold
        self._observer.claimed(row)
        now = self._clock.now()
        if row.recovered:
            log.info("taken over from a replica whose lease had passed", slug=row.slug)
            schedule.recovered(now, edited=row.revision != state.revision and not _same_spec(row, state))
        if row.revision != state.revision:
            schedule.edited(row.revision, row.edited_at, row.first, row.generation)
        if row.requests:
            schedule.asked(requests_of(row), row.edited_at)
        if schedule.follows:
            schedule.look(now)
        if self._leaving:
            hold.leaving = True
        self._advance(hold)

    def _leave_alone(self, row: Row) -> None:
        """Give back a row that this version can't read, as it is."""
        again = self._clock.now() + UNREADABLE_AGAIN
        self.settler.submit(None, Settlement(row.key, row.version, Disposition.RELEASE, row.state, again, row.revision))

    # ---------------------------------------------------------------- what is next

    def _advance(self, hold: OwnedSchedule) -> None:
        """Do what is due for a hold now, and see to it that what comes later is not forgotten."""
        if hold.gone or hold.released:
            return
        schedule, now = hold.schedule, self._clock.now()
        if not hold.leaving or hold.attempts:
            actions = schedule.step(now)
            for run in actions.cancel:
                self._runner.cancel(hold, run)
            if actions.start:
                if self._monotonic() >= hold.lease.deadline - self._leases.margin:
                    # This process stood still: whoever has the row by now may have started these.
                    self._lose(hold, "its lease was about to pass when a slot came due")
                    return
                for run in actions.start:
                    if not (self._leaving and run.detached):  # it would be let go at once
                        self._runner.start(hold, run, now)
            if actions.became_overdue:
                self._runner.tell_overdue(hold, now)
            if schedule.poll_at is not None and schedule.should_poll(now):
                self.following.look(hold)
        else:
            schedule.leave(now)
        if hold.settling:
            return
        if hold.attempts:
            if schedule.changed or schedule.records:
                self._settle(hold, Disposition.KEEP, None)
            self._set_timer(hold, schedule.wake())
            return
        if schedule.done and hold.row.origin == Origin.LIBRARY:
            self._settle(hold, Disposition.REMOVE, None)
            return
        wake = schedule.wake()
        if not hold.leaving:
            if schedule.blocked(now):
                self._settle(hold, Disposition.KEEP, None)
                return
            if schedule.poll_in_flight:
                return
            if wake is not None and wake <= now + 2 * self._ahead and not schedule.changed and not schedule.records:
                self._set_timer(hold, wake)
                return
        self._settle(hold, Disposition.RELEASE, wake)

    def _set_timer(self, hold: OwnedSchedule, wake: Instant | None) -> None:
        if wake is not None and wake != hold.timer_at:
            hold.timer_at = wake
            hold.timer = self._timers.set(wake, hold)

    def _timer_due(self, hold: OwnedSchedule, token: int) -> None:
        if token == hold.timer:
            hold.timer_at = None
            self._advance(hold)

    def _attempt_ended(self, hold: OwnedSchedule) -> None:
        """An attempt has left its hold."""
        if not hold.gone:
            self._advance(hold)
        elif not hold.attempts:
            self._forget(hold, None)

    def _upstream_seen(self, hold: OwnedSchedule, records: Sequence[RunRecord] | None) -> None:
        """The runs that a schedule follows were read, or could not be."""
        if not hold.gone and not hold.released:
            hold.schedule.followed(records, self._clock.now())
            self._advance(hold)

    # ---------------------------------------------------------------- writes

    def _settle(self, hold: OwnedSchedule, disposition: Disposition, wake: Instant | None) -> None:
        schedule = hold.schedule
        records, schedule.records = schedule.records, ()
        hold.settling = True
        hold.released = disposition is not Disposition.KEEP
        self._leases.settling(hold.lease)
        self.settler.submit(
            hold,
            Settlement(
                hold.row.key,
                hold.row.version,
                disposition,
                schedule.snapshot(),
                wake,
                schedule.state.revision,
                records,
                hold.payload,
                hold.result,
                hold.row.slug,
            ),
        )
        hold.payload = hold.result = None
        state = schedule.state
        hold.counting = (state.skipped, state.missed, state.excluded)

    def _settled(self, hold: OwnedSchedule | None, settlement: Settlement, done: bool) -> None:
        if hold is None:
            self._leases.drop_key(settlement.key)
            return
        hold.settling, schedule = False, hold.schedule
        if done:
            if settlement.records:
                self._observer.recorded(settlement.records)
                self.following.ended(hold.row.slug)
            if hold.counting != hold.counted:
                self._tell_passed_over(hold)
            self._observer.settled(hold.row, settlement)
        elif settlement.records and not hold.deleted:
            log.warning("a run was fenced", slug=hold.row.slug, why="it ended after its row had gone to somebody else")
        if hold.gone:
            if done and settlement.disposition is Disposition.KEEP and schedule.records:
                # What ended before the row was lost. What was stopped then is taken over as lost with its owner.
                hold.row.version += 1
                self._settle(hold, Disposition.KEEP if schedule.executing else Disposition.RELEASE, schedule.wake())
            elif not hold.attempts:
                self._forget(hold, settlement.wake_at if done else None)
        elif not done:
            self._lose(hold, "its row was changed or deleted by somebody else")
        elif settlement.disposition is Disposition.KEEP:
            hold.row.version += 1
            self._leases.settled(hold.lease, hold.row.version)
            schedule.stored()
            self._advance(hold)
        else:
            self._leases.drop(hold.lease)
            self._observer.released(hold.row.slug, settlement.wake_at)
            self._forget(hold, settlement.wake_at)

    def _tell_passed_over(self, hold: OwnedSchedule) -> None:
        outcomes = (Outcome.SKIPPED_OVERLAP, Outcome.MISSED, Outcome.EXCLUDED)
        for outcome, before, after in zip(outcomes, hold.counted, hold.counting, strict=True):
            if after > before:
                self._observer.passed_over(hold.row.slug, outcome, after - before)
        hold.counted = hold.counting

    def _forget(self, hold: OwnedSchedule, wake: Instant | None) -> None:
        if self._holds.get(hold.row.key) is hold:
            del self._holds[hold.row.key]
        if not self._holds:
            self._empty.set()
        self._on_freed(wake)

    # ---------------------------------------------------------------- losing a row

    def _lose(self, hold: OwnedSchedule, why: str) -> None:
        """Not ours any more: stop what runs, write nothing."""
        if hold.gone:
            return
        hold.gone = True
        self._leases.drop(hold.lease)
        self._observer.fenced(hold.row.slug, why)
        if hold.attempts and not hold.deleted:
            log.warning("a run was fenced", slug=hold.row.slug, why=why)
        self._runner.release(hold, why)
        if not hold.attempts and not hold.settling:
            self._forget(hold, None)

    def leases_expired(self, keys: Sequence[Key]) -> None:
        """These leases are about to pass without having been renewed."""
        for key in keys:
            if (hold := self._holds.get(key)) is not None:
                self._lose(hold, "its lease could not be renewed in time")

    def leases_renewed(self, renewed: Renewed) -> None:
        for key in renewed.lost:
            if (hold := self._holds.get(key)) is not None:
                self._lose(hold, "its row was claimed or deleted by somebody else")
        for key, revision in renewed.edited:
            hold = self._holds.get(key)
            if hold is not None and revision != hold.schedule.state.revision:
                self._definition_changed(hold)

    # ---------------------------------------------------------------- edits

    def slugs_changed(self, slugs: Iterable[str], *, deleted: bool = False) -> None:
        """The wish of these slugs changed, or they were deleted."""
        wanted = set(slugs)
        for hold in list(self._holds.values()):
            if hold.row.slug in wanted:
                hold.deleted = hold.deleted or deleted
                self._definition_changed(hold)

    def _definition_changed(self, hold: OwnedSchedule) -> None:
        """A row that is only waited for goes back, due at once under its new wish; one that runs is read again."""
        if hold.gone:
            return
        if not hold.attempts:
            hold.leaving = True
            self._advance(hold)
        else:
            self.edits.reread(hold)

    # ---------------------------------------------------------------- the end

    def leave(self) -> None:
        """Give back what does not run, or goes on without this replica; what runs here goes back when it ends."""
        self._leaving = True
        for hold in list(self._holds.values()):
            hold.leaving = True
            self._runner.let_go(hold, "the replica is shutting down")
            if not hold.attempts and not hold.settling:
                self._advance(hold)

    def stop_attempts(self) -> None:
        """The grace period is over: end what still runs; it goes back as lost with this replica."""
        for hold in list(self._holds.values()):
            self._runner.release(hold, "the replica is shutting down")

    async def emptied(self) -> None:
        """Wait until nothing is held."""
        while self._holds:
            self._empty.clear()
            await self._empty.wait()

    def finish(self) -> None:
        """Nothing is held any more, or nothing that is can be helped: end the tasks that serve holds."""
        self._timers.close()
        self._runner.finish()
        self.edits.close()
        self.settler.close()


def _same_spec(row: Row, state: State) -> bool:
    """Only acts or nudges made a new revision of what a cluster's object says."""
    return bool(row.generation) and row.generation == state.generation
