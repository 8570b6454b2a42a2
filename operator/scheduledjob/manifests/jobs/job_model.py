"""JobModel: ``spec.job`` of a manifest, with the field of every kind of job."""

from typing import Any, Final

from scheduledjob.domain.time.instants import Micros
from scheduledjob.jobs.built_in_kind import BuiltInKind, Place
from scheduledjob.jobs.job_registry import BUILT_IN

from ..policies import CompleteOn
from .container_job import ContainerPart
from .curl_job import CurlPart
from .custom_job import CustomPart
from .job_part import JobPart
from .shell_job import ShellPart


# The bases are in the reverse order of the fields: pydantic collects the fields of the last base first.
class JobModel(
    CustomPart,
    ContainerPart,
    CurlPart,
    ShellPart,
):  # fmt: skip
    """What to do: exactly one kind of job."""


_PARTS: Final = tuple(part for part in reversed(JobModel.__bases__) if issubclass(part, JobPart))

JobModel.one_of = tuple(part.key for part in _PARTS)


def stored_job(job: JobModel, complete_on: CompleteOn | None, namespace: str) -> tuple[str, Any]:
    """Return the kind of a job and what its executor receives, as plain JSON."""
    part = next(part for part in _PARTS if part.key in job.keys_given)
    return part.to_stored(job, complete_on, namespace)


def place_of(job: JobModel) -> Place:
    """Return where a job runs if ``execution`` says nothing."""
    built_in = _built_in(job)
    return Place.INLINE if built_in is None else built_in.place


def default_timeout(job: JobModel) -> Micros | None:
    """Return the time limit of an attempt if ``timeouts.attempt`` says nothing; None: no limit."""
    built_in = _built_in(job)
    return None if built_in is None else built_in.timeout


def _built_in(job: JobModel) -> BuiltInKind | None:
    return next((BUILT_IN[key] for key in job.keys_given if key in BUILT_IN), None)
