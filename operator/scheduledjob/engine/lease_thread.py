"""The lease thread renews ``Leases``, on its own event loop and its own connection to the store.

It is a thread because a Python job may block the replica's event loop. The leases of what runs must still be renewed
then, however long that takes (``leases.py`` says why). The thread reports results to the replica's event loop.
Executors need their new deadlines even if that loop is blocked, so the thread calls them itself. One task renews leases
and another watches for leases that are about to expire, so that a store that does not answer does not delay fencing.

If nobody fences, another replica starts runs that continue here. So no failure ends the thread silently: it is logged
as an error, reported, and the thread starts again after a delay. Until then, and whenever the thread does not watch,
a task in the replica's event loop fences in its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import structlog

from scheduledjob.domain.time.instants import from_seconds

from .store import Renewer, Store, StoreError
from .timing import FIRST_LEASE_THREAD_RESTART_DELAY, LAST_LEASE_THREAD_RESTART_DELAY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .clock import Clock
    from .executor import Attempt
    from .leases import Leases, Renewed
    from .stored_row import Key

log = structlog.get_logger("scheduledjob.leases")

_T = TypeVar("_T")


def no_action(slug: str) -> None:
    """Do nothing."""


@dataclass(slots=True)
class LeaseCallbacks:
    """What the lease thread calls: ``extend``, ``blocking`` and ``outlived`` in its own thread, the others in the
    replica's event loop."""

    extend: Callable[[Sequence[str], float], None]
    """Called with run ids and their new deadline (monotonic seconds)."""
    renewed: Callable[[Renewed], None]
    expired: Callable[[Sequence[Key]], None]
    failed: Callable[[BaseException], None]
    """Called when the thread fails. It starts again by itself."""
    blocking: Callable[[], Attempt | None]
    """Called in the lease thread. Returns the attempt whose job executes in the event loop now."""
    outlived: Callable[[str], object] = no_action
    """Called in the lease thread with the slug of a job that blocks the event loop after its lease. Another replica may
    start its run."""


class LeaseDriver(Protocol):
    """Drives the leases of a replica: ``LeaseThread``, or the simulation in tests."""

    def start(self) -> None: ...

    async def stop(self) -> None: ...


class LeaseThread:
    """Renews the leases of one replica from a thread."""

    def __init__(self, store: Store, replica: str, leases: Leases, clock: Clock, calls: LeaseCallbacks) -> None:
        self._store = store
        self._replica = replica
        self._leases = leases
        self._clock = clock
        self._calls = calls
        self._home = asyncio.get_running_loop()
        self._home_thread = threading.get_ident()
        self._thread: threading.Thread
        self._guarding: asyncio.Task[None]
        self._stopping: asyncio.Event
        self._running: asyncio.AbstractEventLoop | None = None
        self._started = threading.Event()
        self._stopped = threading.Event()
        self._ended = asyncio.Event()
        """The thread has ended, or is about to."""
        self._watched_at = 0.0
        """Monotonic seconds at which the thread last looked for leases that are about to expire."""

    def start(self) -> None:
        self._start_thread()
        self._started.wait()
        self._guarding = self._home.create_task(self._guard(), name="scheduledjob-lease-guard")

    def _start_thread(self) -> None:
        self._ended.clear()
        self._thread = threading.Thread(target=self._main, name="scheduledjob-leases", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        self._stopped.set()
        self._guarding.cancel()
        if self._running is not None:
            with contextlib.suppress(RuntimeError):  # it ended by itself
                self._running.call_soon_threadsafe(self._stopping.set)
        # Not in a thread of the default pool: jobs may block all of them.
        await self._ended.wait()
        self._thread.join()

    # ---- in the replica's event loop

    async def _guard(self) -> None:
        """Fence while the thread does not watch, and start it again if it has ended."""
        while True:
            await asyncio.sleep(self._leases.tick)
            if self._clock() - self._watched_at > 3 * self._leases.tick:
                self._watch_once()
            if not self._thread.is_alive() and not self._stopped.is_set():
                log.error("the lease thread has ended, and is restarted")
                self._start_thread()

    # ---- in the thread

    def _main(self) -> None:
        delay = FIRST_LEASE_THREAD_RESTART_DELAY
        try:
            while not self._stopped.is_set():
                try:
                    asyncio.run(self._run())
                except BaseException as error:  # nobody above would see it, and nobody would renew or fence
                    self._report_failure(error)
                self._started.set()
                self._stopped.wait(delay)
                delay = min(2 * delay, LAST_LEASE_THREAD_RESTART_DELAY)
        finally:
            with contextlib.suppress(RuntimeError):  # the replica's loop has closed
                self._home.call_soon_threadsafe(self._ended.set)

    def _report_failure(self, error: BaseException) -> None:
        log.error(
            "the lease thread failed, and is restarted; leases that can't be renewed in time are given up",
            error=str(error) or type(error).__name__,
            exc_info=error,
        )
        self._report(self._calls.failed, error)

    async def _run(self) -> None:
        self._stopping = asyncio.Event()
        self._running = asyncio.get_running_loop()
        if self._stopped.is_set():
            return
        self._watched_at = self._clock()
        self._started.set()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            renewing = tasks.create_task(self._renew_until_stopped())
            await self._stopping.wait()
            renewing.cancel()  # a store that does not answer must not delay the end

    async def _watch(self) -> None:
        """Report leases that are about to expire, and an event loop that is blocked."""
        was_wedged = False
        while not await self._pause():
            self._watched_at = self._clock()
            self._watch_once()
            if self._leases.wedged and not was_wedged:
                log.error(
                    "the event loop has been blocked for a minute: the leases of running jobs are still renewed, and "
                    "other rows are given up",
                    blocked_by=self._blocked_by(),
                    at=self._blocked_at(),
                )
            was_wedged = self._leases.wedged
            self._find_outlived()

    def _find_outlived(self) -> None:
        """Report a job that can't be stopped, because it blocks the event loop, and may run elsewhere now."""
        attempt = self._calls.blocking()
        if attempt is not None and self._leases.outlived(attempt.run_id, self._clock()):
            log.error(
                "a job blocks the event loop, and its lease has ended because it could not be renewed: another replica "
                "may start its run",
                slug=attempt.slug,
                run_id=attempt.run_id,
                at=self._blocked_at(),
            )
            self._calls.outlived(attempt.slug)

    def _blocked_by(self) -> str:
        attempt = self._calls.blocking()
        return attempt.slug if attempt is not None else "no job"

    def _blocked_at(self) -> str:
        """Return the line of code that the replica's event loop executes."""
        frame = sys._current_frames().get(self._home_thread)
        return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else ""

    def _watch_once(self) -> None:
        expired = self._leases.expired(self._clock())
        if expired:
            self._report(self._calls.expired, expired)

    async def _renew_until_stopped(self) -> None:
        """Renew, whatever fails: meanwhile ``_watch`` fences."""
        delay = FIRST_LEASE_THREAD_RESTART_DELAY
        while not self._stopping.is_set():
            try:
                async with self._store.renewer(self._replica) as renewer:
                    while not await self._pause():
                        await self._renew(renewer)
                        delay = FIRST_LEASE_THREAD_RESTART_DELAY
            except (StoreError, TimeoutError) as error:
                log.warning("leases can't be renewed", error=str(error) or type(error).__name__)
                await self._pause()
            except Exception as error:  # a bug of a store or an executor must not end all renewals
                self._report_failure(error)
                await self._pause(delay)
                delay = min(2 * delay, LAST_LEASE_THREAD_RESTART_DELAY)

    async def _renew(self, renewer: Renewer) -> None:
        sent = self._clock()
        to_renew = self._leases.to_renew(sent)
        if not to_renew:
            return
        async with asyncio.timeout(self._leases.length / 3):
            answer = await renewer.renew(to_renew, from_seconds(self._leases.length))
        renewed = self._leases.renewed(to_renew, answer, sent)
        self._report(self._calls.renewed, renewed)
        if renewed.extended:
            self._calls.extend(renewed.extended, renewed.deadline)

    async def _pause(self, seconds: float | None = None) -> bool:
        """Wait one tick, or so many seconds. Returns True if the thread must stop."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._leases.tick if seconds is None else seconds):
                await self._stopping.wait()
        return self._stopping.is_set()

    def _report(self, callback: Callable[[_T], None], argument: _T) -> None:
        with contextlib.suppress(RuntimeError):  # the replica's loop has closed
            self._home.call_soon_threadsafe(callback, argument)
