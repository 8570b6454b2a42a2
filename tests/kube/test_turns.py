"""Status and Events: the many objects of one namespace do not keep another's waiting."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from scheduledjob.engine.turns import Turns
from scheduledjob.kube.client.budget import Budget
from scheduledjob.kube.report.events import MAX_PENDING, EventRecorder, Reason, Regarding
from scheduledjob.kube.report.status_queue import StatusQueue

if TYPE_CHECKING:
    from scheduledjob.kube.client.api import Api


class EventsApi:
    """Accepts Events, and remembers the namespaces that they belong to."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.came = asyncio.Event()

    async def post(self, _: str, body: dict[str, Any], **__: object) -> dict[str, Any]:
        self.written.append(body["metadata"]["namespace"])
        self.came.set()
        return {"metadata": {"resourceVersion": "1"}}


def test_groups_take_turns() -> None:
    turns: Turns[str] = Turns()
    for group, item in (("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1")):
        turns.put(group, item)
    assert [turns.take() for _ in range(2)] == ["a1", "b1"]
    turns.put("c", "c1")
    assert [turns.take() for _ in range(3)] == ["a2", "c1", "a3"]
    assert not turns


async def test_the_status_of_a_lone_object_comes_after_one_of_a_busy_namespace() -> None:
    queue = StatusQueue(lambda uid: uid.partition("-")[0])
    for number in range(100):
        queue.changed(f"busy-{number}", 0.0)
    queue.changed("lone-1", 0.0)
    taken = [await queue.take() for _ in range(3)]
    assert taken == ["busy-0", "lone-1", "busy-1"]


async def test_an_object_that_was_forgotten_or_taken_is_not_taken_again() -> None:
    queue = StatusQueue()
    for uid in ("a", "b", "c"):
        queue.changed(uid, 0.0)
    assert await queue.take() == "a"
    queue.forget("b")
    queue.changed("b", 3600.0)
    assert await queue.take() == "c"
    assert len(queue) == 3
    queue.hurry()
    assert await queue.take() == "b"
    queue.done("a")
    queue.changed("a", 0.0)
    assert await queue.take() == "a"


async def test_events_of_a_busy_namespace_leave_room_and_turns_to_others() -> None:
    api = EventsApi()
    events = EventRecorder(cast("Api", api), Budget(1e6), instance="replica", now=lambda: 0)
    for number in range(2 * MAX_PENDING):
        events.record(Regarding("busy", "job", f"uid-{number}"), "Warning", Reason.FAILED, "exit code 1", "Run")
    assert events.dropped == 2 * MAX_PENDING - MAX_PENDING // 2
    events.record(Regarding("quiet", "job", "uid"), "Warning", Reason.FAILED, "exit code 1", "Run")
    running = asyncio.create_task(events.run())
    while len(api.written) < 3:
        await api.came.wait()
        api.came.clear()
    running.cancel()
    assert api.written[:3] == ["busy", "quiet", "busy"]
