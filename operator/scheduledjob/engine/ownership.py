"""Ownership: everything between the claim of a row and its release.

Each claimed row becomes an ``OwnedSchedule``. ``Ownership`` asks its schedule what is due, starts and cancels attempts
(``attempt_runner.py``), and writes their results (``settler.py``). Only ``_advance`` decides the next step of an owned
row. Every event (a timer, the end of an attempt, an answer of the store, an edit) ends in a call of it.

The phases of an owned row, and the events that change them (a release writes the row for the last time):

| Event | From | To | What is done |
|---|---|---|---|
| the row is claimed | - | ACTIVE | what is due starts |
| the replica shuts down | ACTIVE | DRAINING | nothing starts, detached attempts are released, others continue |
| the row is edited while no run is active | ACTIVE | DRAINING | |
| the row, or one of the same slug, was lost, and an attempt that was stopped then still runs | - | DRAINING | |
| no attempt runs and nothing is due soon | ACTIVE | RELEASED | the release is written |
| no attempt runs | DRAINING | RELEASED | the release is written |
| a library schedule is complete | ACTIVE, DRAINING | RELEASED | the removal is written |
| the store stored the last write | RELEASED | forgotten | another replica may claim the row |
| a write is refused, or the lease can't be renewed | ACTIVE, DRAINING, RELEASED | LOST | all attempts are stopped |
| the last attempt has stopped | LOST | forgotten | |

Beside the phase, ``schedule.writes.in_flight`` says that the store has not answered the last write. At most one write
of a row is in flight; what happens meanwhile is written with the next one. A row can be lost while a write is in
flight. If the store stored that write, the records of runs that ended before the loss are written too.

A job may clean up for longer than its lease. Another replica may start the next attempt then: the lease is all that it
knows. This replica knows more. If it claims the row itself, or one that has its slug after a deletion, it releases it
again until the job has ended.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from scheduledjob.domain.schedule import due, followed_runs, machine, runs
from scheduledjob.domain.time.instants import Instant, from_seconds

from .attempt_runner import AttemptRunner
from .capacity import Capacity, tenant_of
from .edits import Edits, spec_changed, take_in
from .followers import UpstreamPoller
from .hook_delivery import add_hooks
from .kinds import UnreadableRowError
from .owned_schedule import OwnedSchedule, Phase, own, stats_of, unchanged_write
from .settler import Settler
from .stored_row import Disposition, Key, Origin, Row, Settlement
from .timers import Timers
from .timing import STILL_STOPPING_DELAY, UNREADABLE_RETRY_DELAY
from .zone_refresh import ZoneRefresh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from scheduledjob.domain.schedule.schedule import Schedule
    from scheduledjob.domain.schedule.state import RunRecord

    from .attempt_preparer import AttemptPreparer
    from .attempt_runner import AttemptTasks
    from .hook_delivery import HookDelivery
    from .leases import Leases, Renewed
    from .observer import Stats
    from .poll_timer import PollTimer
    from .replica_settings import ReplicaContext

log = structlog.get_logger("scheduledjob.ownership")

# In Python 3.11, looking up a member of an enum takes four times as long as a global name: 3 % of `drain-1`.
ACTIVE, DRAINING, RELEASED, LOST = Phase
KEEP, RELEASE, REMOVE = Disposition


class Ownership:
    """The rows that one replica owns. Runs in its event loop; attempts are tasks of ``tasks``."""

    def __init__(
        self,
        context: ReplicaContext,
        *,
        tasks: AttemptTasks,
        leases: Leases,
        preparer: AttemptPreparer,
        poll_timer: PollTimer,
        followers: Callable[[str], Sequence[str]] | None = None,
        hooks: HookDelivery | None = None,
    ) -> None:
        self._context = context
        self._hooks = hooks
        """None: no hooks are called."""
        self._leases = leases
        self._poll_timer = poll_timer
        """Notified of each row that this replica no longer owns, because there is room for another then."""
        self._owned: dict[Key, OwnedSchedule] = {}
        self._stopping: dict[Key, OwnedSchedule] = {}
        """Lost rows that this replica has claimed again, although an attempt that it stopped is still cleaning up."""
        self._cleaning_up: dict[str, set[OwnedSchedule]] = {}
        """By slug: all lost rows of which an attempt that was stopped is still cleaning up."""
        self._empty = asyncio.Event()
        self.capacity = Capacity(context.settings.capacity, context.settings.tenant_share)
        self._draining = False
        self._kept_ahead = 2 * from_seconds(context.settings.ahead)
        """A row that is due within this time is kept although none of its attempts runs."""
        self.settler: Settler[OwnedSchedule | None] = Settler(context.store, context.replica, self._settled)
        self._timers: Timers[OwnedSchedule] = Timers(
            context.clock,
            self._timer_due,
            tenant_of=lambda owned: owned.tenant,
            weights=context.settings.weights,
        )
        self._runner = AttemptRunner(tasks, context, preparer, self._attempt_ended)
        self.upstreams = UpstreamPoller(context.store, followers, self._upstreams_read)
        self.zones = ZoneRefresh(context)
        self.edits = Edits(context, self._advance, self._lose)

    @property
    def count(self) -> int:
        """How many rows this replica owns, or has lost and still stops."""
        return len(self._owned) + len(self._stopping)

    def stats(self) -> Stats:
        return stats_of(self._owned.values())

    def clock_jumped(self) -> None:
        """The store's clock jumped, or this machine was suspended."""
        self._timers.clock_jumped()

    # ---------------------------------------------------------------- claimed rows

    def accept(self, row: Row, deadline: float) -> None:
        """Own a row that was claimed. Its lease ends at ``deadline`` (monotonic seconds)."""
        kind = self._context.kinds[row.kind]
        lease = self._leases.add(row.key, row.version, deadline)
        try:
            owned = own(row, kind, lease, self._context.replica)
        except (UnreadableRowError, ValueError) as error:
            log.error("this version can't read a schedule, and releases it unchanged", slug=row.slug, error=str(error))
            self._release_unread(row)
            return
        if (lost := self._owned.get(row.key)) is not None and lost.attempts:
            self._stopping[row.key] = lost
        tenant = owned.tenant = tenant_of(row)
        owned.places = 1
        self.capacity.take(tenant, 1)
        self._owned[row.key] = owned
        self._context.observer.claimed(row)
        schedule, state, now = owned.schedule, owned.schedule.state, self._context.clock.now()
        if state.unrecorded:
            runs.record_unrecorded(schedule, now)
        if row.recovered:
            log.info("recovered from a replica whose lease had expired", slug=row.slug)
            machine.recover(schedule, now, edited=spec_changed(row, state))
        take_in(schedule, row)
        if others := due.plan_by_own_zones(schedule, now, named=row.first is not None):
            self.zones.planned_by(others)
        if (state.runs or state.waiting) and row.due_at is not None:
            due.miss_outage(schedule, row.due_at, now)
        if schedule.follows:
            followed_runs.plan_poll(schedule, now)
        if self._draining or (self._cleaning_up and row.slug in self._cleaning_up):
            owned.enter(DRAINING)
        self._advance(owned, now)

    def _release_unread(self, row: Row) -> None:
        """Release a row that this version can't read, without a change."""
        wake_at = self._context.clock.now() + from_seconds(UNREADABLE_RETRY_DELAY)
        self.settler.submit(None, unchanged_write(row, RELEASE, wake_at))

    # ---------------------------------------------------------------- what is next

    def _advance(self, owned: OwnedSchedule, now: Instant | None = None) -> None:
        """Do what is due now. Then write the row, release it, or set a timer for its next step."""
        if owned.phase >= RELEASED:  # RELEASED or LOST
            return
        schedule = owned.schedule
        if now is None:
            now = self._context.clock.now()
        if owned.phase is DRAINING and not owned.attempts:
            machine.prepare_release(schedule, now)
        elif not self._step(owned, now):
            return
        if schedule.writes.in_flight:
            return
        if owned.attempts:
            if schedule.writes.changed or schedule.writes.records:
                self._write(owned, KEEP, None)
            self._set_timer(owned, self._next_step(schedule))
        elif schedule.done and owned.row.origin == Origin.LIBRARY:
            self._write(owned, REMOVE, None)
        elif owned.phase is DRAINING:
            wake = machine.wake_at(schedule)
            if wake is not None and owned.row.slug in self._cleaning_up:
                wake = max(wake, now + from_seconds(STILL_STOPPING_DELAY))
            self._write(owned, RELEASE, wake)
        else:
            self._wait_or_release(owned, now)

    def _step(self, owned: OwnedSchedule, now: Instant) -> bool:
        """Start and cancel what is due. Returns False if the row was lost."""
        schedule = owned.schedule
        state = schedule.state
        if state.runs or state.waiting or state.upcoming or schedule.pending is not None:
            room = self.capacity.room_of_schedule(owned.tenant, owned.places)
            schedule.most_active = max(1, len(state.runs)) + room
        actions = machine.step(schedule, now)
        if schedule.lacked_capacity:
            schedule.lacked_capacity = False
            self._context.observer.lacked_capacity(owned.row.slug, len(state.runs))
        for run in actions.cancel:
            self._runner.cancel(owned, run)
        if actions.start and not self._draining:
            if self._context.monotonic() >= owned.lease.deadline - self._leases.margin:
                # This process was suspended: another replica may have claimed the row and started these runs.
                self._lose(owned, "its lease was about to expire when a slot came due")
                return False
            for run in actions.start:
                self._runner.start(owned, run, now)
            if len(owned.attempts) > 1:
                self._hold(owned, len(owned.attempts))
        if actions.became_overdue:
            self._context.observer.overdue(owned.row.slug)
            owned.overdue_since = now
        if schedule.poll_at is not None and followed_runs.begin_poll(schedule, now):
            self.upstreams.poll(owned)
        return True

    def _next_step(self, schedule: Schedule) -> Instant | None:
        """Return when a schedule whose attempts run has its next step."""
        if not self._draining:
            return machine.wake_at(schedule)
        # Its runs that are due wait for the next owner. A slot that comes due is admitted, so that it is not missed.
        return schedule.state.next.due if schedule.state.next is not None and schedule.open else None

    def _wait_or_release(self, owned: OwnedSchedule, now: Instant) -> None:
        """No attempt runs: keep the row only if it is due soon."""
        schedule = owned.schedule
        if machine.awaits_write(schedule, now):
            self._write(owned, KEEP, None)
            return
        if schedule.poll_in_flight:
            return
        wake = machine.wake_at(schedule)
        if (
            wake is not None
            and wake <= now + self._kept_ahead
            and not schedule.writes.changed
            and not schedule.writes.records
        ):
            self._set_timer(owned, wake)
        else:
            self._write(owned, RELEASE, wake)

    def _set_timer(self, owned: OwnedSchedule, wake: Instant | None) -> None:
        if wake is not None and wake != owned.timer[0]:
            self._timers.cancel(owned.timer[1])
            owned.timer = wake, self._timers.set(wake, owned)

    def _timer_due(self, owned: OwnedSchedule, token: int) -> None:
        if token == owned.timer[1]:
            owned.timer = -1, token
            self._advance(owned)

    def _attempt_ended(self, owned: OwnedSchedule, now: Instant | None) -> None:
        """An attempt has ended and is not in ``owned.attempts`` any more. ``now`` is None if that took time."""
        if owned.attempts:
            self._hold(owned, len(owned.attempts))
            self._poll_timer.freed(None, self.capacity.used)
        if owned.phase is not LOST:
            self._advance(owned, now)
        elif not owned.attempts:
            self._forget(owned, None)

    def _upstreams_read(self, owned: OwnedSchedule, records: Sequence[RunRecord] | None) -> None:
        """The store returned the runs that a schedule follows; None: it did not answer."""
        if owned.phase < RELEASED:
            followed_runs.poll_ended(owned.schedule, records, self._context.clock.now())
            self._advance(owned)

    # ---------------------------------------------------------------- writes

    def _write(self, owned: OwnedSchedule, disposition: Disposition, wake: Instant | None) -> None:
        """Send the state and the new records to the store; ``_settled`` is called with the answer."""
        if disposition is not KEEP and owned.phase is not LOST:
            assert not owned.attempts, f"{owned.row.slug}: released while {len(owned.attempts)} attempts run"
            owned.enter(RELEASED)
        settlement = owned.begin_write(disposition, wake)
        if self._hooks is not None:
            add_hooks(owned, settlement)
        self._leases.settling(owned.lease)
        self.settler.submit(owned, settlement)

    def _settled(self, owned: OwnedSchedule | None, settlement: Settlement, carried_out: bool) -> None:
        """The store answered a write. ``carried_out`` is False if it refused the write."""
        if owned is None:
            self._unread_settled(settlement, carried_out)
            return
        owned.schedule.writes.answered()
        self._report_write(owned, settlement, carried_out)
        if owned.phase is LOST:
            self._settled_after_loss(owned, settlement, carried_out)
        elif not carried_out:
            if settlement.disposition is RELEASE and settlement.wake_at is not None:
                # An earlier write, whose answer was lost, may have released the row.
                self._poll_timer.due(settlement.wake_at)
            self._lose(owned, "its row was changed or deleted by another replica")
        elif settlement.disposition is KEEP:
            owned.row.version += 1
            self._leases.settled(owned.lease, owned.row.version)
            self._advance(owned)
        else:
            self._leases.drop(owned.lease)
            self._context.observer.released(owned.row.slug, settlement.wake_at)
            self._forget(owned, settlement.wake_at)

    def _unread_settled(self, settlement: Settlement, carried_out: bool) -> None:
        """The store answered the release of a row that this version can't read."""
        lease = self._leases.drop_key(settlement.key)
        self._poll_timer.freed(settlement.wake_at, self.count)
        if not carried_out and lease is not None:
            self._poll_timer.poll_by(lease.deadline)

    def _settled_after_loss(self, owned: OwnedSchedule, settlement: Settlement, carried_out: bool) -> None:
        """The row was lost while this write was in flight."""
        schedule = owned.schedule
        if carried_out and settlement.disposition is KEEP and schedule.writes.records:
            # Write what ended before the loss. The next owner counts the attempts that were stopped then as lost.
            owned.row.version += 1
            self._write(owned, KEEP if schedule.executing else RELEASE, machine.wake_at(schedule))
        elif not owned.attempts:
            self._forget(owned, settlement.wake_at)

    def _report_write(self, owned: OwnedSchedule, settlement: Settlement, carried_out: bool) -> None:
        observer, slug = self._context.observer, owned.row.slug
        if not carried_out:
            if settlement.records and not owned.deleted:
                log.warning("a run was fenced", slug=slug, why="it ended after another replica had claimed its row")
            return
        if settlement.records:
            observer.recorded(settlement.records)
            self.upstreams.notify_followers(slug)
        if settlement.hooks and self._hooks is not None:
            self._hooks.poke()
        if owned.passed_over.written != owned.passed_over.reported:
            for outcome, count in owned.passed_over.take_unreported():
                observer.passed_over(slug, outcome, count)
        observer.settled(owned.row, settlement)

    def _forget(self, owned: OwnedSchedule, wake: Instant | None) -> None:
        self._timers.cancel(owned.timer[1])
        key = owned.row.key
        if self._owned.get(key) is owned:
            del self._owned[key]
        elif self._stopping.get(key) is owned:
            del self._stopping[key]
        if self._cleaning_up and owned in (lost := self._cleaning_up.get(owned.row.slug, set())):
            lost.remove(owned)
            if not lost:
                del self._cleaning_up[owned.row.slug]
        if owned.places:
            self.capacity.take(owned.tenant, -owned.places)
            owned.places = 0
        if not self._owned and not self._stopping:
            self._empty.set()
        self._poll_timer.freed(wake, self.capacity.used)
        if owned.phase is LOST and not owned.deleted:
            # Nobody else may have claimed the row. It can be claimed again when its lease ends, which this replica
            # knows and the store notifies nobody of. If a renewal without an answer has extended it, the poll tells.
            self._poll_timer.poll_by(owned.lease.deadline)

    def _hold(self, owned: OwnedSchedule, places: int) -> None:
        """Let the row take so many places of the capacity."""
        if places != owned.places:
            self.capacity.take(owned.tenant, places - owned.places)
            owned.places = places

    # ---------------------------------------------------------------- losing a row

    def _lose(self, owned: OwnedSchedule, why: str) -> None:
        """Another replica may own the row: stop its attempts, and write nothing that ends from now on."""
        if owned.phase is LOST:
            return
        owned.enter(LOST)
        self._leases.drop(owned.lease)
        self._context.observer.fenced(owned.row.slug, why)
        if owned.attempts and not owned.deleted:
            log.warning("a run was fenced", slug=owned.row.slug, why=why)
        self._runner.release(owned, why)
        if owned.attempts:
            self._cleaning_up.setdefault(owned.row.slug, set()).add(owned)
        elif not owned.schedule.writes.in_flight:
            self._forget(owned, None)

    def leases_expired(self, keys: Sequence[Key]) -> None:
        """These leases are about to expire, and were not renewed."""
        for key in keys:
            if (owned := self._owned.get(key)) is not None:
                self._lose(owned, "its lease could not be renewed in time")

    def leases_renewed(self, renewed: Renewed) -> None:
        for key in renewed.lost:
            if (owned := self._owned.get(key)) is not None:
                self._lose(owned, "its row was claimed or deleted by another replica")
        for key, revision in renewed.revisions:
            owned = self._owned.get(key)
            if owned is not None and revision != owned.schedule.state.revision:
                self._definition_changed(owned)

    # ---------------------------------------------------------------- edits

    def slugs_changed(self, slugs: Iterable[str], *, deleted: bool = False) -> None:
        """The desired state of these slugs changed, or they were deleted."""
        wanted = set(slugs)
        for owned in list(self._owned.values()):
            if owned.row.slug in wanted:
                owned.deleted = owned.deleted or deleted
                self._definition_changed(owned)

    def _definition_changed(self, owned: OwnedSchedule) -> None:
        """Release the row, to be claimed again with its new definition. If runs are active, read it again instead."""
        if owned.phase is LOST:
            return
        if owned.attempts or owned.schedule.state.runs:
            self.edits.reread(owned)
        else:
            self._drain(owned)
            self._advance(owned)

    # ---------------------------------------------------------------- shutdown

    @staticmethod
    def _drain(owned: OwnedSchedule) -> None:
        if owned.phase is ACTIVE:
            owned.enter(DRAINING)

    def drain(self) -> None:
        """Release detached attempts, and rows without attempts. Other rows are released when their attempts end."""
        self._draining = True
        for owned in list(self._owned.values()):
            self._drain(owned)
            self._runner.release_detached(owned, "the replica is shutting down")
            if not owned.attempts and not owned.schedule.writes.in_flight:
                self._advance(owned)

    def stop_attempts(self) -> None:
        """Stop every attempt. Their rows are released, and the attempts count as lost with this replica."""
        for owned in list(self._owned.values()):
            self._runner.release(owned, "the replica is shutting down")

    async def emptied(self) -> None:
        """Wait until this replica owns no row."""
        while self.count:
            self._empty.clear()
            await self._empty.wait()

    def close(self) -> None:
        """Stop the services of owned rows. The settler writes what is pending first."""
        for owned in self._owned.values():
            if owned.attempts and owned.phase is not LOST:
                owned.enter(LOST)  # a job ignores its cancellation: what it does from now on does not count
        self._timers.close()
        self.edits.close()
        self.settler.close()
