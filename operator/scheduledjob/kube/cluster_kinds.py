"""What an operator can run: the kinds of jobs by their names in the store, and the function that calls hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scheduledjob.engine.executor import Attempt, Result
from scheduledjob.engine.kinds import JobKind
from scheduledjob.jobs.job_registry import Runnable, make_kinds
from scheduledjob.kube.reconcile.desired_state import KIND_INVALID, STORED_PREFIX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.jobs.built_in_kind import JobContext


class _InvalidSpecExecutor:
    """Fails the remaining runs of an object whose spec is no longer valid."""

    async def start(self) -> None:
        """Do nothing: there is nothing to prepare."""

    async def stop(self) -> None:
        """Do nothing: there is nothing to release."""

    def extend(self, run_ids: Sequence[str], deadline: float) -> None:
        """Do nothing: nothing runs."""

    async def run(self, attempt: Attempt) -> Result:
        return Result(False, "the spec of the ScheduledJob is no longer valid: see its Ready condition")


def cluster_kinds(context: JobContext) -> Runnable:
    """Return every kind that this operator runs. Raises ``JobPluginError`` if a plugin can't be used."""
    runnable = make_kinds(STORED_PREFIX, context)
    runnable.kinds[KIND_INVALID] = JobKind(KIND_INVALID, _InvalidSpecExecutor())
    return runnable
