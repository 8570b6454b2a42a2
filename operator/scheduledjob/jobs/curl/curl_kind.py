"""The job kind ``curl``: an HTTP request."""

from dataclasses import dataclass, field
from typing import Final

from scheduledjob.domain.time.instants import MINUTE, Micros
from scheduledjob.engine.executor import Executor, Value
from scheduledjob.jobs.built_in_kind import BuiltInKind, JobContext, ResultCode

CURL_TIMEOUT: Final[Micros] = MINUTE
"""Time limit of an attempt if ``timeouts.attempt`` is unset, and of the call of a hook."""


@dataclass(slots=True)
class CurlSpec:
    """The HTTP request that an attempt makes."""

    url: str
    method: str = "GET"
    headers: dict[str, Value] = field(default_factory=dict)
    body: Value | None = None
    """None: the payload is the body."""
    expect_status: tuple[str, ...] = ("2xx",)
    """Each entry is like ``200`` or ``2xx``."""
    expect_body: str | None = None
    """RE2 pattern that must match somewhere in the body."""
    follow_redirects: bool = True
    insecure_skip_verify: bool = False
    ca: Value | None = None
    """Certificates (PEM) of the authorities to trust instead of the system's."""
    client_certificate: Value | None = None
    client_key: Value | None = None
    server_name: str | None = None
    basic_username: Value | None = None
    basic_password: Value | None = None
    bearer: Value | None = None
    complete_status: frozenset[int] = frozenset()
    """Statuses that count as success and end the schedule permanently."""


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
