"""The lease thread renews ``Leases``, on its own event loop and its own connection to the store.

It is a thread because a Python job may block the replica's event loop. Leases must still be renewed then, for at most
``WEDGED_AFTER`` seconds. The thread reports results to the replica's event loop. Executors need their new deadlines
even if that loop is blocked, so the thread calls them itself. One task renews leases and another watches for leases
that are about to expire, so that a store that does not answer does not delay fencing.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import structlog

from scheduledjob.domain.time.instants import from_seconds

from .store import Key, Renewer, Store, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .clock import Clock
    from .leases import Leases, Renewed

log = structlog.get_logger("scheduledjob.leases")

_T = TypeVar("_T")


@dataclass(slots=True)
class LeaseCallbacks:
    """What the lease thread calls: ``extend`` in its own thread, the others in the replica's event loop."""

    extend: Callable[[Sequence[str], float], None]
    """Called with run ids and their new deadline (monotonic seconds)."""
    renewed: Callable[[Renewed], None]
    expired: Callable[[Sequence[Key]], None]


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
        self._thread = threading.Thread(target=self._main, name="scheduledjob-leases", daemon=True)
        self._stopping: asyncio.Event
        self._running: asyncio.AbstractEventLoop | None = None
        self._up = threading.Event()

    def start(self) -> None:
        self._thread.start()
        self._up.wait()

    async def stop(self) -> None:
        if self._running is not None:
            with contextlib.suppress(RuntimeError):  # it ended by itself
                self._running.call_soon_threadsafe(self._stopping.set)
        await asyncio.to_thread(self._thread.join)

    def _main(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        self._stopping = asyncio.Event()
        self._running = asyncio.get_running_loop()
        self._up.set()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            renewing = tasks.create_task(self._renew_until_stopped())
            await self._stopping.wait()
            renewing.cancel()  # a store that does not answer must not delay the end

    async def _watch(self) -> None:
        """Report leases that are about to expire."""
        was_wedged = False
        while not await self._pause():
            expired = self._leases.expired(self._clock())
            if expired:
                self._report(self._calls.expired, expired)
            if self._leases.wedged and not was_wedged:
                was_wedged = True
                log.error(
                    "the event loop has not run for a minute: its leases are not renewed, and its runs will be stopped"
                )

    async def _renew_until_stopped(self) -> None:
        while not self._stopping.is_set():
            try:
                async with self._store.renewer(self._replica) as renewer:
                    while not await self._pause():
                        await self._renew(renewer)
            except (StoreError, TimeoutError) as error:
                log.warning("leases can't be renewed", error=str(error) or type(error).__name__)
                await self._pause()

    async def _renew(self, renewer: Renewer) -> None:
        sent = self._clock()
        to_renew = self._leases.to_renew(sent)
        if not to_renew:
            return
        async with asyncio.timeout(self._leases.length / 3):
            answer = await renewer.renew(to_renew, from_seconds(self._leases.length))
        renewed = self._leases.renewed(to_renew, answer, sent)
        if renewed.extended:
            self._calls.extend(renewed.extended, renewed.deadline)
        self._report(self._calls.renewed, renewed)

    async def _pause(self) -> bool:
        """Wait one tick. Returns True if the thread must stop."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._leases.tick):
                await self._stopping.wait()
        return self._stopping.is_set()

    def _report(self, callback: Callable[[_T], None], argument: _T) -> None:
        with contextlib.suppress(RuntimeError):  # the replica's loop has closed
            self._home.call_soon_threadsafe(callback, argument)
