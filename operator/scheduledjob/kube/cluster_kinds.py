"""What an operator can run: each kind of job by the name that it has in the store, and what calls hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from scheduledjob.engine.executor import Attempt, CurlSpec, Result, ShellSpec
from scheduledjob.engine.kinds import JobKind
from scheduledjob.jobs.container.pod_spec import PodSpec
from scheduledjob.jobs.curl.curl_executor import CurlExecutor
from scheduledjob.jobs.hooks import described_as, hook_caller
from scheduledjob.jobs.python.python_job import JobExecutor, PrintJob, discover_jobs
from scheduledjob.kube.reconcile.desired_state import KIND_INVALID, kind_of
from scheduledjob.manifests.pod_translation import POD_KIND

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scheduledjob.engine.attempts import Hook
    from scheduledjob.engine.executor import Executor
    from scheduledjob.jobs.curl.addresses import AddressFilter


class _Invalid:
    """Ends what is left to run of an object whose spec became invalid."""

    async def start(self) -> None:
        """Nothing to make ready."""

    async def stop(self) -> None:
        """Nothing to release."""

    def extend(self, run_ids: Sequence[str], deadline: float) -> None:
        """Nothing runs."""

    async def run(self, attempt: Attempt) -> Result:
        return Result(False, "the spec of its ScheduledJob is invalid now: see its Ready condition")


class Runnable(NamedTuple):
    kinds: dict[str, JobKind]
    hook: Hook


def cluster_kinds(
    *,
    shell: Executor | None,
    pods: Executor,
    addresses: AddressFilter,
    plugins: bool,
    write: Callable[[str], object],
) -> Runnable:
    """Every kind that this operator runs.

    ``shell`` None: inline shell is not allowed anywhere. ``addresses``: what inline HTTP may connect to. ``write``
    takes what ``print`` jobs print. ``plugins``: also the Python jobs that installed distributions announce;
    ``JobPluginError`` names those that can't be used.
    """
    curl = CurlExecutor(addresses)
    executors: dict[str, Executor] = {"curl": curl, "print": JobExecutor("print", PrintJob(write))}
    if shell is not None:
        executors["shell"] = shell
    for name, job in (discover_jobs() if plugins else {}).items():
        executors[name] = JobExecutor(name, job)
    kinds = {kind_of(name): JobKind(kind_of(name), executor) for name, executor in executors.items()}
    kinds[kind_of("curl")].params = described_as(CurlSpec)
    if shell is not None:
        kinds[kind_of("shell")].params = described_as(ShellSpec)
    kinds[POD_KIND] = JobKind(POD_KIND, pods, params=described_as(PodSpec), detached=True)
    kinds[KIND_INVALID] = JobKind(KIND_INVALID, _Invalid())
    return Runnable(kinds, hook_caller(curl))
