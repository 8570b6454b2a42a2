"""What a Pod job is told: by the manifest (``PodSpec``), and by whoever runs the operator (``PodSettings``).

``PodSpec`` is what ``Definition.job`` of kind ``cluster.pod`` is read back as. It says *which* of four jobs the Pod
runs: a container as the user wrote it, a shell command in an image of the user's, or anything that the operator's own
image can run through the runner (``scheduledjob run-one``), which is a shell command, an HTTP request or a Python job.
"""

from dataclasses import dataclass, field
from typing import Any, Final

from scheduledjob.domain.schedule.definition import Keep
from scheduledjob.domain.time.instants import SECOND
from scheduledjob.engine.executor import Value
from scheduledjob.jobs.curl.curl_kind import CurlSpec
from scheduledjob.jobs.shell.shell_kind import ShellSpec

POD_KIND = "cluster.pod"
"""The kind that a definition of a Pod job has."""

_KEPT: Final = Keep()


@dataclass(slots=True)
class ContainerSpec:
    """A container of the user's."""

    image: str
    command: list[str] | None = None
    """None: the image's entry point."""
    args: list[str] | None = None


@dataclass(slots=True)
class CustomSpec:
    """A Python job, by the name under which it is registered in the image."""

    kind: str
    params: dict[str, Any] | None = None


@dataclass(slots=True)
class KeepPods:
    """How many finished Pods stay, and for how long at most: by default, as long as their runs in history."""

    succeeded: int = _KEPT.succeeded
    failed: int = _KEPT.failed
    ttl: int = _KEPT.ttl // SECOND
    """Seconds."""


@dataclass(slots=True)
class PodSpec:
    """What a Pod attempt runs: exactly one of ``container``, ``shell``, ``curl`` and ``custom``."""

    container: ContainerSpec | None = None
    shell: ShellSpec | None = None
    curl: CurlSpec | None = None
    custom: CustomSpec | None = None
    image: str | None = None
    """Instead of the operator's own: for a shell job one that needs nothing but its shell, else one with the runner."""
    resources: dict[str, Any] | None = None
    service_account: str | None = None
    template: dict[str, Any] | None = None
    """The user's PodTemplateSpec; what is the operator's wins over it."""
    complete_exit_codes: frozenset[int] = frozenset()
    """Exit codes of a container, or of a shell command in the user's image, that end the schedule for good."""
    payload_from: Value | None = None
    """A reference to the payload, which stays one: the Pod's environment takes it from the Secret or ConfigMap."""
    keep: KeepPods = field(default_factory=KeepPods)

    @property
    def by_runner(self) -> bool:
        """Whether the operator's runner is what the container runs."""
        return self.container is None and (self.shell is None or self.image is None)


@dataclass(frozen=True, slots=True)
class PodSettings:
    """What the administrator decides about Pods."""

    image: str | None = None
    """The operator's own image, in which the runner is; None: what needs it fails, and says so."""
    image_pull_policy: str | None = None
    """Of the operator's own image; None: as Kubernetes has it."""
    restricted: bool = False
    """Whether Pods of the user's images, too, must meet the Pod Security standard ``restricted``."""
    plugins: bool = False
    """Whether the runner loads the Python jobs that distributions in its image announce."""
    slack: int = 60
    """Seconds that a Pod may live beyond all that it is allowed before the kubelet ends it: only a backstop, so long
    that the operator's own timeout comes first."""
