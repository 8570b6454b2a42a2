"""Creations whose answer is late or never comes: what follows depends on whether the Pod exists.

The test decides when an answer comes, which no real API server allows. The rest is tested in tests/cluster.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from scheduledjob.engine.executor import CANCELLED, RELEASED
from scheduledjob.jobs.container import pod_limits, pod_retrying
from scheduledjob.jobs.container.pod_builder import build_pod
from scheduledjob.jobs.container.pod_executor import PodExecutor
from scheduledjob.jobs.container.pod_spec import PodSettings
from scheduledjob.jobs.container.pods_protocol import PodExists, PodRefused, PodsUnavailable, SecretVersion
from tests.jobs.container.pod_support import UID, attempt, container

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DONE = {"phase": "Succeeded", "containerStatuses": [{"name": "job", "state": {"terminated": {"exitCode": 0}}}]}


class Watch:
    """A watch that reports nothing."""

    latest: Mapping[str, Any] | None = None
    gone: frozenset[str] = frozenset()
    blind = True

    def __init__(self, served: Served) -> None:
        self._served = served

    async def change(self) -> None:
        await self._served.deleted.wait()
        self.gone = frozenset({"u"})


class Served:
    """An API server that answers a creation when the test allows it."""

    def __init__(self) -> None:
        self.truth: dict[str, Any] | None = None
        self.asked, self.answer, self.deleted = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.status: dict[str, Any] = {}
        self.errors: list[Exception] = []
        """The errors of the next creations, the first of which is carried out nevertheless."""

    async def create(self, pod: Mapping[str, Any]) -> Mapping[str, Any]:
        self.asked.set()
        await self.answer.wait()
        self.truth = self.truth or {**pod, "metadata": {**pod["metadata"], "uid": "u"}, "status": self.status}
        if self.errors:
            raise self.errors.pop(0)
        return self.truth

    async def read(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        return self.truth

    async def delete(self, pod: Mapping[str, Any]) -> None:
        self.truth = None
        self.deleted.set()

    async def log(self, pod: Mapping[str, Any]) -> bytes:
        return b""

    async def expire(self, pod: Mapping[str, Any], *, job_ended: bool = False) -> None:
        raise NotImplementedError

    async def secret(self, namespace: str, name: str) -> SecretVersion:
        raise NotImplementedError

    @contextmanager
    def watch(self, namespace: str, name: str) -> Iterator[Watch]:
        yield Watch(self)


async def test_a_cancel_waits_for_the_answer_to_a_creation() -> None:
    """Otherwise the Pod might appear after the executor has looked for it."""
    served, this = Served(), attempt(container())
    task = asyncio.create_task(PodExecutor(served).run(this))
    await served.asked.wait()
    this.ending = CANCELLED
    task.cancel()
    await asyncio.wait([task], timeout=0.05)
    assert not task.done()
    served.answer.set()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 30.0)
    assert served.deleted.is_set()
    assert served.truth is None


async def test_a_release_does_not_wait() -> None:
    served, this = Served(), attempt(container())
    task = asyncio.create_task(PodExecutor(served).run(this))
    await served.asked.wait()
    this.ending = CANCELLED
    task.cancel()
    await asyncio.wait([task], timeout=0.05)
    this.ending = RELEASED
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 30.0)
    assert not served.deleted.is_set()


async def test_a_refusal_after_a_creation_without_an_answer() -> None:
    """The Pod of the first request used the quota, so the second was refused."""
    served, this = Served(), attempt(container())
    served.answer.set()
    served.errors = [PodsUnavailable("timeout"), PodRefused("exceeded quota")]
    served.status = DONE
    result = await asyncio.wait_for(PodExecutor(served).run(this), 30.0)
    assert result.ok
    assert not served.errors


async def test_a_pod_of_somebody_else_is_never_adopted() -> None:
    """It has the name and the annotations of the attempt's Pod, but another owner."""
    served, this = Served(), attempt(container(), adopted=True)
    forged = build_pod(this, container(), PodSettings())
    forged["metadata"] |= {"uid": "x", "ownerReferences": []}
    served.truth, served.errors = {**forged, "status": DONE}, [PodExists()]
    served.answer.set()
    result = await asyncio.wait_for(PodExecutor(served).run(this), 30.0)
    assert not result.ok
    assert result.reason.endswith("that is not this run's: delete it")


async def test_a_refusal_is_a_failed_attempt() -> None:
    class Refusing(Served):
        async def create(self, pod: Mapping[str, Any]) -> Mapping[str, Any]:
            raise PodRefused("refused by the API server: no\nway")

    result = await PodExecutor(Refusing()).run(attempt(container()))
    assert (result.ok, result.reason, result.lost) == (False, "refused by the API server: no way", False)


async def test_a_creation_that_never_succeeds_ends_by_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A webhook that is down answers each creation with 500."""
    monkeypatch.setattr(pod_retrying, "FIRST_RETRY_DELAY", 0.001)
    monkeypatch.setattr(pod_limits, "REPORT_DELAY", 0.0)

    class Failing(Served):
        tries = 0

        async def create(self, pod: Mapping[str, Any]) -> Mapping[str, Any]:
            self.tries += 1
            raise PodsUnavailable('failed calling webhook "down.example.com"')

    waits: list[str] = []
    for limits, words in (
        ({"pending": 0.5}, "not started within 500ms"),
        ({"pending": 300.0, "total": 0.5}, "not started before timeouts.total had passed"),
    ):
        served = Failing()
        executor = PodExecutor(served, on_waiting=lambda attempt, words, started: waits.append(words))
        result = await asyncio.wait_for(executor.run(attempt(container(), **limits)), 30.0)
        assert not result.ok
        assert not result.lost
        assert result.reason == f'{words}: the API server: failed calling webhook "down.example.com"'
        assert 1 < served.tries < 20, "with growing pauses"
    assert waits == ['the API server: failed calling webhook "down.example.com"', ""] * 2


async def test_a_pod_that_was_created_by_a_request_that_failed_is_followed_after_the_limits() -> None:
    served = Served()
    served.answer.set()
    served.errors = [PodsUnavailable("timeout")]
    served.status = DONE
    assert (await asyncio.wait_for(PodExecutor(served).run(attempt(container(), pending=0.0)), 30.0)).ok


async def test_waiting_for_capacity_counts_as_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pod_limits, "REPORT_DELAY", 0.0)
    served, waits = Served(), []
    executor = PodExecutor(served, capacity=1, on_waiting=lambda attempt, words, started: waits.append(words))
    first = asyncio.create_task(executor.run(attempt(container())))
    await served.asked.wait()
    second = await asyncio.wait_for(executor.run(attempt(container(), pending=0.01)), 30.0)
    expected = "capacity for Pods: 1 of 1 places are taken, 1 by this namespace"
    assert second.reason == f"not started within 10ms: {expected}"
    assert waits == [expected, ""]
    first.cancel()
    await asyncio.wait([first])


async def test_pods_of_a_namespace_that_never_start_leave_room_for_others() -> None:
    class Pending(Served):
        def __init__(self) -> None:
            super().__init__()
            self.created: list[str] = []
            self.victim = asyncio.Event()

        async def create(self, pod: Mapping[str, Any]) -> Mapping[str, Any]:
            self.created.append(pod["metadata"]["namespace"])
            if self.created[-1] == "victim":
                self.victim.set()
            return {**pod, "metadata": {**pod["metadata"], "uid": "u"}, "status": {"phase": "Pending"}}

    served = Pending()
    executor = PodExecutor(served, capacity=8)
    names = ["hog"] * 20 + ["victim"]
    tasks = [
        asyncio.create_task(executor.run(attempt(container(), namespace=name, run_id=f"{UID}-{number}")))
        for number, name in enumerate(names)
    ]
    await asyncio.wait_for(served.victim.wait(), 30.0)
    assert served.created.count("hog") == 6
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_an_unexpected_error_does_not_end_the_attempt() -> None:
    class Broken(Served):
        async def create(self, pod: Mapping[str, Any]) -> Mapping[str, Any]:
            raise KeyError("x")

    result = await PodExecutor(Broken()).run(attempt(container()))
    assert (result.ok, result.lost) == (False, True)
