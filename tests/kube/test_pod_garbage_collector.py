"""The garbage collector deletes no Pod that names an object of another namespace."""

from __future__ import annotations

from typing import Any

from scheduledjob.jobs.container.pod_names import AttemptOf
from scheduledjob.kube.pods.pod_garbage_collector import PodGarbageCollector
from scheduledjob.kube.reconcile.known_objects import KnownObjects

JOB: dict[str, Any] = {"namespace": "team-a", "name": "job", "uid": "u", "resourceVersion": "1", "generation": 1}


async def test_a_pod_that_names_an_object_of_another_namespace_is_not_collected() -> None:
    objects = KnownObjects()
    objects.update({"metadata": JOB})
    asked: list[list[str]] = []

    class Store:
        async def get(self, slugs: list[str]) -> list[None]:
            asked.append(slugs)
            return [None for _ in slugs]

    collector = PodGarbageCollector(None, Store(), "r", objects, lambda: 0, 30.0)  # type: ignore[arg-type]  # stubs
    own, forged = AttemptOf("team-a", "job", "u", "u-1", 1), AttemptOf("team-b", "job", "u", "u-1", 1)
    renamed = AttemptOf("team-a", "other", "u", "u-1", 1)
    active = await collector._active([own, forged, renamed])
    assert {forged, renamed} <= set(active)
    assert asked == [["team-a/job"]]
