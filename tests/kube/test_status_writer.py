"""What the writer of status does where one of many objects can't be told of; the store is real, and in memory."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from scheduledjob.domain.schedule.requests import NONE
from scheduledjob.domain.schedule.state import Run, State
from scheduledjob.domain.time.instants import SECOND, rfc3339
from scheduledjob.engine.kinds import JobKind
from scheduledjob.engine.store import NewRow, Origin
from scheduledjob.kube.client.api_errors import ApiError, ApiUnavailable, Invalid, Unauthorized
from scheduledjob.kube.client.budget import Budget
from scheduledjob.kube.reconcile.desired_state import KIND_INVALID
from scheduledjob.kube.reconcile.known_objects import KnownObjects
from scheduledjob.kube.report import status_writer
from scheduledjob.kube.report.status_queue import StatusQueue
from scheduledjob.kube.report.status_writer import StatusReader, StatusWriter
from scheduledjob.stores.memory import MemoryStore
from tests.engine.support import Jobs, at_once

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

NOW = 1_796_119_200 * SECOND
PATIENCE = 30.0
FINE, STRANGE = b'{"floor":1}', b'{"floor":"what a later version may write"}'
NONSENSE = b'{"floor":1,"last_success":99999999999999999999}'


WILL_NOT_DO = Invalid(422, "Invalid", "status: this will not do")
TOO_LARGE = ApiUnavailable(500, "", "etcdserver: request is too large")


class Writes:
    """Takes what is written, in place of a client; the test says of which objects it will not have it."""

    def __init__(
        self, *, refused: str = "", refusal: ApiError = WILL_NOT_DO, away: str = "", without_rights: str = ""
    ) -> None:
        self._refused, self._away, self._without_rights = refused, away, without_rights
        self._refusal = refusal
        self.meanwhile: Callable[[], object] = bool
        self.written: asyncio.Queue[str] = asyncio.Queue()
        self.statuses: dict[str, dict[str, Any]] = {}
        """By name: the newest."""

    async def patch(self, path: str, body: Mapping[str, Any], *_: object, **__: object) -> dict[str, Any]:
        name = path.split("/")[-2]
        self.written.put_nowait(name)
        self.meanwhile()
        if name == self._refused:
            raise self._refusal
        if name == self._without_rights:
            raise Unauthorized(401, "Unauthorized", "Unauthorized")
        if name == self._away:
            raise ApiUnavailable(0, "", "nobody answers")
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
    """A writer at work, for objects of these names, whose rows have these states."""
    store, objects = MemoryStore(), KnownObjects() if objects is None else objects
    definition = at_once(NOW, kind=KIND_INVALID, job={"problem": "none"}).encode()
    rows = [
        NewRow(
            f"ns/{name}", f"uid-{name}", KIND_INVALID, Origin.CLUSTER, definition, state, None,
            created_at=NOW, generation=1, requests=NONE.encode(),
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
    """As many of the event loop as what was begun may take to its end."""
    for _ in range(50):
        await asyncio.sleep(0)


@pytest.mark.parametrize("state", [STRANGE, NONSENSE])
async def test_a_state_that_can_t_be_told_is_in_nobodys_way(state: bytes) -> None:
    writes = Writes()
    async with writing(writes, {"strange": state, "fine": FINE}) as (writer, queue):
        queue.changed("uid-strange", 0.0)
        await rounds()
        queue.changed("uid-fine", 0.0)
        assert await writes.written.get() == "fine"
        assert not await writer.flush()


async def test_when_a_run_started_is_told_by_who_knows_and_kept_by_who_does_not() -> None:
    writes, objects = Writes(), KnownObjects()
    state = State(NOW, runs=[Run(NOW, NOW)]).encode()
    started, name = rfc3339(NOW), f"uid-fine-{NOW}"
    async with writing(writes, {"fine": state}, objects, {name: started}) as (writer, queue):
        queue.changed("uid-fine")
        assert await writer.flush()
        assert [one["started"] for one in writes.statuses["fine"]["active"]] == [started]
    elsewhere = Writes()
    objects.update(an_object("fine") | {"status": writes.statuses["fine"]})
    async with writing(elsewhere, {"fine": state}, objects) as (writer, queue):
        assert objects.update(an_object("fine") | {"status": writes.statuses["fine"]}).begun == {name: started}
        queue.changed("uid-fine")
        assert await writer.flush()
        assert elsewhere.statuses["fine"]["active"] == writes.statuses["fine"]["active"]


@pytest.mark.parametrize("refusal", [WILL_NOT_DO, TOO_LARGE])
async def test_at_the_end_what_is_refused_is_not_waited_for(refusal: ApiError) -> None:
    writes = Writes(refused="refused", refusal=refusal)
    async with writing(writes, {"refused": FINE, "fine": FINE}) as (writer, queue):
        queue.changed("uid-refused")
        queue.changed("uid-fine")
        assert not await writer.flush()
        assert writes.written.qsize() == 2


@pytest.mark.parametrize("seconds", [0.0, PATIENCE])
async def test_at_the_end_rights_that_were_taken_are_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(status_writer, "FORBIDDEN_TIMEOUT", seconds)
    writes = Writes(without_rights="a")
    async with writing(writes, {"a": FINE, "fine": FINE}) as (writer, queue):
        queue.changed("uid-a")
        queue.changed("uid-fine")
        flushing = asyncio.create_task(writer.flush())
        if not seconds:
            assert not await flushing
            return
        await writes.written.get()
        await rounds()
        assert writer.waiting == 1, "an API server that comes back may refuse what it will allow"
        flushing.cancel()


async def test_at_the_end_all_is_told() -> None:
    async with writing(Writes(), {"a": FINE, "b": FINE}) as (writer, queue):
        queue.changed("uid-a", 1000.0)
        queue.changed("uid-b", 1000.0)
        assert await writer.flush()
        assert not writer.waiting


async def test_at_the_end_what_goes_is_not_waited_for() -> None:
    writes = Writes(away="a")
    async with writing(writes, {"a": FINE}) as (writer, queue):
        queue.changed("uid-a")
        flushing = asyncio.create_task(writer.flush())
        await writes.written.get()
        await rounds()
        assert writer.waiting == 1
        queue.forget("uid-a")
        assert await flushing


async def test_what_goes_while_it_is_written_stays_gone() -> None:
    writes, objects = Writes(), KnownObjects()
    writes.meanwhile = lambda: objects.remove(["uid-a"])
    async with writing(writes, {"a": FINE}, objects) as (writer, queue):
        queue.changed("uid-a")
        await writer.flush()
        assert len(objects) == 0
