"""BuiltInKind: what each kind of job declares about itself. JobContext: what a program gives to the kinds it runs."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum
from typing import TYPE_CHECKING, Any

import msgspec

from scheduledjob.engine.executor import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from scheduledjob.domain.schedule.definition import Definition
    from scheduledjob.domain.time.instants import Micros
    from scheduledjob.engine.executor import Executor

    from .curl.addresses import AddressFilter
    from .shell.confinement import Confinement
    from .shell.shell_spec import ShellLimits


class Place(Enum):
    """Where a job runs if its manifest does not say."""

    INLINE = "Inline"
    """In the process of the replica."""
    INLINE_IF_ALLOWED = "InlineIfAllowed"
    """In the process of the replica if the administrator allows it for the namespace, otherwise in a Pod."""
    POD = "Pod"
    """Always in a Pod."""


class ResultCode(Enum):
    """What the code in the results of a kind is."""

    NONE = "None"
    EXIT_CODE = "ExitCode"
    HTTP_STATUS = "HttpStatus"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobContext:
    """What a program (``run -f``, the operator, the runner in a Pod) lets its jobs do."""

    write: Callable[[str], object]
    """Called with each line that ``print`` jobs print: the slot, the slug and the text."""
    plugins: bool = False
    """Whether to load the Python jobs that installed packages announce."""
    addresses: AddressFilter | None = None
    """The addresses that HTTP requests may connect to; None: all addresses."""
    inline_shell: bool = True
    """Whether shell commands may run in this process."""
    confinement: Confinement | None = None
    """What shell commands may do; None: whatever this process may do."""
    shell_limits: ShellLimits | None = None
    """None: the default of ``ShellExecutor``."""
    cancel_grace: float | None = None
    """Seconds between TERM and KILL for a shell command that is cancelled; None: the default of ``ShellExecutor``."""
    pods: Executor | None = None
    """Runs Pods; None outside a cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltInKind:
    """A kind of job that the package brings. "How to add" in docs/architecture.md says how to add one."""

    name: str
    """The key in ``spec.job``; for a Python job the value of ``job.custom.kind``."""
    make_executor: Callable[[JobContext], Executor | None]
    """Returns None if this program does not run the kind. Imports what is heavy itself."""
    spec: type | None = None
    """The dataclass that the stored job is converted into; None: the executor receives the plain JSON."""
    summary: Callable[[Mapping[str, Any]], str] = lambda job: ""
    """Returns the short words for a job, from its part of the manifest: a command, a URL, an image."""
    place: Place = Place.INLINE
    result_code: ResultCode = ResultCode.NONE
    timeout: Micros | None = None
    """Time limit of an attempt if ``timeouts.attempt`` is unset; None: no limit."""
    in_pod_spec: bool = False
    """Whether ``PodSpec`` has a field of its name; other kinds go into the field ``custom``."""
    custom: bool = False
    """Whether manifests select it with ``job.custom.kind``."""
    text_params: tuple[str, ...] | None = None
    """The names of the ``params`` of a custom kind, all of which are text; None: any params."""
    stored_kind: str | None = None
    """Its name in the store, if it is not made from ``name``."""
    detached: bool = False
    """Whether its attempts go on when the replica ends (see ``JobKind.detached``)."""

    def params(self, job: Any) -> Any:
        """Return what the executor receives for a stored job. Raises ``ValueError`` if it can't be read."""
        if self.spec is None:
            return job
        try:
            return msgspec.convert(job, self.spec)
        except msgspec.ValidationError as error:
            raise ValueError(f"the job can't be read by this version: {error}") from None

    def params_of_definition(self, definition: Definition) -> Any:
        """Return what the executor receives for a definition. Raises ``ValueError`` if it can't be read."""
        return self.params(definition.job)


def values_of(spec: Any) -> Iterator[Value]:
    """Yield each value of a spec that may be a reference, in a fixed order."""
    for field in fields(spec):
        given = getattr(spec, field.name)
        for value in given.values() if isinstance(given, dict) else (given,):
            if isinstance(value, Value):
                yield value
