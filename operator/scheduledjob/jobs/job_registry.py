"""The table of the built-in job kinds, and the one place where a program makes the kinds that it runs.

``run -f``, the operator and the runner in a Pod call ``make_kinds`` or ``make_executor`` with a ``JobContext``. The
names in the store begin with a prefix, because programs that use the library register kinds of their own in the same
store: there ``shell`` means "the payload is the command". Manifest files use ``manifest``, a cluster uses ``cluster``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from scheduledjob.engine.kinds import JobKind

from .built_in_kind import ResultCode
from .container.container_kind import CONTAINER
from .curl.curl_kind import CURL
from .python.print_kind import PRINT
from .shell.shell_kind import SHELL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scheduledjob.engine.executor import Executor, Hook

    from .built_in_kind import BuiltInKind, JobContext
    from .python.python_job import Job, JobFunction

_TABLE: Final = (
    SHELL,
    CURL,
    CONTAINER,
    PRINT,
)

BUILT_IN: Final[Mapping[str, BuiltInKind]] = {kind.name: kind for kind in _TABLE}
"""By name."""


class Runnable(NamedTuple):
    """What a program can run."""

    kinds: dict[str, JobKind]
    """By their name in the store."""
    hook: Hook
    """Calls the hooks of a schedule."""


def stored_kind(prefix: str, name: str) -> str:
    """Return the name of a kind in the store, such as ``manifest.shell`` or ``cluster.custom.report``."""
    built_in = BUILT_IN.get(name)
    if built_in is None or built_in.custom:
        return f"{prefix}.custom.{name}"
    return built_in.stored_kind or f"{prefix}.{name}"


def result_code_of(name: str) -> ResultCode:
    """Return what the code in the results of a kind is."""
    built_in = BUILT_IN.get(name)
    return ResultCode.NONE if built_in is None else built_in.result_code


def make_kinds(prefix: str, context: JobContext) -> Runnable:
    """Return every kind that the context allows. Raises ``JobPluginError`` if a plugin can't be used."""
    from .hooks import hook_caller
    from .python.python_job import JobExecutor

    kinds: dict[str, JobKind] = {}
    for built_in in _TABLE:
        executor = built_in.make_executor(context)
        if executor is not None:
            name = stored_kind(prefix, built_in.name)
            kinds[name] = JobKind(name, executor, params=built_in.params_of_definition, detached=built_in.detached)
    for kind, job in _plugins(context).items():
        name = stored_kind(prefix, kind)
        kinds[name] = JobKind(name, JobExecutor(kind, job))
    return Runnable(kinds, hook_caller(kinds[stored_kind(prefix, CURL.name)].executor))


def make_executor(kind: str, job: Any, context: JobContext) -> tuple[Executor, Any]:
    """Return the executor of one kind and its params for a stored job.

    Raises ``JobPluginError`` if a plugin can't be used, ``LookupError`` if the kind is unknown and ``ValueError`` if
    the job can't be read.
    """
    from .python.python_job import JobExecutor

    built_in = BUILT_IN.get(kind)
    executor = built_in.make_executor(context) if built_in is not None else None
    if built_in is not None and executor is not None:
        return executor, built_in.params(job)
    jobs = _plugins(context)
    if kind not in jobs:
        known = ", ".join(sorted(jobs)) or "none"
        hint = "" if context.plugins else "; the administrator has to allow plugins"
        raise LookupError(f'no job "{kind}" is registered in this image (there are: {known}){hint}')
    return JobExecutor(kind, jobs[kind]), job


def summary_of(job: Mapping[str, Any]) -> tuple[str, str]:
    """Return the kind of ``spec.job`` of an object and the short words for it; both empty if there is no job."""
    key = next(iter(job), "")
    part = job.get(key) or {}
    if key == "custom":
        return str(part.get("kind", key)), ""
    built_in = BUILT_IN.get(key)
    return key, built_in.summary(part) if built_in is not None else ""


def _plugins(context: JobContext) -> dict[str, Job | JobFunction]:
    from .python.python_job import discover_jobs

    return discover_jobs(BUILT_IN) if context.plugins else {}
