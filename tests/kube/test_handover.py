"""The queue from the watching thread to the event loop, with two real threads and two real event loops."""

from __future__ import annotations

import asyncio
from typing import Any

from scheduledjob.kube.watch.handover import Handover, WatchEvent

PATIENCE = 60.0


def an_object(uid: str, version: int = 1) -> dict[str, Any]:
    return {"metadata": {"uid": uid, "resourceVersion": str(version)}}


async def put_all(handover: Handover, *events: WatchEvent) -> None:
    """Put events from the event loop of another thread, as the watch does."""

    async def put_each() -> None:
        for body, deleted in events:
            await handover.put(body, deleted=deleted)

    await asyncio.to_thread(lambda: asyncio.run(put_each()))


async def test_the_newest_version_keeps_its_place_in_the_queue() -> None:
    handover = Handover()
    first, other, newest = (
        WatchEvent(an_object("a"), False),
        WatchEvent(an_object("b"), False),
        WatchEvent(an_object("a", 2), False),
    )
    await put_all(handover, first, other, newest)
    assert await handover.take() == [newest, other]


async def test_a_deletion_is_final() -> None:
    handover = Handover()
    gone = WatchEvent(an_object("a", 3), True)
    await put_all(handover, WatchEvent(an_object("a"), False), gone, WatchEvent(an_object("a", 2), False))
    assert await handover.take() == [gone]


async def test_a_waiting_consumer_is_woken() -> None:
    handover = Handover()
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        taking = group.create_task(handover.take())
        await asyncio.sleep(0)
        await put_all(handover, WatchEvent(an_object("a"), False))
    assert len(taking.result()) == 1


async def test_a_full_queue_blocks_the_producer_and_loses_nothing() -> None:
    handover = Handover(capacity=10)
    many = [WatchEvent(an_object(str(n)), False) for n in range(1000)]
    taken: list[WatchEvent] = []
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        group.create_task(put_all(handover, *many))
        while len(taken) < len(many):
            assert len(handover) <= 10
            taken += await handover.take(limit=7)
    assert taken == many


async def test_a_queued_object_needs_no_more_room() -> None:
    handover = Handover(capacity=1)
    async with asyncio.timeout(PATIENCE):
        await put_all(handover, *(WatchEvent(an_object("a", n), False) for n in range(100)))
    assert [event.body["metadata"]["resourceVersion"] for event in await handover.take()] == ["99"]


async def test_a_producer_whose_loop_has_ended_is_forgotten() -> None:
    handover = Handover(capacity=1)

    async def give_up() -> None:
        await handover.put(an_object("a"), deleted=False)
        waiting = asyncio.create_task(handover.put(an_object("b"), deleted=False))
        await asyncio.sleep(0)
        waiting.cancel()

    await asyncio.to_thread(lambda: asyncio.run(give_up()))
    assert len(await handover.take()) == 1
