"""Translates the models of a manifest into the description of a Pod, for the executor of Pods.

Like the stored job of every kind it is plain JSON, without unset values. References are not resolved, not even that of
the payload: the kubelet puts the values into the Pod, so they never pass through the operator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from scheduledjob.jobs.built_in_kind import ResultCode
from scheduledjob.jobs.container.pod_spec import POD_KIND, PodSpec
from scheduledjob.jobs.job_registry import BUILT_IN, result_code_of

from .translate import plain_job, plain_payload_from, to_definition

if TYPE_CHECKING:
    from scheduledjob.domain.schedule.definition import Definition

    from .models import ScheduledJob


def to_pod_definition(job: ScheduledJob) -> Definition:
    """Return the definition of a job that runs as a Pod; ``to_definition`` is for a job that runs inline."""
    return msgspec.structs.replace(to_definition(job), kind=POD_KIND, job=pod_description(job), payload_from=None)


def pod_description(job: ScheduledJob) -> dict[str, Any]:
    """Return what the Pod runs, and how, as the plain JSON of ``PodSpec``."""
    spec = job.spec
    namespace, _ = job.key
    kind, stored = plain_job(spec, namespace)
    built_in = BUILT_IN.get(kind)
    found: dict[str, Any]
    if built_in is not None and built_in.spec is PodSpec:
        found = dict(stored)
    elif built_in is not None and built_in.in_pod_spec:
        found = {kind: stored}
    else:
        found = {"custom": {"kind": kind} | ({} if stored is None else {"params": stored})}
    exit_codes = spec.complete_on.exit_codes if spec.complete_on is not None else None
    if exit_codes and result_code_of(kind) is not ResultCode.HTTP_STATUS:
        found["complete_exit_codes"] = sorted(set(exit_codes))
    if spec.payload_from is not None:
        found["payload_from"] = plain_payload_from(spec.payload_from, namespace)
    pod = spec.execution.pod if spec.execution is not None else None
    if pod is not None:
        if pod.image is not None and "container" not in found:
            found["image"] = pod.image
        if pod.service_account_name is not None:
            found["service_account"] = pod.service_account_name
        for name in ("resources", "template"):
            if part := getattr(pod, name):
                found[name] = part.model_dump(by_alias=True, exclude_none=True)
    return found
