"""Objects of a cluster, as the API server returns them."""

from __future__ import annotations

from typing import Any


def object_with_template(namespace: str, pod_spec: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """Return a job with a container and a template. ``spec`` replaces fields of its spec."""
    return {
        "metadata": {
            "name": "a",
            "namespace": namespace,
            "uid": "u",
            "generation": 1,
            "creationTimestamp": "2026-12-01T10:00:00Z",
        },
        "spec": {
            "triggers": [{"every": "1h"}],
            "job": {"container": {"image": "busybox"}},
            "execution": {"pod": {"template": {"spec": pod_spec}}},
        }
        | spec,
    }
