"""The job kind ``print``: the Python job that the package brings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scheduledjob.jobs.built_in_kind import BuiltInKind, JobContext

if TYPE_CHECKING:
    from scheduledjob.engine.executor import Executor


def _make_executor(context: JobContext) -> Executor:
    from .python_job import JobExecutor, PrintJob

    return JobExecutor("print", PrintJob(context.write))


PRINT = BuiltInKind(name="print", make_executor=_make_executor, custom=True, text_params=("text",))
