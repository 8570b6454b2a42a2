"""Decides which Pods to delete: pure, from the projections of all Pods.

There are two reasons. A finished Pod is beyond what ``history`` of its ScheduledJob keeps. The annotations of a Pod say
nothing about that, because anybody who may create Pods can write them. Or a Pod belongs to no active attempt, because a
replica that was stopped created it after the attempt had ended elsewhere. No Pod is deleted before two leases have
passed since its end, or its creation: until then it may be needed to prevent a late creation from starting the attempt
again, or may belong to an attempt that is not in the store yet.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from scheduledjob.domain.time.instants import SECOND, Instant, to_instant

from .pod_names import attempt_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from scheduledjob.domain.schedule.definition import Keep

_Job: TypeAlias = tuple[str, str]
"""The slug and the uid of a ScheduledJob."""


def superfluous(
    pods: Iterable[Mapping[str, Any]], kept: Callable[[str, str], Keep | None], now: Instant, min_age: float
) -> list[Mapping[str, Any]]:
    """Return Pods to delete unless their attempt is active. ``now``: the cluster's time; ``min_age`` in seconds.

    ``kept`` returns the ``history`` of a job, by slug and uid. If it returns None, all finished Pods of the job stay.
    """
    found: list[Mapping[str, Any]] = []
    finished: defaultdict[tuple[_Job, bool], list[tuple[Instant, Mapping[str, Any]]]] = defaultdict(list)
    for pod in pods:
        attempt = attempt_of(pod)
        if attempt is None or pod["metadata"].get("deletionTimestamp"):
            continue
        job = (attempt.slug, attempt.uid)
        made = _instant(pod["metadata"].get("creationTimestamp"))
        phase = pod["status"].get("phase")
        if phase in ("Succeeded", "Failed"):
            finished[job, phase == "Succeeded"].append((_ended(pod) or made, pod))
        elif made + min_age * SECOND < now:
            found.append(pod)
    for (job, succeeded), ends in finished.items():
        keep = kept(*job)
        if keep is None:
            continue
        ends.sort(key=lambda end: (end[0], end[1]["metadata"]["name"]), reverse=True)
        for index, (ended, pod) in enumerate(ends):
            beyond = index >= (keep.succeeded if succeeded else keep.failed)
            if (beyond or ended + keep.ttl < now) and ended + min_age * SECOND < now:
                found.append(pod)
    return found


def _ended(pod: Mapping[str, Any]) -> Instant:
    """Return when the job's container ended; 0 if it never started."""
    stamps = [
        status["state"]["terminated"].get("finishedAt")
        for status in pod["status"].get("containerStatuses") or ()
        if (status.get("state") or {}).get("terminated")
    ]
    return max(map(_instant, stamps), default=0)


def _instant(stamp: str | None) -> Instant:
    return 0 if stamp is None else to_instant(datetime.fromisoformat(stamp))
