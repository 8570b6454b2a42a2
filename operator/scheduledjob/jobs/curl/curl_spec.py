"""What an HTTP job is: its request, and what counts as success."""

from dataclasses import dataclass, field

from scheduledjob.engine.executor import Value


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
    """RE2 pattern that must match somewhere in the first MiB of the body."""
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
    proxy: str | None = None
    """http or https URL of a proxy."""
    proxy_username: Value | None = None
    proxy_password: Value | None = None
    complete_status: frozenset[int] = frozenset()
    """Statuses that count as success and end the schedule permanently."""
