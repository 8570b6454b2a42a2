"""The garbage collector asks the ScheduledJob, and never a Pod, how many Pods it keeps, and deletes no others' Pods."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from scheduledjob.domain.schedule.definition import Keep
from scheduledjob.domain.schedule.state import State
from scheduledjob.domain.time.instants import SECOND, rfc3339
from scheduledjob.jobs.container.pod_names import AttemptOf, pod_name
from scheduledjob.kube.pods import pod_garbage_collector
from scheduledjob.kube.pods.pod_garbage_collector import PodGarbageCollector
from scheduledjob.kube.pods.pods_api import ClusterPods
from scheduledjob.kube.reconcile.known_objects import KnownObjects

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pytest

JOB: dict[str, Any] = {"namespace": "team-a", "name": "job", "uid": "u", "resourceVersion": "1", "generation": 1}
BASE = 1_796_119_200 * SECOND


class Store:
    """Has a row of the job without any run."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    async def lock(self, *_: object) -> bool:
        return True

    async def get(self, slugs: list[str]) -> list[Any]:
        self.asked.append(slugs)
        return [SimpleNamespace(uid="u", state=State(decided_until=BASE).encode()) for _ in slugs]


class Pods(ClusterPods):
    """The Pods of the cluster, as the watch has reported them."""

    def __init__(self, existing: list[dict[str, Any]]) -> None:
        self.existing, self.deleted = existing, set[str]()
        self.reflector: Any = SimpleNamespace(connected_since=0.0)
        self.pruned = asyncio.Event()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.existing)

    async def delete(self, pod: Mapping[str, Any]) -> None:
        self.deleted.add(pod["metadata"]["annotations"]["scheduledjobs.dev/run-id"])

    async def prune(self, *args: Any) -> int:
        try:
            return await super().prune(*args)
        finally:
            self.pruned.set()


def finished(number: int, **annotations: str) -> dict[str, Any]:
    stamp = rfc3339(BASE + number * SECOND)
    return {
        "metadata": {
            "name": pod_name("job", f"u-{number}", 1),
            "namespace": "team-a",
            "ownerReferences": [
                {"apiVersion": "scheduledjobs.dev/v1beta1", "kind": "ScheduledJob", "name": "job", "uid": "u"}
            ],
            "creationTimestamp": stamp,
            "labels": {"scheduledjobs.dev/uid": "u"},
            "annotations": {"scheduledjobs.dev/run-id": f"u-{number}", "scheduledjobs.dev/attempt": "1"} | annotations,
        },
        "status": {
            "phase": "Succeeded",
            "containerStatuses": [{"name": "job", "state": {"terminated": {"exitCode": 0, "finishedAt": stamp}}}],
        },
    }


async def collected(pods: Pods, objects: KnownObjects, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Collect once, long after the Pods have ended. Return the runs whose Pods were deleted."""
    monkeypatch.setattr(pod_garbage_collector, "PRUNE_INTERVAL", 0.0)
    store: Any = Store()
    task = asyncio.create_task(PodGarbageCollector(pods, store, "r", objects, lambda: BASE + 3600 * SECOND, 30.0).run())
    await asyncio.wait_for(pods.pruned.wait(), 30.0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return pods.deleted


async def test_the_object_says_how_many_finished_pods_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest Pod, which anybody who may create Pods can have made, says that it keeps none."""
    objects = KnownObjects()
    objects.update({"metadata": JOB})
    objects.set_reconciled("u", "team-a/job", (1, ""), [], valid=True, keep=Keep(succeeded=2))
    pods = Pods([*map(finished, range(3)), finished(3, **{"scheduledjobs.dev/history": "0/0/1s"})])
    assert await collected(pods, objects, monkeypatch) == {"u-0", "u-1"}


async def test_no_finished_pod_is_deleted_before_the_object_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = KnownObjects()
    objects.update({"metadata": JOB})
    assert await collected(Pods([*map(finished, range(20))]), objects, monkeypatch) == set()


async def test_a_pod_that_names_an_object_of_another_namespace_is_not_collected() -> None:
    objects = KnownObjects()
    objects.update({"metadata": JOB})
    store: Any = Store()
    collector = PodGarbageCollector(Pods([]), store, "r", objects, lambda: 0, 30.0)
    own, forged = AttemptOf("team-a", "job", "u", "u-1", 1), AttemptOf("team-b", "job", "u", "u-1", 1)
    renamed = AttemptOf("team-a", "other", "u", "u-1", 1)
    active = await collector._active([own, forged, renamed])
    assert {forged, renamed} <= set(active)
    assert store.asked == [["team-a/job"]]
