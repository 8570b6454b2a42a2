"""What ``run`` can do with a manifest: which kinds of jobs, what they are called in the store, how hooks are called.

Programs that use the library register kinds of their own in the same installation, where ``shell`` means "the payload
is the command" and a row holds no definition. So a manifest's kinds have other names, all made here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from scheduledjob.engine.executor import CurlSpec, Executor, ShellSpec
from scheduledjob.engine.kinds import JobKind
from scheduledjob.jobs.curl.curl_executor import CurlExecutor
from scheduledjob.jobs.hooks import described_as, hook_caller
from scheduledjob.jobs.python.python_job import JobExecutor, PrintJob, discover_jobs
from scheduledjob.jobs.shell.shell_executor import ShellExecutor
from scheduledjob.manifests.translate import to_definition

if TYPE_CHECKING:
    from collections.abc import Callable

    from scheduledjob.domain.schedule.definition import Definition
    from scheduledjob.engine.attempts import Hook
    from scheduledjob.manifests.models import ScheduledJob


def kind_of(kind: str) -> str:
    """What the store calls a kind of job of manifests: ``manifest.shell``, ``manifest.custom.report``."""
    return f"manifest.{kind}" if kind in {"shell", "curl"} else f"manifest.custom.{kind}"


def definition_of(job: ScheduledJob) -> Definition:
    """What a manifest says, under the name that its kind has in the store."""
    definition = to_definition(job)
    return msgspec.structs.replace(definition, kind=kind_of(definition.kind))


def manifest_kinds(write: Callable[[str], object], *, plugins: bool) -> tuple[dict[str, JobKind], Hook]:
    """Every kind that ``run`` knows, by its name in the store, and what calls hooks.

    ``write`` takes what ``print`` jobs print. ``plugins``: also the Python jobs that installed distributions announce;
    ``JobPluginError`` names those that can't be used.
    """
    curl = CurlExecutor()
    executors: dict[str, Executor] = {
        "shell": ShellExecutor(),
        "curl": curl,
        "print": JobExecutor("print", PrintJob(write)),
    }
    for name, job in (discover_jobs() if plugins else {}).items():
        executors[name] = JobExecutor(name, job)
    kinds = {kind_of(name): JobKind(kind_of(name), executor) for name, executor in executors.items()}
    kinds[kind_of("shell")].params = described_as(ShellSpec)
    kinds[kind_of("curl")].params = described_as(CurlSpec)

    return kinds, hook_caller(curl)
