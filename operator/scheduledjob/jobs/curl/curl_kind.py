"""The job kind ``curl``: an HTTP request."""

from typing import Final

from scheduledjob.domain.time.instants import MINUTE, Micros
from scheduledjob.engine.executor import Executor
from scheduledjob.jobs.built_in_kind import BuiltInKind, JobContext, ResultCode
from scheduledjob.jobs.curl.curl_spec import CurlSpec

CURL_TIMEOUT: Final[Micros] = MINUTE
"""Time limit of an attempt if ``timeouts.attempt`` is unset, and of the call of a hook."""


def _make_executor(context: JobContext) -> Executor:
    from .curl_executor import CurlExecutor

    return CurlExecutor(context.addresses)


CURL = BuiltInKind(
    name="curl",
    make_executor=_make_executor,
    spec=CurlSpec,
    summary=lambda job: str(job.get("url") or ""),
    result_code=ResultCode.HTTP_STATUS,
    timeout=CURL_TIMEOUT,
    in_pod_spec=True,
)
