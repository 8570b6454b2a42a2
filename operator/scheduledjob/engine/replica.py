"""A replica: the parts of the engine put together, started and ended in order.

    claimer  looks at the store, claims rows      -> owner
    owner    decides, runs attempts, writes ends  -> settler -> store
    keeper   renews the leases, from its own thread
    listener hears of what becomes due or changes -> claimer

The end has an order too: stop claiming; give back at once what does not run; let runs finish for the grace period;
end the rest and give it back, so that another replica starts it without waiting for a lease. A store that does not
answer can't hold up the end: the leases pass by themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import time
import uuid
from typing import TYPE_CHECKING

import structlog

from scheduledjob.domain.time.instants import from_seconds

from .attempts import Attempts, Hook
from .claimer import Claimer
from .clock import Clock, StoreClock
from .lease_thread import LeaseCallbacks, LeaseDriver, LeaseThread
from .leases import Leases, no_bound
from .observer import Observer
from .ownership import Owner
from .stats import Stats
from .store import ReplicaInfo, Store, StoreError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from scheduledjob.domain.time.instants import Instant

    from .executor import Executor, References
    from .kinds import JobKind
    from .replica_settings import ReplicaSettings

log = structlog.get_logger("scheduledjob.replica")

BEAT = 1.0
CLOCK_EVERY = 0.5
"""Seconds: in that time two clocks drift apart by less than a short round trip takes."""
PRUNE_EVERY = 60.0
LAST_CLAIM = 1.0
"""Seconds that the end of a replica waits for a claim under way: what it brings is handed back at once."""
LAST_WRITES = 2.0
"""Seconds that the end of a replica waits for the store, once after the grace period and once for all that is left."""
LAST_WORD = 1.0
"""Seconds that it waits for the store to hear that it has ended."""


class Replica:
    """One replica of the engine on one store. ``run`` once."""

    def __init__(
        self,
        store: Store,
        kinds: Mapping[str, JobKind],
        settings: ReplicaSettings,
        *,
        program_version: str = "",
        schema_version: int = 0,
        observer: Observer | None = None,
        references: References | None = None,
        hook: Hook | None = None,
        monotonic: Clock = time.monotonic,
        rng: random.Random | None = None,
        lease_thread: Callable[[Store, str, Leases, Clock, LeaseCallbacks], LeaseDriver] = LeaseThread,
        name: str | None = None,
        followers: Callable[[str], Sequence[str]] | None = None,
        until: Clock | None = None,
    ) -> None:
        """``followers``: the slugs that follow a slug, as far as is known here; None: nobody does. ``until``: a bound
        on every lease, in monotonic seconds, as it stands when asked; None: there is none."""
        self.info = ReplicaInfo(
            name or f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}", program_version, schema_version
        )
        self._store = store
        self._kinds = kinds
        self._settings = settings
        self._observer = observer or Observer()
        self._references = references
        self._hook = hook
        self._monotonic = monotonic
        self._rng = rng or random.Random()  # noqa: S311  # spreads load, guards nothing
        self._new_lease_thread = lease_thread
        self._followers = followers
        self.leases = Leases(settings.lease, until or no_bound)
        self.clock = StoreClock(monotonic)
        self._stop = asyncio.Event()
        self.ready = asyncio.Event()
        """Set once the replica claims work."""
        self._claimer: Claimer | None = None

    def stop(self) -> None:
        """Begin the end; ``run`` returns when it is done."""
        self._stop.set()

    def due(self, instant: Instant) -> None:
        """This process itself made something due: look in time."""
        if self._claimer is not None:
            self._claimer.due(instant)

    def changed(self, slugs: Sequence[str], *, deleted: bool = False) -> None:
        """This process itself changed these slugs, or deleted them."""
        if self._claimer is not None:
            self._claimer.owner.slugs_changed(slugs, deleted=deleted)

    # ---------------------------------------------------------------- how it is

    def stats(self) -> Stats:
        """What this replica has in its hands now."""
        return self._claimer.owner.stats() if self._claimer is not None else Stats()

    @property
    def alive(self) -> bool:
        """False where nothing but a new process helps: the event loop stands still, and its leases were given up.

        An outage of the store is nothing of the kind. To be asked from another thread: one that is answered by the
        event loop itself needs no answer.
        """
        return not self.leases.wedged

    @property
    def store_heard(self) -> float:
        """Seconds since the store last answered; infinite before it first did."""
        return self._monotonic() - self.clock.heard_at

    async def store_answers(self, within: float) -> bool:
        """Whether the store has answered in the last ``within`` seconds; if not, whether it does now, in as many."""
        if self.store_heard <= within:
            return True
        sent = self._monotonic()
        try:
            async with asyncio.timeout(within):
                self.clock.observe(await self._store.now(), sent, self._monotonic())
        except (StoreError, TimeoutError):
            return False
        return True

    # ---------------------------------------------------------------- its life

    async def run(self) -> None:
        """Work until ``stop``. Raises what a part of it failed with; an outage of the store is no failure."""
        executors = list({id(kind.executor): kind.executor for kind in self._kinds.values()}.values())
        async with contextlib.AsyncExitStack() as stack:
            for executor in executors:
                await executor.start()
                stack.push_async_callback(executor.stop)
            await self._work(executors)

    async def _work(self, executors: Sequence[Executor]) -> None:
        await self._read_clock()
        async with (
            contextlib.AsyncExitStack() as stack,
            asyncio.TaskGroup() as attempts,
            asyncio.TaskGroup() as services,
        ):
            owner = Owner(
                self._store,
                self.info.id,
                self._kinds,
                tasks=attempts,
                clock=self.clock,
                monotonic=self._monotonic,
                leases=self.leases,
                observer=self._observer,
                attempts=Attempts(self._references, self._hook),
                ahead=from_seconds(self._settings.ahead),
                on_freed=lambda wake: claimer.freed(wake),  # noqa: PLW0108  # made below: the two need each other
                followers=self._followers,
            )
            claimer = self._claimer = Claimer(
                self._store,
                owner,
                self.info,
                lambda: frozenset(self._kinds),
                self._settings,
                clock=self.clock,
                monotonic=self._monotonic,
                rng=self._rng,
            )

            def extend(run_ids: Sequence[str], deadline: float) -> None:
                for executor in executors:
                    executor.extend(run_ids, deadline)

            lease_thread = self._new_lease_thread(
                self._store,
                self.info.id,
                self.leases,
                self._monotonic,
                LeaseCallbacks(extend, owner.leases_renewed, owner.leases_expired),
            )
            self.leases.beat(self._monotonic())
            lease_thread.start()
            stack.push_async_callback(lease_thread.stop)
            claiming = services.create_task(claimer.run())
            settling = services.create_task(owner.settler.run())
            services.create_task(owner.edits.run())
            following = services.create_task(owner.following.run())
            pod_garbage = [
                services.create_task(chore)
                for chore in (self._beat(), self._prune(), self._listen(claimer), self._watch_clock(owner))
            ]
            self.ready.set()
            await self._stop.wait()
            self.ready.clear()
            claimer.stop()
            await asyncio.wait([claiming], timeout=LAST_CLAIM)
            claiming.cancel()
            owner.leave()
            await self._empty(owner)
            owner.finish()
            last = asyncio.get_running_loop().time() + LAST_WRITES
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(last):
                    await asyncio.shield(settling)
            settling.cancel()
            owner.following.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(last):
                    await asyncio.shield(following)
            following.cancel()
            for chore in pod_garbage:
                chore.cancel()
            with contextlib.suppress(StoreError, TimeoutError):
                async with asyncio.timeout(LAST_WORD):
                    await self._store.withdraw(self.info.id)

    async def _empty(self, owner: Owner) -> None:
        """Let runs finish for the grace period, then end them; wait for the last writes, but not for ever."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.grace):
                await owner.emptied()
        owner.stop_attempts()
        try:
            async with asyncio.timeout(LAST_WRITES):
                await owner.emptied()
        except TimeoutError:
            log.warning("ended without an answer from the store: what was held is free when its lease passes")

    async def _read_clock(self) -> None:
        while not self._stop.is_set():
            sent = self._monotonic()
            try:
                now = await self._store.now()
            except StoreUnavailable as error:
                log.warning("the store can't be reached", error=str(error))
                await asyncio.sleep(BEAT)
                continue
            self.clock.observe(now, sent, self._monotonic())
            return

    async def _watch_clock(self, owner: Owner) -> None:
        """While something is held, ask for the store's clock by a call that does nothing else.

        The answer to a claim of many rows takes milliseconds, and by so much the estimate would be late.
        """
        while True:
            await asyncio.sleep(CLOCK_EVERY)
            if owner.held:
                sent = self._monotonic()
                with contextlib.suppress(StoreUnavailable):
                    self.clock.observe(await self._store.now(), sent, self._monotonic())

    async def _beat(self) -> None:
        while True:
            self.leases.beat(self._monotonic())
            await asyncio.sleep(BEAT)

    async def _listen(self, claimer: Claimer) -> None:
        async with self._store.listen(claimer.hear):
            await asyncio.Event().wait()

    async def _prune(self) -> None:
        while True:
            await asyncio.sleep(PRUNE_EVERY * self._rng.uniform(0.5, 1.5))
            with contextlib.suppress(StoreUnavailable):
                while await self._store.prune() > 0:
                    pass
