"""Which Pods are deleted: finished ones beyond what history keeps, and those of no active attempt; none too early."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduledjob.domain.schedule.definition import Keep
from scheduledjob.domain.time.instants import SECOND, rfc3339
from scheduledjob.jobs.container.pod_names import AttemptOf, attempt_of, pod_name
from scheduledjob.jobs.container.pod_pruning import superfluous

if TYPE_CHECKING:
    from collections.abc import Mapping

BASE = 1_796_119_200 * SECOND
MIN_AGE = 30.0
KEEP = Keep(2, 1, 3600 * SECOND)


def pod(run: str, phase: str, made: int, *, uid: str = "u", **metadata: Any) -> dict[str, Any]:
    """A Pod that was created, and ended, ``made`` seconds after BASE."""
    run_id = f"{uid}-{run}"
    stamp = rfc3339(BASE + made * SECOND)
    states = [{"name": "job", "state": {"terminated": {"exitCode": 0, "finishedAt": stamp}}}]
    return {
        "metadata": {
            "name": pod_name("job", run_id, 1),
            "namespace": "team-a",
            "ownerReferences": [
                {"apiVersion": "scheduledjobs.dev/v1beta1", "kind": "ScheduledJob", "name": "job", "uid": uid}
            ],
            "creationTimestamp": stamp,
            "labels": {"scheduledjobs.dev/uid": uid},
            "annotations": {
                "scheduledjobs.dev/run-id": run_id,
                "scheduledjobs.dev/attempt": "1",
            },
            **metadata,
        },
        "status": {"phase": phase, "containerStatuses": states if phase in ("Succeeded", "Failed") else []},
    }


def gone(pods: list[dict[str, Any]], at: int, keep: Keep | None = KEEP) -> set[str]:
    """The runs whose Pods are deleted, if every job has this history."""
    return {run_of(pod) for pod in superfluous(pods, lambda slug, uid: keep, BASE + at * SECOND, MIN_AGE)}


def run_of(pod: Mapping[str, Any]) -> str:
    return str(pod["metadata"]["annotations"]["scheduledjobs.dev/run-id"]).partition("-")[2]


def test_the_newest_pods_stay() -> None:
    pods = [pod(f"s{n}", "Succeeded", n) for n in range(4)] + [pod(f"f{n}", "Failed", n) for n in range(3)]
    assert gone(pods, 1000) == {"s0", "s1", "f0", "f1"}
    assert gone(pods, 20) == set()
    assert gone(pods, 5000) == {"s0", "s1", "s2", "s3", "f0", "f1", "f2"}


def test_the_job_says_how_many_of_its_pods_stay() -> None:
    pods = [pod(f"{uid}{n}", "Succeeded", n, uid=uid) for uid in "xy" for n in range(2)]
    histories = {("team-a/job", "x"): Keep(0), ("team-a/job", "y"): Keep(1)}
    found = superfluous(pods, lambda slug, uid: histories[slug, uid], BASE + 1000 * SECOND, MIN_AGE)
    assert {run_of(pod) for pod in found} == {"x0", "x1", "y0"}


def test_the_finished_pods_of_a_job_that_is_not_known_stay() -> None:
    pods = [pod("done", "Succeeded", 0), pod("orphan", "Running", 0)]
    assert gone(pods, 10**6, None) == {"orphan"}


@pytest.mark.parametrize("says", ["0/0/1s", "10000/10000/999999999s"])
def test_no_pod_says_how_many_pods_stay(says: str) -> None:
    """Anybody who may create Pods can write one that looks like the newest Pod of a job."""
    pods = [pod("a", "Succeeded", 1), pod("b", "Succeeded", 2), pod("c", "Succeeded", 3)]
    forged = pod("forged", "Running", 990)
    forged["metadata"]["annotations"]["scheduledjobs.dev/history"] = says
    assert gone([*pods, forged], 1000) == {"a"}
    assert gone([*pods, forged], 5000) == {"a", "b", "c", "forged"}


def test_each_job_keeps_its_own_pods() -> None:
    pods = [pod(f"{uid}{n}", "Succeeded", n, uid=uid) for uid in "xy" for n in range(2)]
    assert gone(pods, 1000) == set()


def test_a_running_pod_may_be_superfluous() -> None:
    pods = [pod("old", "Running", 0), pod("waits", "Pending", 0), pod("new", "Running", 990)]
    assert gone(pods, 1000) == {"old", "waits"}


def test_pods_that_are_being_deleted_or_not_ours() -> None:
    foreign = pod("foreign", "Running", 0)
    foreign["metadata"]["annotations"] = {}
    leaving = pod("leaving", "Running", 0, deletionTimestamp=rfc3339(BASE))
    assert gone([foreign, leaving], 1000) == set()
    assert attempt_of(foreign) is None
    assert attempt_of(leaving) == AttemptOf("team-a", "job", "u", "u-leaving", 1)


@pytest.mark.parametrize("number", ["9" * 5000, "-1", "1.5", "x", "", "\u0663"])
def test_a_pod_with_an_invalid_number_belongs_to_no_attempt(number: str) -> None:
    hostile = pod("hostile", "Running", 0)
    hostile["metadata"]["annotations"]["scheduledjobs.dev/attempt"] = number
    assert attempt_of(hostile) is None
    assert gone([hostile], 1000) == set()


FORGERIES: dict[str, dict[str, Any]] = {
    "namespace": {"namespace": "team-b"},
    "no owner": {"ownerReferences": []},
    "owner's name": {
        "ownerReferences": [{"apiVersion": "scheduledjobs.dev/v1", "kind": "ScheduledJob", "name": "x", "uid": "u"}]
    },
    "owner's uid": {
        "ownerReferences": [{"apiVersion": "scheduledjobs.dev/v1", "kind": "ScheduledJob", "name": "job", "uid": "x"}]
    },
    "owner's kind": {
        "ownerReferences": [{"apiVersion": "batch/v1", "kind": "ScheduledJob", "name": "job", "uid": "u"}]
    },
    "its name": {"name": "precious"},
}


@pytest.mark.parametrize("forged", FORGERIES.values(), ids=FORGERIES.keys())
def test_a_pod_of_somebody_else_deletes_no_pod_of_a_job(forged: dict[str, Any]) -> None:
    """It claims to be a newer Pod of the job, so that an older one is one too many."""
    pods = [pod("a", "Failed", 1), pod("b", "Failed", 900, **forged)]
    assert "a" not in gone(pods, 1000)


_PODS = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from(["Succeeded", "Failed", "Running"]), st.integers(0, 100)),
    max_size=30,
)


@given(_PODS, st.integers(0, 200))
def test_no_pod_is_deleted_early_and_enough_stay(shapes: list[tuple[str, str, int]], at: int) -> None:
    pods = [pod(f"p{n}", phase, made, uid=uid) for n, (uid, phase, made) in enumerate(shapes)]
    names = gone(pods, at)
    for n, (uid, phase, made) in enumerate(shapes):
        if made + MIN_AGE >= at:
            assert f"p{n}" not in names
        keep = {"Succeeded": 2, "Failed": 1}.get(phase, 0)
        newer = sum(1 for other in shapes if other[:2] == (uid, phase) and other[2] > made)
        same = sum(1 for other in shapes if other == (uid, phase, made))
        if newer + same <= keep:
            assert f"p{n}" not in names
