"""Attempts, specs and Pods for the tests of Pod jobs."""

from __future__ import annotations

import math
from typing import Any

from scheduledjob.engine.executor import Attempt
from scheduledjob.jobs.container.pod_builder import build_pod
from scheduledjob.jobs.container.pod_security import PodSecurity
from scheduledjob.jobs.container.pod_spec import ContainerSpec, PodSettings, PodSpec

SLOT = 1_796_119_200_000_000  # 2026-12-01T10:00:00Z
UID = "0a1b2c3d-0000-4000-8000-000000000001"
IMAGE = "registry.example.com/scheduledjob:1"
SETTINGS = PodSettings(image=IMAGE)
RESTRICTED = PodSettings(image=IMAGE, security=PodSecurity.RESTRICTED)


def attempt(spec: PodSpec | None = None, **changed: Any) -> Attempt:
    default: dict[str, Any] = {
        "run_id": f"{UID}-{SLOT}",
        "uid": UID,
        "namespace": "team-a",
        "name": "nightly-report",
        "slot": SLOT,
        "attempt": 1,
        "version": 7,
        "deadline": math.inf,
        "params": spec,
    }
    return Attempt(**(default | changed))


def container(**changed: Any) -> PodSpec:
    return PodSpec(container=ContainerSpec("busybox:1", ["sh", "-c"], ["true"]), **changed)


def with_template(spec: dict[str, Any], settings: PodSettings = SETTINGS, **metadata: Any) -> dict[str, Any]:
    """The Pod of a container job whose template has this spec."""
    template = {"spec": spec, "metadata": metadata} if metadata else {"spec": spec}
    return build_pod(attempt(), container(template=template), settings)


def job_of(pod: dict[str, Any]) -> dict[str, Any]:
    """The container ``job``."""
    (found,) = [container for container in pod["spec"]["containers"] if container["name"] == "job"]
    assert isinstance(found, dict)
    return found


def variables_of(pod: dict[str, Any]) -> dict[str, Any]:
    """The variables of the container: values or references."""
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in job_of(pod)["env"]}
