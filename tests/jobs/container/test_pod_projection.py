"""The projection of a Pod means the same as the whole Pod."""

from __future__ import annotations

from typing import Any

import pytest

from scheduledjob.engine.executor import Value
from scheduledjob.jobs.container.pod_builder import build_pod
from scheduledjob.jobs.container.pod_names import is_of, timeout_of
from scheduledjob.jobs.container.pod_outcome import observe, started_at
from scheduledjob.jobs.container.pod_projection import project
from scheduledjob.jobs.container.pod_secrets import secret_uses
from scheduledjob.jobs.container.pod_spec import PodSpec
from scheduledjob.jobs.curl.curl_spec import CurlSpec
from tests.jobs.container.pod_support import SETTINGS, attempt, with_template

STATUSES: list[dict[str, Any]] = [
    {},
    {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "message": "no"}], "hostIP": "x"},
    {"phase": "Failed", "reason": "Evicted", "message": "disk", "podIPs": []},
    {
        "phase": "Failed",
        "conditions": [
            {"type": "Ready", "status": "False", "lastTransitionTime": "2026-12-01T10:00:00Z"},
            {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC", "message": "m"},
        ],
    },
    {
        "phase": "Failed",
        "initContainerStatuses": [{"name": "a", "state": {"terminated": {"exitCode": 3}}, "imageID": "x"}],
        "containerStatuses": [{"name": "job", "state": {"waiting": {"reason": "PodInitializing"}}}],
    },
    {
        "phase": "Running",
        "containerStatuses": [
            {"name": "proxy", "state": {"running": {}}},
            {
                "name": "job",
                "image": "x",
                "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled", "startedAt": "2026-12-01T10:00:00Z"}},
            },
        ],
    },
]


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("runner", [False, True])
def test_a_projection_has_all_that_is_read(status: dict[str, Any], runner: bool) -> None:
    pod = (
        build_pod(attempt(timeout=5.0), PodSpec(curl=CurlSpec("https://example.com", bearer=SECRET)), SETTINGS)
        if runner
        else with_template(TEMPLATE)
    )
    pod["metadata"] |= {"uid": "u", "managedFields": [{}], "creationTimestamp": "2026-12-01T10:00:00Z"}
    pod["status"] = status
    kept = project(pod)
    assert project(kept) == kept
    assert observe(kept) == observe(pod)
    assert secret_uses(kept) == secret_uses(pod)
    for read in (started_at, timeout_of, lambda pod: is_of(pod, attempt())):
        assert read(kept) == read(pod)
    assert len(str(kept)) < len(str(pod))


SECRET = Value(secret=("team-a/db", "password"))
TEMPLATE = {
    "containers": [
        {
            "name": "job",
            "resources": {"limits": {"memory": "1Gi"}},
            "env": [
                {"name": "A", "value": "x" * 500},
                {"name": "B", "valueFrom": {"secretKeyRef": {"name": "db", "key": "p"}}},
                {"name": "C", "valueFrom": {"secretKeyRef": {"name": "db", "key": "q"}}},
            ],
            "envFrom": [{"secretRef": {"name": "all"}}, {"configMapRef": {"name": "c"}}],
        },
        {"name": "proxy", "env": [{"name": "B", "valueFrom": {"secretKeyRef": {"name": "other", "key": "p"}}}]},
    ],
    "volumes": [
        {"name": "v", "secret": {"secretName": "files"}},
        {"name": "w", "projected": {"sources": [{"secret": {"name": "more"}}, {"configMap": {"name": "c"}}]}},
        {"name": "e", "emptyDir": {}},
    ],
}
