"""The job kind ``shell``: a command that runs in a shell."""

from scheduledjob.engine.executor import Executor
from scheduledjob.jobs.built_in_kind import BuiltInKind, JobContext, Place, ResultCode
from scheduledjob.jobs.shell.shell_spec import ShellSpec


def _make_executor(context: JobContext) -> Executor | None:
    from .shell_executor import ShellExecutor

    if not context.inline_shell:
        return None
    executor = ShellExecutor(limits=context.shell_limits, confined=context.confinement)
    if context.cancel_grace is not None:
        executor.cancel_grace = context.cancel_grace
    return executor


SHELL = BuiltInKind(
    name="shell",
    make_executor=_make_executor,
    spec=ShellSpec,
    summary=lambda job: str(job.get("command") or ""),
    place=Place.INLINE_IF_ALLOWED,
    result_code=ResultCode.EXIT_CODE,
    in_pod_spec=True,
)
