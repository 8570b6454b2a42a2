"""The status writer when the status of an object can't be written, with a real store in memory."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from scheduledjob.domain.schedule.requests import NO_REQUESTS
from scheduledjob.domain.schedule.state import Run, State
from scheduledjob.domain.time.instants import SECOND, rfc3339
from scheduledjob.engine.kinds import JobKind
from scheduledjob.engine.stored_row import NewRow, Origin
from scheduledjob.kube.client.api_errors import ApiError, ApiUnavailable, Invalid, Unauthorized
from scheduledjob.kube.client.budget import Budget
from scheduledjob.kube.reconcile.desired_state import KIND_INVALID
from scheduledjob.kube.reconcile.known_objects import KnownObjects
from scheduledjob.kube.report import status_writer
from scheduledjob.kube.report.status_queue import StatusQueue
from scheduledjob.kube.report.status_writer import StatusReader, StatusWriter
from scheduledjob.stores.memory import MemoryStore
from tests.engine.support import Jobs, single_slot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

NOW = 1_796_119_200 * SECOND
PATIENCE = 60.0
FINE, STRANGE = b'{"floor":1}', b'{"floor":"what a later version may write"}'
NONSENSE = b'{"floor":1,"last_success":99999999999999999999}'


INVALID = Invalid(422, "Invalid", "status: invalid")
TOO_LARGE = ApiUnavailable(500, "", "etcdserver: request is too large")


class Writes:
    """Stands in for the client, and refuses the objects that the test names."""

    def __init__(self, *, refused: str = "", refusal: ApiError = INVALID, away: str = "", forbidden: str = "") -> None:
        self._refused, self._away, self._forbidden = refused, away, forbidden
        self._refusal = refusal
        self.meanwhile: Callable[[], object] = bool
        self.written: asyncio.Queue[str] = asyncio.Queue()
        self.statuses: dict[str, dict[str, Any]] = {}
        """The newest status, by name."""

    async def patch(self, path: str, body: Mapping[str, Any], *_: object, **__: object) -> dict[str, Any]:
        name = path.split("/")[-2]
        self.written.put_nowait(name)
        self.meanwhile()
        if name == self._refused:
            raise self._refusal
        if name == self._forbidden:
            raise Unauthorized(401, "Unauthorized", "Unauthorized")
        if name == self._away:
            raise ApiUnavailable(0, "", "no answer")
        self.statuses[name] = body["status"]
        return an_object(name) | {"status": body["status"]}


def an_object(name: str) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "ns", "name": name, "uid": f"uid-{name}", "generation": 1, "resourceVersion": "7"}
    }


@asynccontextmanager
async def writing(
    writes: Writes,
    states: Mapping[str, bytes],
    objects: KnownObjects | None = None,
    begun: dict[str, str] | None = None,
) -> AsyncIterator[tuple[StatusWriter, StatusQueue]]:
    """Run a writer for objects with these names and states."""
    store, objects = MemoryStore(), KnownObjects() if objects is None else objects
    definition = single_slot(NOW, kind=KIND_INVALID, job={"problem": "none"}).encode()
    rows = [
        NewRow(
            f"ns/{name}", f"uid-{name}", KIND_INVALID, Origin.CLUSTER, definition, state, None,
            created_at=NOW, generation=1, requests=NO_REQUESTS.encode(),
        )
        for name, state in states.items()
    ]  # fmt: skip
    await store.reconcile(rows)
    for name in states:
        objects.update(an_object(name))
    kinds = {KIND_INVALID: JobKind(KIND_INVALID, Jobs())}
    queue, reader = StatusQueue(), StatusReader(store, kinds, lambda: NOW, lambda _: begun or {})
    api: Any = writes  # stands in for the client
    writer = StatusWriter(api, objects, Budget(1000.0), queue, reader, on_written=lambda *_: None)
    async with asyncio.timeout(PATIENCE):
        working = asyncio.create_task(writer.run())
        try:
            yield writer, queue
            assert not working.done()
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)


async def rounds() -> None:
    """Let the event loop run until everything that has begun can end."""
    for _ in range(50):
        await asyncio.sleep(0)


@pytest.mark.parametrize("state", [STRANGE, NONSENSE])
async def test_an_unreadable_state_does_not_block_other_objects(state: bytes) -> None:
    writes = Writes()
    async with writing(writes, {"strange": state, "fine": FINE}) as (writer, queue):
        queue.changed("uid-strange", 0.0)
        await rounds()
        queue.changed("uid-fine", 0.0)
        assert await writes.written.get() == "fine"
        assert not await writer.flush()


async def test_the_start_of_a_run_is_written_by_its_replica_and_kept_by_others() -> None:
    writes, objects = Writes(), KnownObjects()
    state = State(NOW, runs=[Run(NOW, NOW)]).encode()
    started, name = rfc3339(NOW), f"uid-fine-{NOW}"
    async with writing(writes, {"fine": state}, objects, {name: started}) as (writer, queue):
        queue.changed("uid-fine")
        assert await writer.flush()
        assert [run["started"] for run in writes.statuses["fine"]["active"]] == [started]
    elsewhere = Writes()
    objects.update(an_object("fine") | {"status": writes.statuses["fine"]})
    async with writing(elsewhere, {"fine": state}, objects) as (writer, queue):
        assert objects.update(an_object("fine") | {"status": writes.statuses["fine"]}).begun == {name: started}
        queue.changed("uid-fine")
        assert await writer.flush()
        assert elsewhere.statuses["fine"]["active"] == writes.statuses["fine"]["active"]


@pytest.mark.parametrize("refusal", [INVALID, TOO_LARGE])
async def test_a_flush_does_not_wait_for_a_refused_status(refusal: ApiError) -> None:
    writes = Writes(refused="refused", refusal=refusal)
    async with writing(writes, {"refused": FINE, "fine": FINE}) as (writer, queue):
        queue.changed("uid-refused")
        queue.changed("uid-fine")
        assert not await writer.flush()
        assert writes.written.qsize() == 2


@pytest.mark.parametrize("seconds", [0.0, PATIENCE])
async def test_a_flush_does_not_wait_for_lost_permissions(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(status_writer, "FORBIDDEN_TIMEOUT", seconds)
    writes = Writes(forbidden="a")
    async with writing(writes, {"a": FINE, "fine": FINE}) as (writer, queue):
        queue.changed("uid-a")
        queue.changed("uid-fine")
        flushing = asyncio.create_task(writer.flush())
        if not seconds:
            assert not await flushing
            return
        await writes.written.get()
        await rounds()
        assert writer.waiting == 1, "an API server that restarts may first refuse what it allows"
        flushing.cancel()


async def test_a_flush_writes_every_status() -> None:
    async with writing(Writes(), {"a": FINE, "b": FINE}) as (writer, queue):
        queue.changed("uid-a", 1000.0)
        queue.changed("uid-b", 1000.0)
        assert await writer.flush()
        assert not writer.waiting


async def test_a_flush_does_not_wait_for_a_deleted_object() -> None:
    writes = Writes(away="a")
    async with writing(writes, {"a": FINE}) as (writer, queue):
        queue.changed("uid-a")
        flushing = asyncio.create_task(writer.flush())
        await writes.written.get()
        await rounds()
        assert writer.waiting == 1
        queue.forget("uid-a")
        assert await flushing


async def test_an_object_deleted_during_its_write_stays_forgotten() -> None:
    writes, objects = Writes(), KnownObjects()
    writes.meanwhile = lambda: objects.remove(["uid-a"])
    async with writing(writes, {"a": FINE}, objects) as (writer, queue):
        queue.changed("uid-a")
        await writer.flush()
        assert len(objects) == 0


async def test_a_status_is_written_again_when_its_next_run_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long run is active, and nothing changes in the store when the next slot is skipped."""
    monkeypatch.setattr(status_writer, "REFRESH_INTERVAL", 0.0)
    reader = StatusReader(MemoryStore(), {}, lambda: NOW, lambda _: {})
    at = {"nextRunTime": rfc3339(NOW + 5 * SECOND)}
    assert reader.stale_after({**at, "activeCount": 1}) == 5.0
    assert reader.stale_after({"nextRunTime": rfc3339(NOW - SECOND), "activeCount": 1}) == 0.0
    assert reader.stale_after({**at, "activeCount": 0}) is None
    assert reader.stale_after({"activeCount": 1, "nextRunTime": None}) is None
    monkeypatch.setattr(StatusReader, "stale_after", lambda reader, status: 0.0)
    writes = Writes()
    async with writing(writes, {"fine": FINE}) as (writer, queue):
        queue.changed("uid-fine", 0.0)
        for _ in range(3):
            assert await writes.written.get() == "fine"
        assert await writer.flush(), "it ends although there is always a next write"


async def test_the_status_of_a_due_row_that_no_replica_has_room_for_says_its_position() -> None:
    store, objects = MemoryStore(), KnownObjects()
    definition = single_slot(NOW, kind=KIND_INVALID, job={"problem": "none"}).encode()
    await store.reconcile(
        [
            NewRow(
                f"ns/{name}", f"uid-{name}", KIND_INVALID, Origin.CLUSTER, definition,
                State(NOW, runs=[Run(NOW, NOW)]).encode(), NOW + number, created_at=NOW, generation=1,
            )
            for number, name in enumerate(("first", "second"))
        ]
    )  # fmt: skip
    kinds = {KIND_INVALID: JobKind(KIND_INVALID, Jobs())}
    for later, expected in ((SECOND, None), (3600 * SECOND, "waiting for capacity, position 2")):
        reader = StatusReader(store, kinds, partial(int, NOW + later), lambda _: {})
        found = await reader.read(objects.update(an_object("second")))
        assert found is not None
        assert (found[0]["nextRun"] == expected) is (expected is not None)
