"""``Scheduler``, the main class of the library: register Python jobs, schedule them, and run them in your own program.

A ``Scheduler`` is a replica of the engine on one store, or only a client with ``execute=False``. It is an async context
manager: register jobs before you enter it, and schedule them inside. While it is open, the replica runs in a task of
its own. If the replica fails, the task that entered the context is cancelled, and ``async with`` raises the failure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from msgspec import UNSET, UnsetType

from scheduledjob.domain.schedule.backoff import Backoff, Exponential, Fixed
from scheduledjob.domain.schedule.definition import Definition
from scheduledjob.domain.schedule.plan import Plan
from scheduledjob.domain.schedule.state import State, run_id
from scheduledjob.domain.triggers.registry import spec_of
from scheduledjob.engine.clock import StoreClock, boot_seconds
from scheduledjob.engine.executor import MAX_RESULT
from scheduledjob.engine.kinds import JobKind
from scheduledjob.engine.observer import Observer
from scheduledjob.engine.replica import Replica
from scheduledjob.engine.replica_settings import ReplicaHost, ReplicaSettings
from scheduledjob.engine.stored_row import DEFAULT_TENANT, NewRow, Origin
from scheduledjob.engine.task import Task
from scheduledjob.jobs.payload_jobs import CurlJob, ShellJob
from scheduledjob.jobs.python.python_job import JobExecutor, JobFunction

from .schedule_arguments import ALLOWED_NAME, MANY_EXAMPLE, checked_slug, is_name, row_of
from .stores import open_store
from .termination import SigtermWatch, watch_sigterm
from .version import program_version

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from types import TracebackType

    from scheduledjob.domain.time.instants import Instant
    from scheduledjob.domain.triggers.calendar_days import Calendar
    from scheduledjob.domain.triggers.cron import Cron
    from scheduledjob.domain.triggers.every import Every
    from scheduledjob.domain.triggers.once import At
    from scheduledjob.engine.executor import Executor
    from scheduledjob.engine.store import Store
    from scheduledjob.jobs.python.python_job import Job

    Trigger = Cron | Every | Calendar | At

_Decorated = TypeVar("_Decorated", bound=JobFunction)

CLOCK_AGE = 30.0
"""Seconds after which a client without a replica reads the store's clock again."""
PAGE = 1000
LAST_WRITES_LIMIT = 2.0
"""Seconds in which schedules whose callers were cancelled are still written when the scheduler closes."""
ROWS_AT_ONCE = 100
"""Rows that ``schedule_many`` makes in one turn of the event loop."""


class Scheduler:
    """Schedules jobs in one installation of a store, and runs them unless ``execute`` is False.

    ``url`` is ``memory:``, ``postgresql://...`` or ``firestore://project/collection``. All durations are seconds:
    ``heartbeat`` is the longest time between two polls of the store, and ``jitter`` the part of it that is random.
    ``lease`` is how long the work of a dead replica waits for another one. ``grace`` is how long running jobs may
    continue at shutdown. ``capacity`` is how many runs this replica has at once. ``max_result`` is how many bytes a
    result and a payload may have; a run that leaves more fails. ``weights`` are those of tenants when more is due than
    there is room for: a tenant of weight 2 gets twice as much as one of weight 1, which is the default. Raises
    ``ValueError`` for a URL or a number that is not allowed.
    """

    def __init__(
        self,
        url: str,
        *,
        heartbeat: float = 60.0,
        jitter: float = 0.0,
        lease: float = 15.0,
        grace: float = 8.0,
        capacity: int = 4096,
        max_result: int = MAX_RESULT,
        weights: Mapping[str, float] | None = None,
        instance: str = "local",
        execute: bool = True,
        observer: Observer | None = None,
    ) -> None:
        self._settings = ReplicaSettings(
            heartbeat=heartbeat,
            jitter=jitter,
            lease=lease,
            grace=grace,
            capacity=capacity,
            max_result=max_result,
            weights=weights or {},
        )
        if not isinstance(url, str):
            raise TypeError(
                f'url is {type(url).__name__}: give text, as in "memory:" or "postgresql://user@host/database"'
            )
        if not isinstance(instance, str) or not instance:
            raise ValueError(f'instance {instance!r:.60} is not allowed: give a name, as in "local"')
        self._url, self._instance = url, instance
        self._store: Store = open_store(url, instance)
        self._execute = execute
        self._observer = observer or Observer()
        self._kinds: dict[str, JobKind] = {}
        self._replica: Replica | None = None
        self._running: asyncio.Task[None] | None = None
        self._writing: set[asyncio.Task[None]] = set()
        """Schedules that are being written, whatever became of the callers."""
        self._tasks: asyncio.TaskGroup | None = None
        self._clock = StoreClock(boot_seconds)
        self._clock_read = float("-inf")
        self._sigterm: SigtermWatch | None = None
        self._entered = False
        self._ending = False
        self._closed = False

    # ---------------------------------------------------------------- before the start

    def job(
        self, name: str, *, trigger: Trigger | None = None, backoff: Backoff | None = None
    ) -> Callable[[_Decorated], _Decorated]:
        """Register the decorated async function as a job with the kind ``name``."""
        if callable(name):
            raise TypeError(f'job() needs a name: write @scheduler.job("{getattr(name, "__name__", "report")}")')

        def decorate(function: _Decorated) -> _Decorated:
            self._add(name, JobExecutor(name, function), trigger, backoff)
            return function

        return decorate

    def register(
        self,
        job: ShellJob | CurlJob | Job,
        *,
        name: str | None = None,
        trigger: Trigger | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        """Register a job object with the kind ``name``.

        The default is the ``kind`` attribute of the job, which is ``shell``, ``curl`` or ``print`` for built-in jobs.
        """
        kind = getattr(job, "kind", None) if name is None else name
        if kind is None:
            raise ValueError(f"{type(job).__name__} has no kind: register it with name=...")
        executor: Executor = job.executor() if isinstance(job, ShellJob | CurlJob) else JobExecutor(kind, job)
        self._add(kind, executor, trigger, backoff)

    def _add(self, name: str, executor: Executor, trigger: Trigger | None, backoff: Backoff | None) -> None:
        if self._entered:
            raise RuntimeError(f"job {name!r} comes too late: register jobs before `async with scheduler`")
        if name in self._kinds:
            raise ValueError(f"a job {name!r} is registered already: give this one another name")
        if not is_name(name):
            raise ValueError(f"name {name!r:.80} is not allowed: {ALLOWED_NAME}")
        if backoff is not None and not isinstance(backoff, Exponential | Fixed):
            raise TypeError(
                f"job {name!r}: backoff is {type(backoff).__name__}: give Exponential(...) or Fixed([10.0, 60.0])"
            )
        triggers = () if trigger is None else (spec_of(trigger),)
        definition = Definition(kind=name, triggers=triggers, retry=backoff or Exponential())
        self._kinds[name] = JobKind(name, executor, Plan(definition))

    # ---------------------------------------------------------------- start and end

    async def __aenter__(self) -> Scheduler:
        if self._entered:
            raise RuntimeError("this scheduler is open, or was closed: create a new one")
        self._entered = True
        try:
            try:
                await self._store.connect()
            except BaseException:
                self._entered = False  # nothing has begun, so it may be entered again
                raise
            if self._execute:
                await self._start_replica()
        except BaseException:
            self._closed = self._entered
            await self._store.close()
            if not self._closed:
                self._store = open_store(self._url, self._instance)
            raise
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        if self._running is not None:
            self._tasks.create_task(_result_of(self._running))
            self._running.add_done_callback(self._replica_ended)
            self._sigterm = watch_sigterm()
        return self

    async def _start_replica(self) -> None:
        """Start the replica, and wait until it is ready. If it fails before, raise its error."""
        host = ReplicaHost(program_version=program_version(), observer=self._observer)
        replica = self._replica = Replica(self._store, self._kinds, self._settings, host)
        self._clock = replica.clock
        running = asyncio.create_task(replica.run())
        ready = asyncio.create_task(replica.ready.wait())
        try:
            await asyncio.wait([running, ready], return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
        except asyncio.CancelledError:
            running.cancel()
            await asyncio.wait([running])
            raise
        except BaseExceptionGroup as group:
            raise _lone(group) from None
        finally:
            ready.cancel()
        self._running = running

    def _replica_ended(self, running: asyncio.Task[None]) -> None:
        """Have ``async with`` raise an error if the replica was cancelled. A task group ignores that."""
        if running.cancelled() and not self._ending and self._tasks is not None:
            self._tasks.create_task(_fail_cancelled())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._tasks is not None
        self._ending = True
        sigterm, self._sigterm = self._sigterm, None
        if sigterm is not None:
            sigterm.release()
        if self._replica is not None and self._running is not None:
            self._replica.stop()
            while not self._running.done():
                try:
                    await asyncio.wait([self._running])
                except asyncio.CancelledError:  # a second cancellation: don't wait for the jobs any longer
                    self._running.cancel()
        try:
            await self._tasks.__aexit__(kind, error, traceback)
        except asyncio.CancelledError:
            if sigterm is None or not sigterm.terminated:
                raise
        except BaseExceptionGroup as group:
            raise _lone(group) from None
        finally:
            self._closed = True
            if self._writing:
                await asyncio.wait(self._writing, timeout=LAST_WRITES_LIMIT)
            await self._store.close()
            if sigterm is not None:
                sigterm.ended()
        ends = kind is None or kind is asyncio.CancelledError
        if sigterm is not None and sigterm.terminated and ends and await sigterm.is_last():
            raise SystemExit(0)

    # ---------------------------------------------------------------- scheduling

    async def schedule(
        self,
        slug: str,
        kind: str,
        *,
        payload: bytes | UnsetType | None = UNSET,
        delay: float | None = None,
        at: datetime | None = None,
        tenant: str = DEFAULT_TENANT,
        replace: bool = False,
    ) -> None:
        """Schedule ``slug``. It first runs after ``delay`` seconds, ``at`` an aware datetime, or when its trigger says.

        ``tenant`` is for whom it runs. When more is due than there is room for, each tenant gets its fair share, and no
        tenant takes all of the capacity.

        Raises ``SlugTaken`` (a ``ValueError``) if the slug is scheduled already. With ``replace``, the schedule is
        updated instead, its history is kept, and it goes on even if a run that is active would complete it. Without
        ``payload``, an existing schedule keeps its payload, and None clears it. A payload that is set while a run is
        active stays, whatever payload that run leaves.
        """
        await self._put(
            [{"slug": slug, "kind": kind, "payload": payload, "delay": delay, "at": at, "tenant": tenant}], replace
        )

    async def schedule_many(self, schedules: Iterable[Mapping[str, Any]], *, replace: bool = False) -> None:
        """Schedule many slugs in few round trips. Each item has the arguments of ``schedule``.

        All or none are written up to 1,000 items of 8 MiB (Firestore: 500). More are several transactions, one after
        the other. If such a call fails, some may have been written: call it again with ``replace=True``.
        """
        await self._put(schedules, replace)

    async def get(self, slug: str) -> Task | None:
        """Return the schedule: its payload, its result, and the slot and attempt that run now or come next.

        Returns None if the slug is not scheduled.
        """
        (row,) = await self._opened().get([checked_slug(slug)])
        if row is None or row.origin != Origin.LIBRARY.value:
            return None
        state = State.decode(row.state)
        run = next(iter([*state.runs, *state.waiting]), None) or state.next
        return Task(
            row.slug,
            row.kind,
            row.payload,
            run.slot if run else state.decided_until,
            run.attempt if run else 1,
            row.version,
            run_id(row.uid, run) if run else "",
            uid=row.uid,
            result=row.result,
        )

    async def slugs(self) -> list[str]:
        """Return all scheduled slugs, sorted."""
        store, slugs, after = self._opened(), list[str](), ""
        while page := await store.rows(origin=Origin.LIBRARY, after=after, limit=PAGE):
            slugs.extend(row.slug for row in page)
            after = page[-1].slug
        return slugs

    async def delete(self, slug: str) -> bool:
        """End a schedule and its active run. Returns False if the slug is not scheduled."""
        (deleted,) = await self._opened().delete([checked_slug(slug)])
        if deleted and self._replica is not None:
            self._replica.changed([slug], deleted=True)
        return deleted

    async def clear(self) -> None:
        """End all schedules that the library created in this installation."""
        store = self._opened()
        slugs = [] if self._replica is None else await self.slugs()
        await store.clear(Origin.LIBRARY)
        if self._replica is not None:
            self._replica.changed(slugs, deleted=True)

    # ---------------------------------------------------------------- inside

    def _opened(self) -> Store:
        if not self._entered:
            raise RuntimeError("the scheduler is not open: write `async with scheduler:` around this")
        if self._closed:
            raise RuntimeError("the scheduler is closed: create a new one, and do this inside its `async with`")
        return self._store

    async def _put(self, schedules: Iterable[Mapping[str, Any]], replace: bool) -> None:
        store, now = self._opened(), await self._now()
        if isinstance(schedules, Mapping | str) or not isinstance(schedules, Iterable):
            raise TypeError(f"schedules is {type(schedules).__name__}: give a list, {MANY_EXAMPLE}")
        max_payload, rows = self._settings.max_result, list[NewRow]()
        if store.row_limit is not None:
            max_payload = min(max_payload, store.row_limit)
        for schedule in schedules:
            rows.append(row_of(schedule, now, self._kinds, only_these=self._execute, max_payload=max_payload))
            if len(rows) % ROWS_AT_ONCE == 0:
                await asyncio.sleep(0)  # the replica of this process shares the event loop
        # A job that deletes its own schedule is cancelled, but not the call with which it schedules something then.
        writing = asyncio.create_task(self._write(store, rows, now, replace))
        self._writing.add(writing)
        writing.add_done_callback(self._written)
        await asyncio.shield(writing)

    def _written(self, writing: asyncio.Task[None]) -> None:
        self._writing.discard(writing)
        if not writing.cancelled():
            writing.exception()  # the caller may have been cancelled, and not take it

    async def _write(self, store: Store, rows: list[NewRow], now: Instant, replace: bool) -> None:
        await store.put(rows, replace=replace)
        if self._replica is not None and rows:
            wakes = [row.wake_at for row in rows if row.wake_at is not None]
            if replace:
                self._replica.changed([row.slug for row in rows])
                wakes.append(now)
            if wakes:
                self._replica.due(min(wakes))

    async def _now(self) -> Instant:
        """Return the store's time: the estimate of the replica, or of a clock that a client reads now and then."""
        if self._replica is None and boot_seconds() - self._clock_read > CLOCK_AGE:
            sent = boot_seconds()
            now = await self._store.now()
            self._clock_read = boot_seconds()
            self._clock.observe(now, sent, self._clock_read)
        return self._clock.now()


async def _result_of(task: asyncio.Task[None]) -> None:
    await task


async def _fail_cancelled() -> NoReturn:
    raise RuntimeError("the scheduler's task was cancelled by a job or by another part of the program")


def _lone(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the only exception in nested groups, or the group that has several."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
