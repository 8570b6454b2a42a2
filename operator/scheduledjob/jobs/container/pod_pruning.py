"""Which Pods have been there for long enough: pure, from what is remembered of all of them.

Two kinds go. Finished Pods beyond what ``history`` keeps, of which the newest say how many that is; and Pods that run
for nobody, because the creation of a replica that stood still arrived after its attempt had ended elsewhere. Neither
goes before two leases have passed since its end, or its creation: until then it may be all that keeps a late creation
from starting the attempt again, or belong to an attempt that the store is about to be told of.
"""

from __future__ import annotations

import re
from collections import defaultdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from scheduledjob.domain.time.instants import SECOND, Instant, to_instant

from .pod_names import ATTEMPT, RUN_ID, UID_LABEL, annotation, keep_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


_NUMBER = re.compile(r"[0-9]{1,10}")
"""Of an attempt. Anybody may write labels and annotations like ours, with whatever they like in them."""


class AttemptOf(NamedTuple):
    """Whose a Pod is."""

    uid: str
    run_id: str
    attempt: int


def attempt_of(pod: Mapping[str, Any]) -> AttemptOf | None:
    """The attempt that a Pod was made for; None: it does not say."""
    uid = (pod["metadata"].get("labels") or {}).get(UID_LABEL, "")
    run_id, number = annotation(pod, RUN_ID), annotation(pod, ATTEMPT)
    return AttemptOf(uid, run_id, int(number)) if uid and run_id and _NUMBER.fullmatch(number) else None


def superfluous(pods: Iterable[Mapping[str, Any]], now: Instant, min_age: float) -> list[Mapping[str, Any]]:
    """Pods that may go unless their attempt is active still. ``now``: the cluster's time; ``min_age`` in seconds."""
    found: list[Mapping[str, Any]] = []
    finished: defaultdict[tuple[str, bool], list[tuple[Instant, Mapping[str, Any]]]] = defaultdict(list)
    newest: dict[str, tuple[Instant, Mapping[str, Any]]] = {}
    for pod in pods:
        whose = attempt_of(pod)
        if whose is None or pod["metadata"].get("deletionTimestamp"):
            continue
        made = _instant(pod["metadata"].get("creationTimestamp"))
        if whose.uid not in newest or made >= newest[whose.uid][0]:
            newest[whose.uid] = (made, pod)
        phase = pod["status"].get("phase")
        if phase in ("Succeeded", "Failed"):
            finished[whose.uid, phase == "Succeeded"].append((_ended(pod) or made, pod))
        elif made + min_age * SECOND < now:
            found.append(pod)
    for (uid, succeeded), those in finished.items():
        keep = keep_of(newest[uid][1])
        those.sort(key=lambda one: (one[0], one[1]["metadata"]["name"]), reverse=True)
        for index, (ended, pod) in enumerate(those):
            beyond = index >= (keep.succeeded if succeeded else keep.failed)
            if (beyond or ended + keep.ttl * SECOND < now) and ended + min_age * SECOND < now:
                found.append(pod)
    return found


def _ended(pod: Mapping[str, Any]) -> Instant:
    """When the job's container ended; 0 where it never began."""
    stamps = [
        one["state"]["terminated"].get("finishedAt")
        for one in pod["status"].get("containerStatuses") or ()
        if (one.get("state") or {}).get("terminated")
    ]
    return max(map(_instant, stamps), default=0)


def _instant(stamp: str | None) -> Instant:
    return 0 if stamp is None else to_instant(datetime.fromisoformat(stamp))
