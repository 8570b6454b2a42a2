"""Pods in the simulation: attempts that run in a cluster beside the replicas, and how a replica handles them.

There is never more than one Pod of a name: a second creation finds the first Pod, even after that has ended. A Pod
outlives the replica that created it. It ends by itself, or some time after somebody deleted it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from scheduledjob.engine.executor import CANCELLED, Attempt, Result
from scheduledjob.engine.store import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from typing import Any

    from .network import Link
    from .world import World

_T = TypeVar("_T")

NEVER_CREATED = "it was never created"
"""The reason of a run whose Pod was deleted before it was created."""


@dataclass(slots=True, eq=False)
class Pod:
    attempt: Attempt
    number: int = 0
    """0: it was never created, and never will be."""
    result: Result | None = None
    """None: it runs."""
    watchers: list[Callable[[], None]] = field(default_factory=list)


class Cluster:
    def __init__(self, world: World, *, fail: float, longest: float) -> None:
        self.world = world
        self.fail = fail
        self.longest = longest
        self.pods: dict[str, Pod] = {}
        self.deleted: set[str] = set()
        """Uids of objects that were deleted, and their Pods with them."""

    async def create(self, attempt: Attempt) -> Pod:
        name = pod_name(attempt)
        if name not in self.pods:
            if attempt.uid in self.deleted:
                self.pods[name] = Pod(attempt, 0, Result(False, "its owner was deleted"))
            else:
                self._start(name, attempt)
        return self.pods[name]

    async def end(self, attempt: Attempt) -> Pod:
        """Delete a Pod. If there is none of its name, none is created later."""
        pod = self.pods.setdefault(pod_name(attempt), Pod(attempt, 0, Result(False, NEVER_CREATED)))
        if pod.result is None:
            self.world.after(self.world.random.uniform(0.0, 4.0), lambda: self._kill(pod))
        return pod

    def owner_deleted(self, uid: str) -> None:
        self.deleted.add(uid)
        for pod in self.pods.values():
            if pod.attempt.uid == uid and pod.result is None:
                self.world.after(self.world.random.uniform(0.0, 4.0), lambda pod=pod: self._kill(pod))  # type: ignore[misc]  # mypy knows no default in a lambda

    def _start(self, name: str, attempt: Attempt) -> None:
        world, rng = self.world, self.world.random
        pod = self.pods[name] = Pod(attempt, next(world.numbers))
        self._log("start", pod)
        takes = rng.uniform(0.0, self.longest) if rng.random() < 0.5 else rng.uniform(0.0, 0.5)
        ok = rng.random() >= self.fail
        result = Result(ok, "" if ok else "exit code 1", 0 if ok else 1, where=name)
        world.after(takes, lambda: self._end(pod, result))

    def _end(self, pod: Pod, result: Result) -> None:
        if pod.result is None:
            self._log("end", pod, "ok" if result.ok else "failed")
            self._set_result(pod, result)

    def _kill(self, pod: Pod) -> None:
        if pod.result is None:
            self._log("killed", pod, "deleted")
            self._set_result(pod, Result(False, "deleted", where=pod_name(pod.attempt)))

    def _set_result(self, pod: Pod, result: Result) -> None:
        pod.result = result
        for watcher in pod.watchers:
            watcher()

    def _log(self, kind: str, pod: Pod, detail: str = "") -> None:
        attempt = pod.attempt
        self.world.log(
            kind,
            pod_name(attempt),
            uid=attempt.uid,
            run_id=attempt.run_id,
            slot=attempt.slot,
            attempt=attempt.attempt,
            version=attempt.version,
            detail=detail,
            process=pod.number,
        )


class PodExecutor:
    """The executor of a detached kind: it creates Pods over a link that fails, and adopts existing ones."""

    def __init__(self, cluster: Cluster, link: Link) -> None:
        self.cluster = cluster
        self.link = link

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def extend(self, run_ids: Sequence[str], deadline: float) -> None: ...

    async def run(self, attempt: Attempt) -> Result:
        if attempt.ending == CANCELLED:
            self._log_cancel(attempt)
            return await self._watch(await self._call(lambda: self.cluster.end(attempt)))
        try:
            pod = await self._call(lambda: self.cluster.create(attempt))
            if self.cluster.world.random.random() < 0.02:
                return Result(False, "its Pod can't be watched", lost=True)
            return await self._watch(pod)
        except asyncio.CancelledError:
            if attempt.ending == CANCELLED:
                self._log_cancel(attempt)
                await self._watch(await self._call(lambda: self.cluster.end(attempt)))
            raise

    async def _call(self, operation: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        while True:
            try:
                return await self.link.call("pod", operation)
            except StoreUnavailable:
                await asyncio.sleep(0.5)

    async def _watch(self, pod: Pod) -> Result:
        ended: asyncio.Future[None] = self.link.machine.loop.create_future()

        def report_end() -> None:
            if not self.link.machine.dead:
                self.link.machine.loop.call_soon(lambda: None if ended.done() else ended.set_result(None))

        if pod.result is None:
            pod.watchers.append(lambda: self.link.world.after(self.link.delay(), report_end))
            await ended
        assert pod.result is not None
        return pod.result

    def _log_cancel(self, attempt: Attempt) -> None:
        self.cluster.world.log(
            "cancel", self.link.machine.name, uid=attempt.uid, run_id=attempt.run_id, attempt=attempt.attempt
        )


def pod_name(attempt: Attempt) -> str:
    return f"{attempt.run_id}-{attempt.attempt}"
