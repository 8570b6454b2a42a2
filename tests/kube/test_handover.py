"""What is handed from the watching thread to the event loop that decides; two real threads, two real loops."""

from __future__ import annotations

import asyncio
from typing import Any

from scheduledjob.kube.watch.handover import Handover, WatchEvent

PATIENCE = 30.0


def an_object(uid: str, version: int = 1) -> dict[str, Any]:
    return {"metadata": {"uid": uid, "resourceVersion": str(version)}}


async def give(handover: Handover, *seen: WatchEvent) -> None:
    """From another thread's event loop, as the watch does."""

    async def all_of_them() -> None:
        for body, deleted in seen:
            await handover.put(body, deleted=deleted)

    await asyncio.to_thread(lambda: asyncio.run(all_of_them()))


async def test_the_newest_counts_and_keeps_its_place() -> None:
    handover = Handover()
    first, other, newest = (
        WatchEvent(an_object("a"), False),
        WatchEvent(an_object("b"), False),
        WatchEvent(an_object("a", 2), False),
    )
    await give(handover, first, other, newest)
    assert await handover.take() == [newest, other]


async def test_a_deletion_stays_one() -> None:
    handover = Handover()
    gone = WatchEvent(an_object("a", 3), True)
    await give(handover, WatchEvent(an_object("a"), False), gone, WatchEvent(an_object("a", 2), False))
    assert await handover.take() == [gone]


async def test_who_waits_is_woken() -> None:
    handover = Handover()
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        taking = group.create_task(handover.take())
        await asyncio.sleep(0)
        await give(handover, WatchEvent(an_object("a"), False))
    assert len(taking.result()) == 1


async def test_a_full_room_holds_the_giver_and_loses_nothing() -> None:
    handover = Handover(capacity=10)
    many = [WatchEvent(an_object(str(n)), False) for n in range(1000)]
    taken: list[WatchEvent] = []
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        group.create_task(give(handover, *many))
        while len(taken) < len(many):
            assert len(handover) <= 10
            taken += await handover.take(limit=7)
    assert taken == many


async def test_an_object_that_waits_needs_no_more_room() -> None:
    handover = Handover(capacity=1)
    async with asyncio.timeout(PATIENCE):
        await give(handover, *(WatchEvent(an_object("a", n), False) for n in range(100)))
    assert [each.body["metadata"]["resourceVersion"] for each in await handover.take()] == ["99"]


async def test_a_giver_whose_loop_has_ended_is_forgotten() -> None:
    handover = Handover(capacity=1)

    async def give_up() -> None:
        await handover.put(an_object("a"), deleted=False)
        waiting = asyncio.create_task(handover.put(an_object("b"), deleted=False))
        await asyncio.sleep(0)
        waiting.cancel()

    await asyncio.to_thread(lambda: asyncio.run(give_up()))
    assert len(await handover.take()) == 1
