"""A replica: the parts of the engine put together.

    claimer       polls the store and claims rows               -> ownership
    ownership     decides, runs attempts, writes their results  -> settler -> store
    lease thread  renews the leases, in its own thread
    listener      receives notifications of the store           -> claimer

``shutdown.py`` describes its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from scheduledjob.domain.time.instants import SECOND

from .attempt_preparer import AttemptPreparer
from .attempt_runner import AttemptTasks
from .claimer import Claimer
from .clock import StoreClock
from .hook_delivery import HookDelivery
from .job_tasks import contained_tasks
from .lease_thread import LeaseCallbacks
from .leases import Leases, no_bound
from .observer import Stats
from .ownership import Ownership
from .poll_timer import PollTimer
from .replica_settings import ReplicaContext, ReplicaHost, ReplicaPlatform
from .shutdown import STOP_LIMIT, Services, shut_down
from .store import ReplicaInfo, Store, StoreError, StoreUnavailable
from .timing import (
    CLOCK_READ_INTERVAL,
    EXCLUSIVE_LEASE,
    LOOP_BEAT_INTERVAL,
    PRUNE_INTERVAL,
    SUSPENDED_FOR,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scheduledjob.domain.time.instants import Instant

    from .executor import Executor
    from .kinds import JobKind
    from .replica_settings import ReplicaSettings

log = structlog.get_logger("scheduledjob.replica")


class Replica:
    """One replica of the engine on one store. Call ``run`` once."""

    def __init__(
        self,
        store: Store,
        kinds: Mapping[str, JobKind],
        settings: ReplicaSettings,
        host: ReplicaHost | None = None,
        platform: ReplicaPlatform | None = None,
    ) -> None:
        host, platform = host or ReplicaHost(), platform or ReplicaPlatform()
        name = host.name or f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.info = ReplicaInfo(name, host.program_version, schema_version=0)
        if store.exclusive and host.lease_bound is None:
            settings = replace(settings, lease=EXCLUSIVE_LEASE)
        self.leases = Leases(settings.lease, host.lease_bound or no_bound)
        self.clock = host.clock or StoreClock(platform.monotonic)
        self.ready = asyncio.Event()
        """Set while the replica claims work."""
        self._context = ReplicaContext(
            store=store,
            replica=self.info.id,
            kinds=kinds,
            settings=settings,
            clock=self.clock,
            monotonic=platform.monotonic,
            observer=host.observer,
        )
        self._host = host
        self._platform = platform
        self._poll_timer = PollTimer(self.clock, platform.monotonic, settings)
        self._stop = asyncio.Event()
        self._ownership: Ownership | None = None

    def stop(self) -> None:
        """Begin to shut down; ``run`` returns when that is done."""
        self._stop.set()

    def due(self, instant: Instant) -> None:
        """This process made a row due at ``instant``: claim it in time."""
        self._poll_timer.due(instant)

    def changed(self, slugs: Sequence[str], *, deleted: bool = False) -> None:
        """This process changed these slugs, or deleted them."""
        if self._ownership is not None:
            self._ownership.slugs_changed(slugs, deleted=deleted)

    # ---------------------------------------------------------------- health

    def stats(self) -> Stats:
        """Counts of what this replica owns now."""
        return self._ownership.stats() if self._ownership is not None else Stats()

    @property
    def alive(self) -> bool:
        """False if only a restart helps: the event loop is wedged, and nothing new starts here.

        An outage of the store does not count. Call this from another thread, because a wedged event loop can't answer.
        """
        return not self.leases.wedged

    @property
    def seconds_since_answer(self) -> float:
        """Seconds since the store last answered; infinite before its first answer."""
        return self._context.monotonic() - self.clock.last_answer_at

    async def store_answers(self, within: float) -> bool:
        """Whether the store has answered in the last ``within`` seconds, or answers now within as many."""
        if self.seconds_since_answer <= within:
            return True
        sent = self._context.monotonic()
        try:
            async with asyncio.timeout(within):
                self.clock.observe(await self._context.store.now(), sent, self._context.monotonic())
        except (StoreError, TimeoutError):
            return False
        return True

    # ---------------------------------------------------------------- run

    async def run(self) -> None:
        """Work until ``stop``. An outage of the store is no error; any other failure of a part is raised."""
        executors = list({id(kind.executor): kind.executor for kind in self._context.kinds.values()}.values())
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(contained_tasks())
            for executor in executors:
                await executor.start()
                stack.push_async_callback(executor.stop)
            await self._work(executors)

    async def _work(self, executors: Sequence[Executor]) -> None:
        await self._read_clock()
        async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as services:
            attempts, hooks = AttemptTasks(), self._hook_delivery()
            ownership = self._ownership = Ownership(
                self._context,
                tasks=attempts,
                leases=self.leases,
                preparer=AttemptPreparer(self._host.references),
                poll_timer=self._poll_timer,
                followers=self._host.followers,
                hooks=hooks,
            )
            claimer = Claimer(self._context, ownership, self.info, self._poll_timer, self._platform.rng)

            def extend(run_ids: Sequence[str], deadline: float) -> None:
                for executor in executors:
                    executor.extend(run_ids, deadline)

            lease_thread = self._platform.lease_thread(
                self._context.store,
                self.info.id,
                self.leases,
                self._context.monotonic,
                LeaseCallbacks(
                    extend,
                    ownership.leases_renewed,
                    ownership.leases_expired,
                    self._context.observer.lease_thread_failed,
                    attempts.blocking,
                    self._host.on_outlived,
                ),
            )
            self.leases.beat(self._context.monotonic())
            lease_thread.start()
            stack.push_async_callback(lease_thread.stop)
            stack.push_async_callback(attempts.end, STOP_LIMIT)
            stack.callback(ownership.close)  # without an orderly shutdown, nothing may start any more either
            claiming = services.create_task(claimer.run())
            writing = services.create_task(ownership.settler.run())
            editing = services.create_task(ownership.edits.run())
            following = services.create_task(ownership.upstreams.run())
            delivering = None if hooks is None else services.create_task(hooks.run())
            periodic = [
                services.create_task(service)
                for service in (
                    self._beat(),
                    self._prune(),
                    self._listen(claimer),
                    self._watch_clock(ownership),
                    attempts.supervise(),
                    ownership.zones.run(),
                )
            ]
            running = [claiming, writing, editing, following, *periodic, *([] if delivering is None else [delivering])]
            watching = services.create_task(_watch_services(running))
            self.ready.set()
            await self._stop.wait()
            self.ready.clear()
            watching.cancel()
            await shut_down(
                self._context, claimer, ownership, Services(claiming, writing, following, periodic, hooks, delivering)
            )
            await attempts.end(0.0)  # the shutdown has given them time to stop

    def _hook_delivery(self) -> HookDelivery | None:
        host = self._host
        if host.hook is None:
            return None
        return HookDelivery(self._context, host.hook, host.references, self._platform.rng)

    async def _read_clock(self) -> None:
        while not self._stop.is_set():
            sent = self._context.monotonic()
            try:
                now = await self._context.store.now()
            except StoreUnavailable as error:
                log.warning("the store can't be reached", error=str(error))
                await asyncio.sleep(LOOP_BEAT_INTERVAL)
                continue
            self.clock.observe(now, sent, self._context.monotonic())
            return

    async def _watch_clock(self, ownership: Ownership) -> None:
        """While the replica owns rows, read the store's clock with a call that does nothing else.

        The answer to a large claim takes milliseconds, and the estimate would be late by as much. An exclusive store is
        always read, because its clock jumps when this machine's wall clock does.
        """
        monotonic, store, loop = self._context.monotonic, self._context.store, asyncio.get_running_loop()
        while True:
            ahead, jumps = monotonic() - loop.time(), self.clock.jumps
            await asyncio.sleep(CLOCK_READ_INTERVAL)
            slept = monotonic() - loop.time() - ahead
            if slept > SUSPENDED_FOR:
                log.warning("this machine was suspended", seconds=round(slept))
                self._clock_jumped(ownership)
            if ownership.count or store.exclusive:
                sent = monotonic()
                with contextlib.suppress(StoreUnavailable):
                    self.clock.observe(await store.now(), sent, monotonic())
            if self.clock.jumps != jumps:
                log.warning("the store's clock was set", by=f"{self.clock.last_jump / SECOND:+.0f} s")
                self._clock_jumped(ownership)

    def _clock_jumped(self, ownership: Ownership) -> None:
        """Find out at once what is due, and which leases are over. The event loop's timers do not know of the jump."""
        self.leases.clock_jumped()
        ownership.clock_jumped()
        self._poll_timer.poll_now()

    async def _beat(self) -> None:
        while True:
            self.leases.beat(self._context.monotonic())
            await asyncio.sleep(LOOP_BEAT_INTERVAL)

    async def _listen(self, claimer: Claimer) -> None:
        async with self._context.store.listen(claimer.notified):
            await asyncio.Event().wait()

    async def _prune(self) -> None:
        while True:
            await asyncio.sleep(PRUNE_INTERVAL * self._platform.rng.uniform(0.5, 1.5))
            try:
                while await self._context.store.prune() > 0:
                    pass
            except StoreUnavailable:
                pass
            except StoreError as error:  # a record that the store won't drop must not end what runs
                log.error("the store refused to drop old history: retrying later", error=str(error))


async def _watch_services(services: Sequence[asyncio.Task[None]]) -> None:
    """Raise an error if a service is cancelled. A task group ignores that, and the replica would do nothing more."""
    await asyncio.wait(services, return_when=asyncio.FIRST_COMPLETED)
    if any(service.cancelled() for service in services):
        raise RuntimeError("a task of the replica was cancelled by a job or by another part of the program")
