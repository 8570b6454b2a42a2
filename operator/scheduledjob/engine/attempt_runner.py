"""Runs attempts, stops them, and reports to their schedules how they ended.

There are two ways to stop an attempt. A *cancelled* attempt must end, and its run stays active until that is confirmed.
A *released* attempt is stopped because this replica can't or may not continue it. An attempt inside this replica ends
with that; a detached one continues outside, and the next owner of its row adopts it. So the release of a detached
attempt overrides a cancellation: the state says that the run must end, and the next owner ends it.

Whether a failed run is retried, and when, is decided in ``domain/schedule/runs.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import structlog

from scheduledjob.domain.schedule import runs
from scheduledjob.domain.schedule.actions import AttemptEnd, EndDetails, without
from scheduledjob.domain.schedule.state import Run, run_id

from .executor import CANCELLED, RELEASED, Result, refuse_large
from .job_errors import is_from_outside, of_exception
from .job_tasks import context_of_jobs
from .owned_schedule import OwnedSchedule, Phase, RunningAttempt
from .stored_row import Origin
from .timing import LOST_RETRY_DELAY

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from scheduledjob.domain.time.instants import Instant

    from .attempt_preparer import AttemptPreparer
    from .executor import Attempt
    from .replica_settings import ReplicaContext

log = structlog.get_logger("scheduledjob.attempts")


class AttemptTasks:
    """The tasks of the attempts of one replica.

    An ``asyncio.TaskGroup`` would wait without a limit for a job that ignores its cancellation.
    """

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[None], Attempt] = {}
        self._loop = asyncio.get_running_loop()
        self._context = context_of_jobs()
        self._failure: asyncio.Future[None] = self._loop.create_future()
        self.ending = False
        """All tasks are being cancelled, because the replica ends."""

    def create_task(self, coroutine: Coroutine[Any, Any, None], attempt: Attempt) -> asyncio.Task[None]:
        """Start an attempt. Its coroutine calls ``ended`` at last: a done callback costs 3 % of ``drain-1``."""
        # Without the task factory, which is for the tasks that jobs start (``job_tasks.py``).
        task = asyncio.Task(coroutine, loop=self._loop, context=self._context.copy())
        self._tasks[task] = attempt
        return task

    def ended(self, task: asyncio.Task[None], error: Exception | None) -> None:
        """Forget a task. With an ``error``, ``supervise`` raises it."""
        self._tasks.pop(task, None)
        if error is not None and not self._failure.done():
            self._failure.set_exception(error)

    def blocking(self) -> Attempt | None:
        """Return the attempt whose job executes now, or None. Thread-safe."""
        task = asyncio.current_task(self._loop)
        return self._tasks.get(task) if task is not None else None

    async def supervise(self) -> None:
        """Raise the error of the first task that fails: that is a fault of this program, not of a job."""
        await self._failure

    async def end(self, limit: float) -> None:
        """Cancel all tasks, and wait for at most ``limit`` seconds. Tasks that still run then are abandoned."""
        self.ending = True
        for task in self._tasks:
            task.cancel()
        try:
            if self._tasks:
                await asyncio.wait(list(self._tasks), timeout=limit)
        finally:
            for task, attempt in self._tasks.items():
                if not task.done():
                    _abandon(task, attempt)
            self._tasks.clear()


def _abandon(task: asyncio.Task[None], attempt: Attempt) -> None:
    """Let ``asyncio.run`` return while this task runs. It waits for every task that is registered."""
    log.error(
        "a job did not end when it was cancelled, so it was abandoned: it may overlap with the next attempt until "
        "this process ends",
        slug=attempt.slug,
        run_id=attempt.run_id,
    )
    asyncio._unregister_task(task)


class AttemptRunner:
    """The running attempts of one replica, as tasks of ``tasks``."""

    def __init__(
        self,
        tasks: AttemptTasks,
        context: ReplicaContext,
        preparer: AttemptPreparer,
        on_ended: Callable[[OwnedSchedule, Instant | None], None],
    ) -> None:
        self._tasks = tasks
        self._context = context
        self._preparer = preparer
        self._on_ended = on_ended
        """Called when an attempt has ended and is not in ``attempts`` any more."""

    def start(self, owned: OwnedSchedule, run: Run, now: Instant) -> None:
        runs.attempt_started(owned.schedule, run, now)
        name = run_id(owned.row.uid, run)
        attempt = self._preparer.describe(owned, run, name, now)
        running = RunningAttempt(run, name, attempt, owned.kind, owned.schedule.definition)
        running.revision = run.revision if run.adoptable else owned.schedule.state.revision
        if run.cancel_reason:
            running.end, running.reason, attempt.ending = AttemptEnd.CANCELLED, run.cancel_reason, CANCELLED
        owned.attempts += (running,)
        owned.lease.run_ids += (name,)
        running.task = self._tasks.create_task(self._run(owned, running, now), attempt)

    async def _run(self, owned: OwnedSchedule, running: RunningAttempt, now: Instant) -> None:
        """The task of one attempt."""
        assert running.task is not None, f"{running.run_id}: the task runs before it is known"
        running.entered = True
        fault: Exception | None = None
        try:
            if running.end is None or (running.end is AttemptEnd.CANCELLED and running.run.detached):
                try:
                    result = await self._execute(owned, running, now)
                except GeneratorExit as error:
                    # A future that the job awaited raised it. So asyncio throws it into this coroutine, and that closes
                    # those which this one awaits.
                    result = self._raised(running, error)
            else:
                result = Result(False, running.reason)  # stopped before it started
            ended_at: Instant | None = None
            if owned.phase is not Phase.LOST:
                ended_at = self._context.clock.now()
                self._ended(owned, running, result, ended_at)
            owned.attempts = without(owned.attempts, running)
            owned.lease.run_ids = without(owned.lease.run_ids, running.run_id)
            self._on_ended(owned, ended_at)
        except Exception as error:
            fault = error  # of this program, not of the job
        finally:
            self._tasks.ended(running.task, fault)

    async def _execute(self, owned: OwnedSchedule, running: RunningAttempt, now: Instant) -> Result:
        """Run the attempt to its end, and set ``running.end``."""
        run, observer = running.run, self._context.observer
        if run.adoptable:
            observer.adopted(running.attempt)
        else:
            observer.started(running.attempt, run.due, now - run.due)
        try:
            result = await self._preparer.execute(running)
            if result.result is not None or result.payload is not None:
                library = owned.row.origin == Origin.LIBRARY
                limit, store = self._context.settings.max_result, self._context.store
                result = refuse_large(result, limit, library=library, row=owned.row, row_limit=store.row_limit)
        except BaseException as error:  # whatever a job or its executor raises ends this attempt, and nothing else
            return self._raised(running, error)
        if not result.ok and not result.reason.isascii():
            # Half of a surrogate pair can't be written, neither to the store nor to the call of a hook.
            result.reason = result.reason.encode(errors="replace").decode()
        # The result of an attempt counts even if it ended by itself while it was being cancelled.
        if result.ok:
            running.end = AttemptEnd.COMPLETED if result.complete else AttemptEnd.SUCCEEDED
        elif result.lost and run.detached:
            await self._delay_retry(running)
            running.end = AttemptEnd.LOST
        else:
            running.end = running.end or (AttemptEnd.LOST if result.lost else AttemptEnd.FAILED)
        return result

    def _raised(self, running: RunningAttempt, error: BaseException) -> Result:
        """Return the result of an attempt that raised, and set ``running.end``. Raises what the job did not raise."""
        if isinstance(error, asyncio.CancelledError):
            if running.end is None and self._tasks.ending:
                running.end, running.reason = AttemptEnd.LOST, "the replica was stopped"
            if running.end is not None:
                return Result(False, running.reason)
            # Only the job itself can have cancelled its task.
        elif is_from_outside(error):
            raise error
        running.end = running.end or AttemptEnd.FAILED
        return Result(False, of_exception(error))

    @staticmethod
    async def _delay_retry(running: RunningAttempt) -> None:
        """The state of a detached attempt is unknown, and an immediate retry would find out no more."""
        if running.end is not AttemptEnd.LOST:
            running.end = None  # so that stopping the attempt ends the delay
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(LOST_RETRY_DELAY)

    def _ended(self, owned: OwnedSchedule, running: RunningAttempt, result: Result, now: Instant) -> None:
        """Report the end to the schedule."""
        assert running.end is not None, f"{running.run_id}: the attempt has ended without an end"
        if result.payload is not None or result.payload_cleared:
            self._keep_payload(owned, running, result)
        if result.result is not None:
            owned.result = owned.row.result = result.result
        if running.end is AttemptEnd.COMPLETED:
            scheduled_anew = running.revision < owned.schedule.state.revision and owned.row.origin == Origin.LIBRARY
            if scheduled_anew:
                running.end = AttemptEnd.SUCCEEDED
        details = EndDetails(
            reason=result.reason,
            code=result.code,
            output=result.output,
            where=result.where,
            retry_after=result.retry_after,
        )
        record = runs.attempt_ended(owned.schedule, running.run, running.end, now, details)
        if record is None and running.end is AttemptEnd.FAILED:
            self._context.observer.retrying(running.attempt, result.reason, running.run.due)

    @staticmethod
    def _keep_payload(owned: OwnedSchedule, running: RunningAttempt, result: Result) -> None:
        """Keep the payload that a run leaves for the next one, unless a client has set another one since."""
        if owned.row.payload_revision <= running.revision and running.run.payload is None:
            owned.payload = owned.row.payload = result.payload
            owned.payload_cleared = result.payload_cleared

    def cancel(self, owned: OwnedSchedule, run: Run) -> None:
        """End the attempt of a run, for the reason in ``run.cancel_reason``."""
        for running in owned.attempts:
            if running.run is run:
                self._stop(running, AttemptEnd.CANCELLED, run.cancel_reason, CANCELLED)

    def release(self, owned: OwnedSchedule, why: str) -> None:
        """Stop all attempts of a row, so that another replica continues their runs.

        A detached attempt continues outside only if the next owner can adopt it. If an edit has made the schedule one
        that runs inside a replica, the attempt is cancelled.
        """
        for running in owned.attempts:
            can_continue = owned.phase is Phase.LOST or not running.run.detached or owned.schedule.detached
            self._stop(running, AttemptEnd.LOST, why, RELEASED if can_continue else CANCELLED)

    def release_detached(self, owned: OwnedSchedule, why: str) -> None:
        """Release the detached attempts of a row, which continue without this replica."""
        for running in owned.attempts:
            if running.run.detached and owned.schedule.detached:
                self._stop(running, AttemptEnd.LOST, why, RELEASED)

    @staticmethod
    def _stop(running: RunningAttempt, end: AttemptEnd, reason: str, ending: str) -> None:
        overrides = running.run.detached and running.end is AttemptEnd.CANCELLED and end is AttemptEnd.LOST
        if running.end is None or overrides:
            running.end, running.reason, running.attempt.ending = end, reason, ending
            if running.entered and running.task is not None:
                running.task.cancel()
