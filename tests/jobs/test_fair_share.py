"""Places for Pods and threads are used while a namespace has work for them, and none takes the last one."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from scheduledjob.jobs.container.pod_executor import places
from scheduledjob.jobs.curl.body_search import BodySearch
from scheduledjob.jobs.fair_share import FairThreads

if TYPE_CHECKING:
    import pytest


async def rest() -> None:
    """Let every task go on until it waits."""
    for _ in range(20):
        await asyncio.sleep(0)


class Holders:
    """Tasks that hold slots until the test ends them."""

    def __init__(self, slots: int) -> None:
        self.slots = places(slots)
        self.held: list[str] = []
        self.waits: list[str] = []
        self.tasks: dict[str, list[asyncio.Task[None]]] = {}

    def ask(self, namespace: str, count: int = 1) -> None:
        for _ in range(count):
            self.tasks.setdefault(namespace, []).append(asyncio.create_task(self._hold(namespace)))

    async def _hold(self, namespace: str) -> None:
        async with self.slots.one(namespace, self.waits.append):
            self.held.append(namespace)
            try:
                await asyncio.Event().wait()
            finally:
                self.held.remove(namespace)

    async def end(self, namespace: str, *, waiting: bool = False) -> None:
        task = self.tasks[namespace].pop(-1 if waiting else 0)
        task.cancel()
        await asyncio.wait([task])
        await rest()

    async def close(self) -> None:
        tasks = [task for group in self.tasks.values() for task in group]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def test_a_namespace_takes_three_quarters_and_leaves_room_for_others() -> None:
    holders = Holders(64)
    for name, share in (("a", 48), ("b", 12), ("c", 3), ("d", 1)):
        holders.ask(name, 100)
        await rest()
        assert Counter(holders.held)[name] == share
    assert holders.waits[0] == "48 of 64 places are taken, 48 by this namespace"
    await holders.close()


async def test_a_free_slot_goes_to_the_namespace_that_has_the_fewest() -> None:
    holders = Holders(4)
    holders.ask("a", 10)
    await rest()
    assert Counter(holders.held) == {"a": 3}
    holders.ask("b", 10)
    await rest()
    assert Counter(holders.held) == {"a": 3, "b": 1}
    await holders.end("a")
    assert Counter(holders.held) == {"a": 2, "b": 2}
    await holders.close()


async def test_one_slot_is_used() -> None:
    holders = Holders(1)
    holders.ask("a", 2)
    holders.ask("b")
    await rest()
    assert holders.held == ["a"]
    await holders.end("a")
    assert holders.held == ["a"] or holders.held == ["b"]
    await holders.close()


async def test_who_gives_up_waiting_takes_no_slot() -> None:
    holders = Holders(2)
    holders.ask("a", 3)
    await rest()
    await holders.end("a", waiting=True)
    await holders.end("a", waiting=True)
    await holders.end("a")
    holders.ask("b")
    await rest()
    assert holders.held == ["b"]
    await holders.close()


_STEPS = st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.booleans()), max_size=60)


@given(st.integers(1, 12), _STEPS)
def test_no_slot_is_lost_and_none_is_taken_twice(count: int, steps: list[tuple[str, bool, bool]]) -> None:
    async def play() -> None:
        async with AsyncExitStack() as stack:
            holders = Holders(count)
            stack.push_async_callback(holders.close)
            for name, asks, waiting in steps:
                if asks:
                    holders.ask(name)
                    await rest()
                elif holders.tasks.get(name):
                    await holders.end(name, waiting=waiting)
                assert len(holders.held) <= count
                if any(holders.tasks.values()):
                    assert holders.held, "somebody has a slot if somebody wants one"
                for other in "abc":
                    assert holders.held.count(other) < count or count == 1

    asyncio.run(play())


async def test_a_computation_that_nobody_waits_for_keeps_its_thread() -> None:
    threads, begun, end = FairThreads(3, "test"), threading.Semaphore(0), threading.Event()

    def compute() -> bool:
        begun.release()
        return end.wait()

    try:
        tasks = [asyncio.create_task(threads.run("a", compute)) for _ in range(4)]
        await rest()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all([await asyncio.to_thread(begun.acquire, timeout=60) for _ in range(2)])
        later = asyncio.create_task(threads.run("a", compute))
        async with asyncio.timeout(60):
            assert await threads.run("b", lambda: "b") == "b"
        assert not begun.acquire(blocking=False)
        end.set()
        async with asyncio.timeout(60):
            assert await later
    finally:
        end.set()
        threads.stop()


async def test_long_searches_of_bodies_leave_a_thread_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    end = threading.Event()
    monkeypatch.setattr(
        "scheduledjob.jobs.curl.body_search._matches", lambda compiled, body, charset: body[:1] == b"b" or end.wait()
    )
    search = BodySearch()
    body = b"x" * 900_000
    try:
        long = [asyncio.create_task(search.find(".{99}y", b"a" + body, namespace="team-a")) for _ in range(9)]
        await rest()
        async with asyncio.timeout(60):
            assert await search.find(".{99}y", b"b" + body, namespace="team-b")
        end.set()
        assert all(await asyncio.gather(*long))
    finally:
        end.set()
        search.stop()
