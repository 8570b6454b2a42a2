"""The job kind ``container``. Jobs of other kinds that run as Pods are stored as this kind, too."""

from __future__ import annotations

from scheduledjob.jobs.built_in_kind import BuiltInKind, Place, ResultCode

from .pod_spec import POD_KIND, PodSpec

CONTAINER = BuiltInKind(
    name="container",
    make_executor=lambda context: context.pods,
    spec=PodSpec,
    summary=lambda job: str(job.get("image") or ""),
    place=Place.POD,
    result_code=ResultCode.EXIT_CODE,
    stored_kind=POD_KIND,
    detached=True,
)
