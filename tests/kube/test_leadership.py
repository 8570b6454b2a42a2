"""The Lease of operators in memory, with a simulated clock: two never work at the same time, whatever requests fail."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduledjob.kube.client.api_errors import (
    AlreadyExists,
    ApiConflict,
    ApiError,
    ApiUnavailable,
    Forbidden,
    Gone,
    NotFound,
)
from scheduledjob.kube.leadership import MARGIN, LeaseObject, MemoryLease, is_dead, start_time_of, this_process
from tests.simulation.loop import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator

LENGTH = 45.0


class Server:
    """A Lease in an API server, which refuses a write that names an old version."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.pod_events: list[tuple[int, dict[str, Any]]] = []
        """The events of a watch of Pods: the version, and the event."""
        self._version = 0

    def read(self) -> dict[str, Any]:
        if self.lease is None:
            raise NotFound(404, "NotFound", "there is none")
        return {"metadata": dict(self.lease["metadata"]), "spec": dict(self.lease["spec"])}

    def create(self, spec: dict[str, Any]) -> dict[str, Any]:
        if self.lease is not None:
            raise AlreadyExists(409, "AlreadyExists", "there is one")
        self._write(spec)
        return self.read()

    def change(self, version: str, spec: dict[str, Any]) -> dict[str, Any]:
        there = self.read()
        if there["metadata"]["resourceVersion"] != version:
            raise ApiConflict(409, "ApiConflict", "it changed")
        self._write({key: value for key, value in {**there["spec"], **spec}.items() if value is not None})
        return self.read()

    def add_pod_event(self, name: str, kind: str, **changes: Any) -> None:
        """Add an event about a Pod. Without ``changes``, the kubelet has seen it end."""
        self._version += 1
        ended = {"terminated": {"exitCode": 0, "reason": "Completed", "containerID": "containerd://1"}}
        changes = {"state": ended, "generateName": f"{name[:-1]}"} | changes
        metadata = {"name": name} | ({"generateName": made} if (made := changes["generateName"]) else {})
        states = [] if changes["state"] is None else [{"name": "operator", "state": changes["state"]}]
        event = {"type": kind, "object": {"metadata": metadata, "status": {"containerStatuses": states}}}
        self.pod_events.append((self._version, event))

    def _write(self, spec: dict[str, Any]) -> None:
        self._version += 1
        self.lease = {"metadata": {"resourceVersion": str(self._version)}, "spec": spec}


class Wire:
    """The connection of an operator to the server. ``plan`` says what happens to the next requests."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.away = False
        self.plan: list[tuple[float, str]] = []
        """(seconds, "ok" | "lost before" | "lost after") of the next requests. Later requests succeed at once."""
        self.watch_error: ApiError | None = None
        """The error of a watch of Pods."""

    async def get(self, _: str, *, attempts: int = 0) -> dict[str, Any]:
        return await self._do(self._server.read)

    async def post(self, _: str, body: dict[str, Any]) -> dict[str, Any]:
        return await self._do(lambda: self._server.create(body["spec"]))

    async def patch(self, _: str, body: dict[str, Any], *, attempts: int = 0) -> dict[str, Any]:
        return await self._do(lambda: self._server.change(body["metadata"]["resourceVersion"], body["spec"]))

    async def watch(self, path: str, params: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Yield events for ``timeoutSeconds``."""
        assert path == "/api/v1/namespaces/home/pods"
        if self.watch_error is not None:
            raise self.watch_error
        end = asyncio.get_running_loop().time() + params["timeoutSeconds"]
        position = 0
        while True:
            for version, event in self._server.pod_events[position:]:
                position += 1
                named = f"metadata.name={event['object']['metadata']['name']}" == params["fieldSelector"]
                if named and version > int(params["resourceVersion"]):
                    yield event
            if asyncio.get_running_loop().time() >= end:
                return
            await asyncio.sleep(0.25)

    async def _do(self, act: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        seconds, disposition = self.plan.pop(0) if self.plan else (0.0, "ok")
        await asyncio.sleep(seconds / 2)
        if self.away or disposition == "lost before":
            raise ApiUnavailable(0, "", "no answer")
        answer = act()
        await asyncio.sleep(seconds / 2)
        if disposition == "lost after":
            raise ApiUnavailable(0, "", "no answer")
        return answer


class World:
    def __init__(self) -> None:
        self.now = 1000.0
        self.loop = VirtualLoop(lambda: self.now)
        self.server = Server()
        self.checks: list[Callable[[], None]] = []
        """Functions to call after each step."""

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        self._ready()
        while (timer := self.loop.next_timer()) is not None and timer <= end:
            self.now = max(self.now, timer)
            self._ready()
        self.now = end

    def _ready(self) -> None:
        self.loop.run_ready()
        for check in self.checks:
            check()

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self.loop.create_task(work)

    def close(self) -> None:
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_ready()
        self.loop.close()


class Holder:
    """An operator: it works from when it has the Lease until it is fenced or releases the Lease."""

    def __init__(self, world: World, name: str, is_dead: Callable[[str], bool] = lambda _: False) -> None:
        self.world = world
        self.pod = name.rpartition("/")[0]
        self.wire = Wire(world.server)
        self.at_work = False
        self.fenced: str | None = None
        self.lease = MemoryLease(
            LeaseObject(self.wire, "home", "scheduledjob"),  # type: ignore[arg-type]  # it stands in for the client
            name,
            LENGTH,
            now=lambda: "2026-01-01T00:00:00.000000Z",
            fence=self._fence,
            is_dead=is_dead,
        )
        self.task: asyncio.Task[None] | None = None

    def works(self) -> bool:
        return self.at_work

    def _fence(self, why: str) -> None:
        self.at_work, self.fenced = False, why

    def begin(self) -> None:
        self.task = self.world.start(self._live())

    async def _live(self) -> None:
        await self.lease.acquire()
        self.at_work = True
        await self.lease.keep()

    def die(self) -> None:
        assert self.task is not None
        self.task.cancel()
        self.at_work = False

    def end(self) -> None:
        self.die()
        self.world.start(self.lease.release())


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    world = World()
    monkeypatch.setattr("scheduledjob.kube.leadership.boot_seconds", lambda: world.now)
    yield world
    world.close()
    assert world.loop.failures == []


def test_the_first_operator_acquires_the_lease_and_keeps_it(world: World) -> None:
    first = Holder(world, "first")
    first.begin()
    world.run(10 * LENGTH)
    assert first.works()
    assert not first.lease.released_cleanly, "no operator released it"
    assert world.server.read()["spec"]["holderIdentity"] == "first"
    assert world.server.read()["spec"]["leaseDurationSeconds"] == LENGTH


def test_the_second_operator_waits_until_the_first_ends(world: World) -> None:
    first, second = Holder(world, "first"), Holder(world, "second")
    first.begin()
    world.run(1)
    second.begin()
    world.run(10 * LENGTH)
    assert (first.works(), second.works()) == (True, False)
    assert second.lease.other_holder == "first"
    first.end()
    world.run(2)
    assert second.works()
    assert second.lease.released_cleanly
    assert second.lease.other_holder == ""


def test_a_dead_holder_keeps_the_lease_for_its_whole_duration(world: World) -> None:
    first, second = Holder(world, "first"), Holder(world, "second")
    first.begin()
    world.run(LENGTH)
    first.die()
    second.begin()
    world.run(LENGTH - 1)
    assert not second.works()
    world.run(3)
    assert second.works()
    assert not second.lease.released_cleanly


def test_nobody_waits_for_a_process_that_is_known_to_be_dead(world: World) -> None:
    first, second = Holder(world, "first"), Holder(world, "second", is_dead=lambda holder: holder == "first")
    first.begin()
    world.run(1)
    first.die()
    second.begin()
    world.run(0)
    assert second.works()
    assert not second.lease.released_cleanly


POD, ANOTHER = "operator-7d9f-x2x4x", "operator-7d9f-5k5k5"
UNKNOWN = {"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown", "containerID": "containerd://1"}}
UNSEEN = {"terminated": {"exitCode": 137, "reason": "Error"}}


@pytest.mark.parametrize("waiting", [True, False])
def test_nobody_waits_for_a_holder_whose_pod_the_kubelet_has_ended(world: World, waiting: bool) -> None:
    first, second = Holder(world, f"{POD}/1.1"), Holder(world, f"{ANOTHER}/1.1")
    first.begin()
    world.run(1)
    if waiting:
        second.begin()
        world.run(LENGTH / 2)
        assert not second.works()
    first.die()
    world.server.add_pod_event(POD, "DELETED")
    if not waiting:  # nobody watched
        world.run(1)
        second.begin()
    world.run(3)
    assert second.works()
    assert not second.lease.released_cleanly, "its last statuses may be missing"


def test_nor_does_an_operator_with_another_store_wait_for_it(world: World) -> None:
    first, other = Holder(world, f"{POD}/1.1"), Holder(world, f"{ANOTHER}/1.1")
    first.begin()
    world.run(1)
    waiting = world.start(other.lease.wait_until_free())
    world.run(1)
    assert not waiting.done()
    first.die()
    world.server.add_pod_event(POD, "DELETED")
    world.run(3)
    assert waiting.done()


def test_only_one_operator_takes_over_from_an_ended_pod(world: World) -> None:
    """Two operators see it end. Only one of them may start, and an operator with another store waits for that one."""
    first, second, other = (Holder(world, f"{name}/1.1") for name in (POD, ANOTHER, "operator-7d9f-z7z7z"))
    first.begin()
    world.run(1)
    other.wire.plan = [(0.0, "ok"), (1.0, "ok")]
    waiting = world.start(other.lease.wait_until_free())
    second.begin()
    world.run(0.5)
    first.die()
    world.server.add_pod_event(POD, "DELETED")
    world.run(LENGTH * 2)
    assert second.works()
    assert not waiting.done()


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        pytest.param("DELETED", {"state": {"running": {}}}, id="deleted by force"),
        pytest.param("DELETED", {"state": UNKNOWN}, id="a container that was not found"),
        pytest.param("DELETED", {"state": UNSEEN}, id="a container that nobody has seen"),
        pytest.param("DELETED", {"state": None}, id="no container at all"),
        pytest.param("DELETED", {"generateName": ""}, id="a name that others may have had"),
        pytest.param("MODIFIED", {}, id="a container that may be started again"),
    ],
)
def test_the_absence_of_a_pod_does_not_prove_its_end(world: World, kind: str, changes: dict[str, Any]) -> None:
    first, second = Holder(world, f"{POD}/1.1"), Holder(world, f"{ANOTHER}/1.1")
    first.begin()
    world.run(1)
    second.begin()
    world.run(1)
    world.server.add_pod_event(POD, kind, **changes)
    world.run(10 * LENGTH)
    assert (first.works(), second.works()) == (True, False)


@pytest.mark.parametrize("refusal", [Forbidden(403, "Forbidden", "no"), Gone(410, "Expired", "too old")])
def test_an_operator_that_may_not_watch_pods_waits(world: World, refusal: ApiError) -> None:
    first, second = Holder(world, f"{POD}/1.1"), Holder(world, f"{ANOTHER}/1.1")
    second.wire.watch_error = refusal
    first.begin()
    world.run(1)
    first.die()
    world.server.add_pod_event(POD, "DELETED")
    second.begin()
    world.run(LENGTH - 1)
    assert not second.works()
    world.run(3)
    assert second.works()


def test_the_end_of_a_pod_before_it_held_the_lease_proves_nothing(world: World) -> None:
    world.server.add_pod_event(POD, "DELETED")
    first, second = Holder(world, f"{POD}/1.1"), Holder(world, f"{ANOTHER}/1.1")
    first.begin()
    world.run(1)
    second.begin()
    world.run(10 * LENGTH)
    assert (first.works(), second.works()) == (True, False)


def test_a_holder_that_cannot_renew_ends_before_another_may_start(world: World) -> None:
    first, second = Holder(world, "first"), Holder(world, "second")
    first.begin()
    world.run(LENGTH + 1)
    second.begin()
    first.wire.away = True
    world.run(LENGTH * (1 - MARGIN) + 2)
    assert first.fenced is not None
    assert "could not be renewed" in first.fenced
    assert not second.works()
    world.run(LENGTH)
    assert second.works()


def test_a_short_outage_does_not_end_the_holder(world: World) -> None:
    first = Holder(world, "first")
    first.begin()
    world.run(LENGTH / 3 - 1)
    first.wire.away = True
    world.run(LENGTH / 3)
    first.wire.away = False
    world.run(10 * LENGTH)
    assert first.works()


def test_a_holder_whose_lease_was_taken_ends_at_its_next_renewal(world: World) -> None:
    first = Holder(world, "first")
    first.begin()
    world.run(1)
    world.server.change(world.server.read()["metadata"]["resourceVersion"], {"holderIdentity": "thief"})
    world.run(LENGTH / 3)
    assert first.fenced is not None
    assert "somebody else" in first.fenced


@pytest.mark.parametrize("when", ["renewal", "release"])
def test_a_lost_answer_does_not_lose_the_lease(world: World, when: str) -> None:
    first = Holder(world, "first")
    first.begin()
    world.run(1)
    first.wire.plan = [(0.0, "lost after")]
    world.run(LENGTH / 3)
    if when == "renewal":
        world.run(5 * LENGTH)
        assert first.works()
    else:
        # The answer to a renewal came too late for the version to be known.
        first.end()
        world.run(1)
        assert world.server.read()["spec"]["holderIdentity"] == ""


def test_an_outage_delays_the_acquisition(world: World) -> None:
    first = Holder(world, "first")
    first.wire.plan = [(0.0, "ok"), (0.0, "lost before"), (0.0, "lost before"), (0.0, "ok"), (0.0, "lost after")]
    first.begin()
    world.run(10)
    assert first.works()


def test_an_operator_with_another_store_waits_but_does_not_acquire(world: World) -> None:
    first, other = Holder(world, "first"), Holder(world, "other")
    world.start(other.lease.wait_until_free())
    world.run(0)
    clean = [other.lease.released_cleanly]
    first.begin()
    world.run(1)
    waiting = world.start(other.lease.wait_until_free())
    world.run(3 * LENGTH)
    assert other.lease.other_holder == "first"
    first.end()
    world.run(2)
    assert waiting.done()
    clean.append(other.lease.released_cleanly)
    assert clean == [False, True]
    assert world.server.read()["spec"]["holderIdentity"] == ""


def test_a_clean_release_counts_until_another_store_has_read_status(world: World) -> None:
    """Each of several replicas may trust status, but none may after the first has written everything to the store."""
    first, *others, later = (Holder(world, name) for name in ("first", "second", "third", "later"))
    first.begin()
    world.run(1)
    first.end()
    world.run(1)  # before the others begin
    for other in others:
        world.start(other.lease.wait_until_free())
    world.run(1)
    assert [other.lease.released_cleanly for other in others] == [True, True]
    others[0].wire.plan = [(0.0, "lost before"), (0.0, "lost after"), (0.0, "ok")]
    for other in others:
        world.start(other.lease.clear_release())
        world.run(5)
    assert [other.lease.released_cleanly for other in others] == [False, False]
    world.start(later.lease.wait_until_free())
    world.run(1)
    assert not later.lease.released_cleanly
    later.begin()
    world.run(1)
    assert later.works()
    assert not later.lease.released_cleanly, "a later operator may have crashed"


def test_clearing_the_release_does_not_disturb_a_new_holder(world: World) -> None:
    first, other, next_one = (Holder(world, name) for name in ("first", "other", "next"))
    first.begin()
    world.run(1)
    first.end()
    world.run(1)
    world.start(other.lease.wait_until_free())
    world.run(1)
    next_one.begin()
    world.run(1)
    world.start(other.lease.clear_release())
    world.run(3 * LENGTH)
    assert next_one.works()
    assert next_one.lease.released_cleanly


_REQUEST_ENDS = st.tuples(st.floats(0, 40), st.sampled_from(["ok", "ok", "lost before", "lost after"]))


@settings(max_examples=150)
@given(
    plans=st.lists(st.lists(_REQUEST_ENDS, max_size=12), min_size=2, max_size=3),
    requests=st.lists(
        st.tuples(
            st.floats(0, 60), st.integers(0, 2), st.sampled_from(["die", "seen to die", "forced", "end", "begin"])
        ),
        max_size=8,
    ),
)
def test_two_operators_never_work_at_the_same_time(
    plans: list[list[tuple[float, str]]], requests: list[tuple[float, int, str]]
) -> None:
    world = World()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scheduledjob.kube.leadership.boot_seconds", lambda: world.now)
        holders = [Holder(world, f"pod-{number}/1.1") for number in range(len(plans))]
        most = [0]

        def check() -> None:
            most[0] = max(most[0], sum(holder.works() for holder in holders))

        world.checks.append(check)
        for holder, plan in zip(holders, plans, strict=True):
            holder.wire.plan = list(plan)
            holder.begin()
        for life, (seconds, number, act) in enumerate(requests):
            world.run(seconds)
            number %= len(holders)
            holder = holders[number]
            if act == "begin":
                if holder.task is not None and holder.task.done() and not holder.works():
                    # Another process, in another Pod, on the same bad line.
                    wire, holders[number] = holder.wire, Holder(world, f"pod-{number}-{life}/1.1")
                    holders[number].wire.plan = wire.plan
                    holders[number].begin()
            elif holder.works():
                if act == "forced":  # its Pod is gone, and it works
                    world.server.add_pod_event(holder.pod, "DELETED", state={"running": {}})
                else:
                    holder.end() if act == "end" else holder.die()
                if act == "seen to die":
                    world.server.add_pod_event(holder.pod, "DELETED")
        world.run(20 * LENGTH)
        alive = [holder for holder in holders if holder.task is not None and not holder.task.done()]
        working = sum(holder.works() for holder in holders)
        world.close()
    assert most[0] <= 1
    assert working == min(1, len(alive))


def test_the_name_of_a_process_shows_whether_it_has_ended() -> None:
    name = this_process()
    assert name == this_process()
    assert name.startswith(f"{socket.gethostname()}/{os.getpid()}.")
    assert not is_dead(name)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        of_child = start_time_of(child.pid)
        holder = f"{socket.gethostname()}/{child.pid}.{of_child}"
        assert not is_dead(holder)
        # Another process has its pid now: it started at another time.
        assert is_dead(f"{socket.gethostname()}/{child.pid}.{int(of_child) - 1}")
    assert is_dead(holder)


@pytest.mark.parametrize("holder", ["", "elsewhere/1.1", "somebody-else", f"{socket.gethostname()}/x.1"])
def test_holders_of_other_hosts_may_be_alive(holder: str) -> None:
    assert not is_dead(holder)
