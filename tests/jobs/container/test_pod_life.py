"""Observations may be old, because the watch lags or is broken: nothing is ended because of an old one.

The test decides the order of the reports, which no real API server allows. Operations are tested on real ones, in
tests/cluster.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from scheduledjob.engine.executor import Result
from scheduledjob.jobs.container import pod_life, pod_limits
from scheduledjob.jobs.container.pod_life import PodLife
from scheduledjob.jobs.container.pod_limits import PodLimits
from scheduledjob.jobs.container.pod_names import JOB_ENDED
from scheduledjob.jobs.container.pod_retrying import FIRST_RETRY_DELAY, retry_until_answered
from scheduledjob.jobs.container.pod_secrets import PodSecrets
from scheduledjob.jobs.container.pods_protocol import PodsUnavailable, SecretVersion
from tests.jobs.container.pod_support import SETTINGS as NO_IMAGE
from tests.jobs.container.pod_support import SLOT, attempt, container

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator, Mapping

    import pytest

    from scheduledjob.engine.executor import Attempt

from scheduledjob.jobs.container.pod_builder import build_pod

T = TypeVar("T")

STAMP = "2026-12-01T10:00:00Z"


def pod(status: dict[str, Any], timeout: float | None = None) -> dict[str, Any]:
    found = build_pod(attempt(timeout=timeout), container(), NO_IMAGE)
    found["metadata"] |= {"uid": "u", "creationTimestamp": STAMP}
    return found | {"status": status}


def state(**state: Any) -> list[dict[str, Any]]:
    return [{"name": "job", "state": state}]


PENDING = {"phase": "Pending"}
RUNNING = {"phase": "Running", "containerStatuses": state(running={"startedAt": STAMP})}
DONE = {"phase": "Succeeded", "containerStatuses": state(terminated={"exitCode": 0, "startedAt": STAMP})}
NO_SECRET = {
    "phase": "Pending",
    "containerStatuses": state(waiting={"reason": "CreateContainerConfigError", "message": 'secret "db" not found'}),
}


class Watch:
    """A watch that reports what the test gives it."""

    def __init__(self) -> None:
        self.latest: Mapping[str, Any] | None = None
        self.gone: frozenset[str] = frozenset()
        self.blind = False
        self.awaited = asyncio.Event()
        self._changed = asyncio.Event()

    def report(self, latest: Mapping[str, Any]) -> None:
        self.latest = latest
        self._changed.set()

    async def change(self) -> None:
        self.awaited.set()
        await self._changed.wait()
        self._changed.clear()


class Served:
    """An API server with a single Pod, which the test changes. It remembers the requests."""

    def __init__(self, truth: Mapping[str, Any] | None) -> None:
        self.truth = truth
        self.away = 0
        self.done: list[str] = []
        self.waits: list[str] = []
        self.waited = asyncio.Event()

    async def read(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        if self.away:
            self.away -= 1
            raise PodsUnavailable("away")
        return self.truth

    async def log(self, pod: Mapping[str, Any]) -> bytes:
        return b""

    def note_wait(self, attempt: Attempt, words: str, started: bool) -> None:
        self.waits.append(words)
        self.waited.set()

    async def expire(self, pod: Mapping[str, Any], *, job_ended: bool = False) -> None:
        self.done.append("end sidecars" if job_ended else "expire")

    async def delete(self, pod: Mapping[str, Any]) -> None:
        self.done.append("delete")
        self.truth = None

    async def create(self, pod: Mapping[str, Any]) -> Mapping[str, Any]:
        raise NotImplementedError

    async def secret(self, namespace: str, name: str) -> SecretVersion:
        raise NotImplementedError

    @contextmanager
    def watch(self, namespace: str, name: str) -> Iterator[Watch]:
        yield Watch()


def life(served: Served, watch: Watch, known: Mapping[str, Any], *, pending: float, adopted: bool) -> PodLife:
    # Its clock is an hour after the creation of the Pod.
    now = SLOT + 3_600_000_000
    secrets = PodSecrets(served, "team-a")
    limits = PodLimits(attempt(pending=pending), served.note_wait)
    return PodLife(served, known, watch, secrets, limits, complete=frozenset(), adopted=adopted, now=lambda: now)


async def test_a_watch_that_lags_behind_ends_nothing() -> None:
    served, watch = Served(pod(RUNNING)), Watch()
    task = asyncio.create_task(life(served, watch, pod(RUNNING), pending=300.0, adopted=True).run())
    await soon(watch.awaited.wait())
    watch.awaited.clear()
    watch.report(pod(PENDING))  # from before the container started; its time to start ended an hour ago
    await soon(watch.awaited.wait())
    watch.awaited.clear()
    watch.report(pod(NO_SECRET))
    await soon(watch.awaited.wait())
    watch.report(pod(DONE))
    assert await soon(task) == Result(True, code=0, where=served_name())
    assert served.done == []


async def test_a_pending_pod_is_read_before_it_is_given_up() -> None:
    served, watch = Served(pod(RUNNING)), Watch()
    task = asyncio.create_task(life(served, watch, pod(PENDING), pending=300.0, adopted=True).run())
    await soon(watch.awaited.wait())  # it was read, and runs
    watch.report(pod(DONE))
    assert (await soon(task)).ok
    assert served.done == []


async def test_a_hopeless_pod_is_read_before_it_is_given_up() -> None:
    served, watch = Served(pod(RUNNING)), Watch()
    task = asyncio.create_task(life(served, watch, pod(NO_SECRET), pending=300.0, adopted=False).run())
    await soon(watch.awaited.wait())
    watch.report(pod(DONE))
    assert (await soon(task)).ok
    assert served.done == []


async def test_a_pod_that_ended_while_the_api_server_was_unavailable() -> None:
    served, watch = Served(pod(DONE, timeout=60.0)), Watch()
    served.away = 2
    # Adopted an hour after its container started, with a timeout of a minute; but it had ended.
    result = await life(served, watch, pod(RUNNING, timeout=60.0), pending=300.0, adopted=True).run()
    assert result.ok
    assert served.done == []


async def test_the_node_ends_a_pod_that_timed_out() -> None:
    served, watch = Served(pod(RUNNING, timeout=60.0)), Watch()
    task = asyncio.create_task(life(served, watch, pod(RUNNING, timeout=60.0), pending=300.0, adopted=True).run())
    await soon(watch.awaited.wait())
    assert served.done == ["expire"]
    ended = {**DONE, "phase": "Failed", "reason": "DeadlineExceeded"}
    watch.report(pod(ended, timeout=60.0))
    assert (await soon(task)).reason == "timed out after 1m"
    assert served.done == ["expire"]


SIDE_RUNS = {"phase": "Running", "containerStatuses": DONE["containerStatuses"]}


async def test_a_sidecar_does_not_keep_a_finished_job_running(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pod_life, "SIDECAR_SECONDS", 0.0)
    served, watch = Served(pod(SIDE_RUNS)), Watch()
    task = asyncio.create_task(life(served, watch, pod(SIDE_RUNS), pending=300.0, adopted=False).run())
    await soon(watch.awaited.wait())
    assert served.done == ["end sidecars"]
    killed = pod({**SIDE_RUNS, "phase": "Failed", "reason": "DeadlineExceeded"})
    killed["metadata"]["annotations"][JOB_ENDED] = "true"
    watch.report(killed)
    assert (await soon(task)).ok
    assert served.done == ["end sidecars"], "the Pod stays with its log"


async def test_a_pod_says_what_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pod_limits, "REPORT_DELAY", 0.0)
    served, watch = Served(pod(PENDING)), Watch()
    task = asyncio.create_task(life(served, watch, pod(PENDING), pending=300.0, adopted=False).run())
    await soon(watch.awaited.wait())
    watch.awaited.clear()
    condition = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}
    watch.report(pod({**PENDING, "conditions": [condition]}))
    await soon(served.waited.wait())
    watch.awaited.clear()
    watch.report(pod(RUNNING))
    await soon(watch.awaited.wait())
    watch.report(pod(DONE))
    await soon(task)
    assert served.waits == ["can't be scheduled: 0/3 nodes are available", ""]


async def soon(awaited: Awaitable[T]) -> T:
    """Fail instead of waiting forever."""
    return await asyncio.wait_for(awaited, 30.0)


def served_name() -> str:
    return str(pod(PENDING)["metadata"]["name"])


async def test_retry_after_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = [PodsUnavailable("busy", 7.0), PodsUnavailable("away"), PodsUnavailable("busy", 30.0)]
    slept: list[float] = []

    async def call() -> str:
        if refusals:
            raise refusals.pop(0)
        return "answer"

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    assert await retry_until_answered(call) == "answer"
    assert 7.0 <= slept[0] <= 7.7
    assert slept[1] < 2 * FIRST_RETRY_DELAY
    assert 30.0 <= slept[2] <= 33.0
