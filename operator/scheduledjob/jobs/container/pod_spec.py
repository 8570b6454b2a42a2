"""The description of a Pod job: by the manifest (``PodSpec``), and by whoever runs the operator (``PodSettings``).

``Definition.job`` of the kind ``cluster.pod`` is converted into a ``PodSpec``. It says what the Pod runs: a container,
a shell command in an image of the user's, or a job that the runner (``scheduledjob run-one``) runs in the operator's
own image: a shell command, an HTTP request, a Python job or any other registered kind.
"""

from dataclasses import dataclass
from typing import Any

from scheduledjob.engine.executor import Value
from scheduledjob.jobs.curl.curl_spec import CurlSpec
from scheduledjob.jobs.shell.shell_spec import ShellSpec

from .pod_security import PodSecurity

POD_KIND = "cluster.pod"
"""The kind that a definition of a Pod job has."""


@dataclass(slots=True)
class ContainerSpec:
    """A container that the user describes."""

    image: str
    command: list[str] | None = None
    """None: the image's entry point."""
    args: list[str] | None = None


@dataclass(slots=True)
class CustomSpec:
    """A kind that is registered in the image, such as a Python job."""

    kind: str
    params: dict[str, Any] | None = None


@dataclass(slots=True)
class PodSpec:
    """What a Pod attempt runs: exactly one of ``container``, ``shell``, ``curl`` and ``custom``."""

    container: ContainerSpec | None = None
    shell: ShellSpec | None = None
    curl: CurlSpec | None = None
    custom: CustomSpec | None = None
    image: str | None = None
    """Instead of the operator's own: for a shell job any image with a shell, otherwise one with the runner."""
    resources: dict[str, Any] | None = None
    service_account: str | None = None
    template: dict[str, Any] | None = None
    """The user's PodTemplateSpec; the operator's own fields override it."""
    complete_exit_codes: frozenset[int] = frozenset()
    """Exit codes of a container, or of a shell command in the user's image, that complete the schedule."""
    payload_from: Value | None = None
    """A reference to the payload. The kubelet resolves it, for the environment of the Pod."""

    @property
    def by_runner(self) -> bool:
        """Whether the container runs the operator's runner."""
        return self.container is None and (self.shell is None or self.image is None)


@dataclass(frozen=True, slots=True)
class PodSettings:
    """The administrator's settings for Pods."""

    image: str | None = None
    """The operator's own image, which contains the runner; None: jobs that need it fail, and say so."""
    image_pull_policy: str | None = None
    """For the operator's own image; None: the default of Kubernetes."""
    security: PodSecurity = PodSecurity.BASELINE
    """The Pod Security Standard that Pods with the user's images must meet."""
    plugins: bool = False
    """Whether the runner loads the Python jobs that packages in its image announce."""
    slack: int = 60
    """Seconds after all its limits at which the kubelet ends a Pod: only a backstop, so long that the operator's own
    timeout comes first."""
