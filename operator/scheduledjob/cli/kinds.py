"""What ``run`` can do with a manifest: which kinds of jobs, what they are called in the store, how hooks are called.

Programs that use the library register kinds of their own in the same installation, where ``shell`` means "the payload
is the command" and a row holds no definition. So a manifest's kinds have other names, all made here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from scheduledjob.cli.formats import run_as_json
from scheduledjob.domain.instants import SECOND
from scheduledjob.engine.jobs import Attempt, CurlSpec, Executor, Result, ShellSpec
from scheduledjob.engine.kinds import Kind
from scheduledjob.executors.curl import CurlExecutor
from scheduledjob.executors.custom import JobExecutor, PrintJob, discover_jobs
from scheduledjob.executors.shell import ShellExecutor
from scheduledjob.manifests.definition import CURL_TIMEOUT, to_definition

if TYPE_CHECKING:
    from collections.abc import Callable

    from scheduledjob.domain.definition import Definition
    from scheduledjob.domain.state import RunRecord
    from scheduledjob.engine.attempts import Hook
    from scheduledjob.manifests.models import ScheduledJob


def kind_of(kind: str) -> str:
    """What the store calls a kind of job of manifests: ``manifest.shell``, ``manifest.custom.report``."""
    return f"manifest.{kind}" if kind in {"shell", "curl"} else f"manifest.custom.{kind}"


def definition_of(job: ScheduledJob) -> Definition:
    """What a manifest says, under the name that its kind has in the store."""
    definition = to_definition(job)
    return msgspec.structs.replace(definition, kind=kind_of(definition.kind))


def manifest_kinds(write: Callable[[str], object], *, plugins: bool) -> tuple[dict[str, Kind], Hook]:
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
    kinds = {kind_of(name): Kind(kind_of(name), executor) for name, executor in executors.items()}
    kinds[kind_of("shell")].params = _described_as(ShellSpec)
    kinds[kind_of("curl")].params = _described_as(CurlSpec)

    async def call_hook(hook: Any, attempt: Attempt, record: RunRecord) -> Result:
        return await _call_hook(curl, hook, attempt, record)

    return kinds, call_hook


def _described_as(description: type) -> Callable[[Definition], Any]:
    """Makes an executor's typed description of the plain JSON of a definition."""

    def describe(definition: Definition) -> Any:
        try:
            return msgspec.convert(definition.job, description)
        except msgspec.ValidationError as error:
            raise ValueError(f"the job can't be read by this version: {error}") from None

    return describe


async def _call_hook(curl: CurlExecutor, hook: Any, attempt: Attempt, record: RunRecord) -> Result:
    """Call a hook: the run as JSON is its body unless it has one, and its idempotency key is not the run's own."""
    call = Attempt(
        run_id=f"{attempt.run_id}-{record.outcome.value.lower()}",
        uid=attempt.uid,
        namespace=attempt.namespace,
        name=attempt.name,
        slot=attempt.slot,
        attempt=attempt.attempt,
        version=attempt.version,
        deadline=attempt.deadline,
        timeout=CURL_TIMEOUT / SECOND,
        payload=msgspec.json.encode(run_as_json(record)),
        references=attempt.references,
    )
    try:
        call.params = msgspec.convert(hook, CurlSpec)
        return await curl.run(call)
    except Exception as error:  # a hook must not end the replica
        return Result(False, f"{type(error).__name__}: {error}")
