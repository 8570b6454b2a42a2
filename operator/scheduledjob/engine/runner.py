"""The runner: starts attempts, stops them, and tells their schedules how they ended.

Stopping has two meanings. A *cancelled* attempt is to end, and its run stays active until that is certain. One that is
*released* is stopped because this replica can't or may not go on with it: an attempt that lives here ends with that,
one that outlives the replica goes on outside, and its next owner adopts it. So for the latter a release overrides a
cancellation under way: that the run is to end stands in its state, and whoever is next sees to it.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import structlog

from scheduledjob.domain.schedule.actions import AttemptEnd, without
from scheduledjob.domain.schedule.state import Run, run_id

from .executor import CANCELLED, RELEASED, Result
from .owned_schedule import OwnedSchedule, RunningAttempt

if TYPE_CHECKING:
    from collections.abc import Callable

    from scheduledjob.domain.schedule.definition import Definition
    from scheduledjob.domain.schedule.state import RunRecord
    from scheduledjob.domain.time.instants import Instant

    from .attempts import Attempts
    from .clock import StoreClock
    from .observer import Observer

log = structlog.get_logger("scheduledjob.runner")

LOST_PAUSE = 1.0
"""Seconds before an attempt that its executor could not follow is taken up again: by then it may be able to."""


class Runner:
    """The attempts of one replica, as tasks of ``tasks``. ``on_ended`` is called when one has left its hold."""

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        clock: StoreClock,
        observer: Observer,
        attempts: Attempts,
        on_ended: Callable[[OwnedSchedule], None],
    ) -> None:
        self._tasks = tasks
        self._clock = clock
        self._observer = observer
        self._attempts = attempts
        self._on_ended = on_ended
        self._notices: list[asyncio.Task[None]] = []
        """What is told beside runs; ended with the replica."""

    def start(self, hold: OwnedSchedule, run: Run, now: Instant) -> None:
        hold.schedule.began(run, now)
        name = run_id(hold.row.uid, run)
        attempt = self._attempts.describe(hold, run, name, now)
        this = RunningAttempt(run, name, attempt, hold.kind, hold.schedule.definition)
        if run.cancel_reason:
            this.end, this.reason, attempt.ending = AttemptEnd.CANCELLED, run.cancel_reason, CANCELLED
        hold.attempts += (this,)
        hold.lease.run_ids += (name,)
        this.task = self._tasks.create_task(self._attempt(hold, this, now))

    async def _attempt(self, hold: OwnedSchedule, this: RunningAttempt, now: Instant) -> None:
        this.begun = True
        run, attempt = this.run, this.attempt
        result = Result(False, this.reason)
        if this.end is None or (this.end is AttemptEnd.CANCELLED and run.detached):
            if run.adoptable:
                self._observer.adopted(attempt)
            else:
                self._observer.started(attempt, run.due, now - run.due)
            try:
                result = await self._attempts.run(this)
            except asyncio.CancelledError:
                if this.end is None:
                    this.end, this.reason = AttemptEnd.LOST, "the replica was stopped"
                result = Result(False, this.reason)
            except Exception as error:
                result = Result(False, f"{type(error).__name__}: {error}")
                this.end = this.end or AttemptEnd.FAILED
            else:
                # A run that ended by itself while its cancellation was on the way ended as it says.
                if result.ok:
                    this.end = AttemptEnd.COMPLETED if result.complete else AttemptEnd.SUCCEEDED
                elif result.lost and run.detached:
                    await self._pause(this)
                    this.end = AttemptEnd.LOST
                else:
                    this.end = this.end or (AttemptEnd.LOST if result.lost else AttemptEnd.FAILED)
        if not hold.gone:
            record = self._ended(hold, this, result)
            definition = hold.schedule.definition
            if record is not None and (definition.on_failure or definition.on_success):
                await self._call_hooks(this, record, definition)
        self._forget(hold, this)

    @staticmethod
    async def _pause(this: RunningAttempt) -> None:
        """Nobody knows how it is with an attempt that outlives: another look at once would find no more."""
        if this.end is not AttemptEnd.LOST:
            this.end = None  # what stops it meanwhile ends the pause
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(LOST_PAUSE)

    def _ended(self, hold: OwnedSchedule, this: RunningAttempt, result: Result) -> RunRecord | None:
        """Tell the schedule; the record of the run if that was its end."""
        assert this.end is not None
        if result.payload is not None and this.run.payload is None:
            hold.payload = hold.row.payload = result.payload
        if result.result is not None:
            hold.result = result.result
        record = hold.schedule.ended(
            this.run,
            this.end,
            self._clock.now(),
            reason=result.reason,
            code=result.code,
            output=result.output,
            where=result.where,
        )
        if record is None and this.end is AttemptEnd.FAILED:
            self._observer.retrying(this.attempt, result.reason, this.run.due)
        return record

    async def _call_hooks(self, this: RunningAttempt, record: RunRecord, definition: Definition) -> None:
        """A replica that ends waits for no answer: what counts is that the run has ended, or it would run again."""
        this.telling = True
        try:
            await self._attempts.call_hooks(this.attempt, record, definition)
        except asyncio.CancelledError:
            log.warning("the hooks of a run were given up at the end of the replica", run_id=this.run_id)
        finally:
            this.telling = False

    def cancel(self, hold: OwnedSchedule, run: Run) -> None:
        """The run is to end, for the reason that it says."""
        for this in hold.attempts:
            if this.run is run:
                self._stop(this, AttemptEnd.CANCELLED, run.cancel_reason, CANCELLED)

    def release(self, hold: OwnedSchedule, why: str) -> None:
        """Stop everything of a hold: it goes on with another owner.

        What outlives its owner does so only where the next one knows how to go on: not if an edit has made it a job
        that runs inside a replica.
        """
        for this in hold.attempts:
            if this.telling and this.task is not None:
                this.task.cancel()
            passes_on = hold.gone or not this.run.detached or hold.schedule.detached
            self._stop(this, AttemptEnd.LOST, why, RELEASED if passes_on else CANCELLED)

    def let_go(self, hold: OwnedSchedule, why: str) -> None:
        """Release of a hold what needs no time to come to an end: that which goes on without this replica."""
        for this in hold.attempts:
            if this.run.detached and hold.schedule.detached:
                self._stop(this, AttemptEnd.LOST, why, RELEASED)

    @staticmethod
    def _stop(this: RunningAttempt, end: AttemptEnd, reason: str, ending: str) -> None:
        if this.end is None or (this.run.detached and this.end is AttemptEnd.CANCELLED and end is AttemptEnd.LOST):
            this.end, this.reason, this.attempt.ending = end, reason, ending
            if this.begun and this.task is not None:
                this.task.cancel()

    def _forget(self, hold: OwnedSchedule, this: RunningAttempt) -> None:
        hold.attempts = without(hold.attempts, this)
        hold.lease.run_ids = without(hold.lease.run_ids, this.run_id)
        self._on_ended(hold)

    def tell_overdue(self, hold: OwnedSchedule, now: Instant) -> None:
        self._observer.overdue(hold.row.slug)
        if hold.schedule.definition.on_failure:
            self._notices = [notice for notice in self._notices if not notice.done()]
            self._notices.append(self._tasks.create_task(self._attempts.tell_overdue(hold, now)))

    def finish(self) -> None:
        """No attempt is left, or none that can be helped."""
        for notice in self._notices:
            notice.cancel()
