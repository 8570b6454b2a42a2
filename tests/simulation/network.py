"""The network between a replica and the store: it delays calls, cuts connections, and loses messages.

A call travels to the store, is carried out there at one instant, and its answer travels back. If the connection is cut
before the call arrives, nothing happened. If it is cut on the way back, the call was carried out and its caller does
not know. A call may also be held back, by a store that stands still or on the way to it, and be carried out long after
its caller has given up. The caller sees the same error in all three cases. A successful answer may be late by seconds.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from scheduledjob.engine.store import Batch, Presence, Put, Renewal, Renewer, ReplicaInfo, StoreUnavailable, Wake

from .row_locks import LockingStore, RowLocks

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence

    from scheduledjob.domain.schedule.state import RunRecord
    from scheduledjob.domain.time.instants import Instant, Micros
    from scheduledjob.engine.stored_row import HookCall, HookEnd, Key, NewRow, Row, Settlement
    from scheduledjob.stores.memory import MemoryDatabase

    from .world import Machine, World

_T = TypeVar("_T")

LONGEST_ANSWER = 8.0
"""Seconds after which a client gives up a call."""


class Faults:
    """What is wrong with the network now."""

    def __init__(self) -> None:
        self.latency = 0.002
        self.lose_request = 0.0
        self.lose_reply = 0.0
        self.late_reply = 0.0
        self.lose_wake = 0.0
        self.lose_replies_of = ""
        """The name of a call, most of whose answers are lost."""
        self.epoch = 0
        """How often the store was restored."""
        self.cut: set[str] = set()
        """Names of replicas that reach nothing."""
        self.held_back: dict[str, list[Callable[[], None]]] = {}
        """By replica whose calls are held back: the calls that are under way."""

    def heal(self) -> None:
        """End losses and delays. A replica that is cut off or held back stays so."""
        self.latency = 0.002
        self.lose_request = self.lose_reply = self.late_reply = self.lose_wake = 0.0
        self.lose_replies_of = ""

    def store_restored(self) -> None:
        """Drop every call that is under way, those for Pods too: the documentation asks to wait for them."""
        self.epoch += 1

    def hold_back(self, names: Iterable[str]) -> None:
        for name in names:
            self.held_back.setdefault(name, [])

    def let_through(self) -> list[Callable[[], None]]:
        """Stop holding back, and return the calls that were held back."""
        late = [arrive for calls in self.held_back.values() for arrive in calls]
        self.held_back.clear()
        return late


class Link:
    """The connection of one machine to the store."""

    def __init__(self, world: World, machine: Machine, faults: Faults) -> None:
        self.world = world
        self.machine = machine
        self.faults = faults

    def delay(self) -> float:
        rng, latency = self.world.random, self.faults.latency
        delay = rng.uniform(0.2, 1.5) * latency * (rng.uniform(5, 40) if rng.random() < 0.02 else 1)
        return min(delay, LONGEST_ANSWER)

    def send(
        self,
        name: str,
        operation: Callable[[], _T],
        answer: Callable[[_T | Exception], None],
        parts: Sequence[Settlement] = (),
    ) -> None:
        """Carry out a call. ``answer`` is called once with the result, unless the machine has died."""
        faults, rng, sent, strikes = self.faults, self.world.random, self.world.now, self.world.strikes
        lost = StoreUnavailable("the connection was cut")
        answered, epoch = False, faults.epoch

        def reply(value: _T | Exception) -> None:
            nonlocal answered
            if not answered:
                answered = True
                answer(value)

        def arrive() -> None:
            calls = faults.held_back.get(self.machine.name)
            if calls is None:
                carry_out()
            else:
                calls.append(carry_out)
                self.world.at(sent + LONGEST_ANSWER, lambda: reply(StoreUnavailable("no answer in time")))

        def carry_out() -> None:
            if faults.epoch != epoch:
                return
            if answered:
                strikes.effect("hold back: a call arrived when its caller had given up")
            try:
                value: _T | Exception = operation()
            except Exception as error:
                value = error
            lose = 0.8 if name == faults.lose_replies_of else faults.lose_reply
            if self.machine.name in faults.cut or rng.random() < lose:
                self._count_lost(name, value, parts)
                self.world.after(min(self.delay() * 20, LONGEST_ANSWER), lambda: reply(lost))
            else:
                late = rng.uniform(1.0, LONGEST_ANSWER - 1.0) if rng.random() < faults.late_reply else 0.0
                self.world.after(self.delay() + late, lambda: reply(value))
                if late:
                    strikes.strike(f"late answer: {name}")
                    if isinstance(value, Batch) and value.rows:
                        strikes.effect("late answers: a claim with rows took seconds")
                    self.world.at(sent + LONGEST_ANSWER, lambda: reply(StoreUnavailable("no answer in time")))

        if self.machine.name in faults.cut or rng.random() < faults.lose_request:
            self.world.after(min(self.delay() * 20, LONGEST_ANSWER), lambda: reply(lost))
        else:
            self.world.after(self.delay(), arrive)

    def _count_lost(self, name: str, value: object, parts: Sequence[Settlement]) -> None:
        """Count a lost answer, if the call has changed something."""
        strikes, changed = self.world.strikes, [name] if _has_changed(name, value) else []
        if isinstance(value, Batch):
            strikes.unknown_claims.update((row.key, row.version) for row in value.rows)
        elif parts and isinstance(value, list):
            done = [settlement for settlement, carried_out in zip(parts, value, strict=True) if carried_out]
            changed = [f"{name}: {settlement.disposition.name.lower()}" for settlement in done]
            strikes.unknown_writes.update((settlement.key, settlement.version) for settlement in done)
        for call in changed:
            strikes.strike(f"lost answer: {call}")
        if changed and sum(machine.runs for machine in self.world.machines) == 1:
            strikes.strike("lost answer: of the only replica")

    async def call(
        self, name: str, operation: Callable[[], Coroutine[Any, Any, _T]], parts: Sequence[Settlement] = ()
    ) -> _T:
        """Call the store, and return its answer. ``parts`` are what a ``settle`` consists of."""
        loop = self.machine.loop
        future: asyncio.Future[_T] = loop.create_future()

        def answer(value: _T | Exception) -> None:
            if self.machine.dead or future.done():
                return
            if isinstance(value, Exception):
                loop.call_soon(lambda: None if future.done() else future.set_exception(value))
            else:
                loop.call_soon(lambda: None if future.done() else future.set_result(value))

        self.send(name, lambda: at_once(operation()), answer, parts)
        return await future


def _has_changed(name: str, value: object) -> bool:
    """Whether the call has changed something in the store."""
    if isinstance(value, Batch):
        return bool(value.rows)
    if isinstance(value, Renewal):
        return bool(value.revisions)
    return not isinstance(value, Exception) and (name != "claim_hooks" or bool(value))


def at_once(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Return the result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    raise AssertionError("the model store waited for something")


class DistantStore:
    """``Store``, reached over a link."""

    polls = False
    poll_interval = 1.0
    exclusive = False
    row_limit: int | None = None

    def __init__(self, database: MemoryDatabase, locks: RowLocks, link: Link) -> None:
        self.near = LockingStore(database, locks, link.world)
        self.link = link

    async def connect(self) -> None: ...

    async def close(self) -> None: ...

    async def now(self) -> Instant:
        return await self.link.call("now", self.near.now)

    async def put(self, rows: Sequence[NewRow], *, replace: bool) -> list[Put]:
        return await self.link.call("put", lambda: self.near.put(rows, replace=replace))

    async def delete(self, slugs: Sequence[str], *, ends_runs: bool = True) -> list[bool]:
        return await self.link.call("delete", lambda: self.near.delete(slugs, ends_runs=ends_runs))

    async def get(self, slugs: Sequence[str]) -> list[Row | None]:
        return await self.link.call("get", lambda: self.near.get(slugs))

    async def rows(self, **options: Any) -> list[Row]:
        return await self.link.call("rows", lambda: self.near.rows(**options))

    async def clear(self, origin: Any = None) -> int:
        return await self.link.call("clear", lambda: self.near.clear(origin))

    async def history(self, slug: str | None = None, **options: Any) -> list[RunRecord]:
        return await self.link.call("history", lambda: self.near.history(slug, **options))

    async def reconcile(self, rows: Sequence[NewRow]) -> list[Put]:
        return await self.link.call("reconcile", lambda: self.near.reconcile(rows))

    async def tombstone(self, identities: Sequence[tuple[str, str]]) -> list[bool]:
        return await self.link.call("tombstone", lambda: self.near.tombstone(identities))

    async def lock(self, name: str, replica: str, length: Micros) -> bool:
        return await self.link.call("lock", lambda: self.near.lock(name, replica, length))

    async def unlock(self, name: str, replica: str) -> None:
        return await self.link.call("unlock", lambda: self.near.unlock(name, replica))

    async def present(self, replica: str, cluster: str, namespaces: Sequence[str], lifetime: Micros) -> list[Presence]:
        return await self.link.call("present", lambda: self.near.present(replica, cluster, namespaces, lifetime))

    async def touch(self, slugs: Sequence[str]) -> None:
        return await self.link.call("touch", lambda: self.near.touch(slugs))

    async def queue_position(self, row: Row) -> tuple[int, bool]:
        return await self.link.call("queue_position", lambda: self.near.queue_position(row))

    async def recorded(self, run_ids: Sequence[str]) -> set[str]:
        return await self.link.call("recorded", lambda: self.near.recorded(run_ids))

    async def claim(self, replica: str, kinds: Iterable[str], **options: Any) -> Batch:
        return await self.link.call("claim", lambda: self.near.claim(replica, kinds, **options))

    async def settle(self, replica: str, settlements: Sequence[Settlement]) -> Sequence[bool | None]:
        return await self.link.call("settle", lambda: self.near.settle(replica, settlements), settlements)

    async def claim_hooks(self, **options: Any) -> list[HookCall]:
        return await self.link.call("claim_hooks", lambda: self.near.claim_hooks(**options))

    async def settle_hooks(self, ends: Sequence[HookEnd]) -> None:
        return await self.link.call("settle_hooks", lambda: self.near.settle_hooks(ends))

    async def announce(self, replica: ReplicaInfo, poll_at: Instant) -> bool:
        return await self.link.call("announce", lambda: self.near.announce(replica, poll_at))

    async def withdraw(self, replica: str) -> None:
        return await self.link.call("withdraw", lambda: self.near.withdraw(replica))

    async def prune(self, limit: int = 1000) -> int:
        return 0

    @asynccontextmanager
    async def renewer(self, replica: str) -> AsyncIterator[Renewer]:
        async with self.near.renewer(replica) as renewer:
            yield renewer

    def renew(
        self,
        replica: str,
        held: Sequence[tuple[Key, int]],
        lease: Micros,
        answer: Callable[[Renewal | Exception], None],
    ) -> None:
        """Renew for the lease thread, which has no event loop here."""

        async def renewal() -> Renewal:
            async with self.near.renewer(replica) as renewer:
                return await renewer.renew(held, lease)

        self.link.send("renew", lambda: at_once(renewal()), answer)

    @asynccontextmanager
    async def listen(self, on_wake: Callable[[Wake], None]) -> AsyncIterator[None]:
        """Notifications arrive late. A lost one is a lost connection, which the replica notices later."""
        link = self.link

        def arrive(wake: Wake) -> None:
            if not link.machine.dead:
                link.machine.loop.call_soon(on_wake, wake)

        def notify(wake: Wake) -> None:
            if link.machine.name in link.faults.cut or link.world.random.random() < link.faults.lose_wake:
                link.world.after(link.world.random.uniform(0.1, 3.0), lambda: arrive(Wake(notifications_lost=True)))
            else:
                link.world.after(link.delay(), lambda: arrive(wake))

        async with self.near.listen(notify):
            yield
