"""What a shell job is: its command and surroundings, and the resource limits of its processes."""

import resource
from dataclasses import dataclass, field

from scheduledjob.engine.executor import Value

_LEAST_MEMORY = 64 << 20


@dataclass(slots=True)
class ShellSpec:
    """The shell command that an attempt runs."""

    command: str
    shell: str = "/bin/sh"
    env: dict[str, Value] = field(default_factory=dict)
    working_dir: str | None = None
    complete_exit_codes: frozenset[int] = frozenset()
    """Exit codes that count as success and end the schedule permanently."""


@dataclass(frozen=True, slots=True)
class ShellLimits:
    """Soft resource limits of each process of a job; None: the same as the replica's.

    They guard against accidents: as always in Unix, a job may raise its soft limits to the hard ones. The limits of a
    confined job are hard, too.
    """

    cpu_seconds: int | None = None
    """Processor time; SIGXCPU kills a process that uses more."""
    memory_bytes: int | None = None
    """Address space, at least 64 MiB."""
    open_files: int | None = 1024
    processes: int | None = None
    """Counts all processes of the user, not only the job's; root is not limited."""
    file_bytes: int | None = None
    """The largest file that it may write; SIGXFSZ kills a process that writes more."""
    core: int | None = 0
    """Bytes of a core dump."""

    def __post_init__(self) -> None:
        for name, value in self._by_name().items():
            least = {"memory_bytes": _LEAST_MEMORY, "core": 0, "file_bytes": 0, "open_files": 16}.get(name, 1)
            if value < least:
                raise ValueError(f"{name}: {value} is too little; at least {least}")

    def by_resource(self) -> dict[int, int]:
        """Return the limits that are set, by ``resource.RLIMIT_*``."""
        kinds = {
            "cpu_seconds": resource.RLIMIT_CPU,
            "memory_bytes": resource.RLIMIT_AS,
            "open_files": resource.RLIMIT_NOFILE,
            "processes": resource.RLIMIT_NPROC,
            "file_bytes": resource.RLIMIT_FSIZE,
            "core": resource.RLIMIT_CORE,
        }
        return {kinds[name]: value for name, value in self._by_name().items()}

    def _by_name(self) -> dict[str, int]:
        values = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in values.items() if value is not None}
