"""The time that a shutdown takes if nothing answers: the sum of the limits of its phases."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from scheduledjob.engine.replica_settings import ReplicaSettings
from scheduledjob.engine.shutdown import Services, shut_down, shutdown_limit
from tests.simulation.world import Machine, World

if TYPE_CHECKING:
    from scheduledjob.engine.claimer import Claimer
    from scheduledjob.engine.ownership import Ownership
    from scheduledjob.engine.replica_settings import ReplicaContext


async def never(*_: Any) -> None:
    await asyncio.Event().wait()


def nothing() -> None: ...


async def test_followers_are_notified_of_the_last_runs_before_the_replica_withdraws() -> None:
    done: list[str] = []
    written = asyncio.Event()

    async def until_closed(what: str, closed: asyncio.Event) -> None:
        await closed.wait()
        await asyncio.sleep(0)
        done.append(what)

    async def withdraw(replica: str) -> None:
        done.append("withdrawn")

    async def emptied() -> None: ...

    told = asyncio.Event()
    ownership = SimpleNamespace(
        drain=nothing,
        emptied=emptied,
        stop_attempts=nothing,
        close=written.set,
        upstreams=SimpleNamespace(close=told.set),
    )
    context = SimpleNamespace(settings=ReplicaSettings(), store=SimpleNamespace(withdraw=withdraw), replica="me")
    async with asyncio.TaskGroup() as tasks:
        claiming = tasks.create_task(emptied())
        writing = tasks.create_task(until_closed("written", written))
        following = tasks.create_task(until_closed("followers notified", told))
        await shut_down(
            cast("ReplicaContext", context),
            cast("Claimer", SimpleNamespace(stop=nothing)),
            cast("Ownership", ownership),
            Services(claiming, writing, following, []),
        )
    assert done == ["written", "followers notified", "withdrawn"]


@pytest.mark.parametrize("grace", [0.0, 6.0])
def test_a_shutdown_in_which_nothing_answers_takes_exactly_its_limit(grace: float) -> None:
    world = World(1)
    machine = Machine("m", 0.0, 1.0, world)
    world.machines.append(machine)
    context = SimpleNamespace(
        settings=ReplicaSettings(grace=grace), store=SimpleNamespace(withdraw=never), replica="me"
    )
    ownership = SimpleNamespace(
        drain=nothing,
        emptied=never,
        stop_attempts=nothing,
        close=nothing,
        upstreams=SimpleNamespace(close=nothing),
    )
    ended_at: list[float] = []

    async def run() -> None:
        claiming, writing, following, listening = (asyncio.ensure_future(never()) for _ in range(4))
        await shut_down(
            cast("ReplicaContext", context),
            cast("Claimer", SimpleNamespace(stop=nothing)),
            cast("Ownership", ownership),
            Services(claiming, writing, following, [listening]),
        )
        ended_at.append(world.now)
        await asyncio.wait([claiming, writing, following, listening])

    task = machine.loop.create_task(run())
    world.run_until(shutdown_limit(grace) + 10.0)
    task.result()
    machine.loop.close()
    assert ended_at == [pytest.approx(shutdown_limit(grace), abs=0.001)]
