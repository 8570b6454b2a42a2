"""Prepares an attempt before it starts, and calls the hooks when its run has ended.

The owner of a row decides that an attempt starts. Here the attempt is described for its executor, and its payload is
resolved. If that fails (this version can't read the job, or a Secret is missing), the attempt fails with that reason,
like an attempt that fails for any other reason.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import structlog

from scheduledjob.domain.schedule.state import Outcome, Run, RunRecord, record_of
from scheduledjob.domain.time.durations import format_duration
from scheduledjob.domain.time.instants import SECOND, Instant

from .executor import Attempt, References, Result
from .store import Origin

if TYPE_CHECKING:
    from scheduledjob.domain.schedule.definition import Definition

    from .owned_schedule import OwnedSchedule, RunningAttempt

log = structlog.get_logger("scheduledjob.attempts")

Hook: TypeAlias = Callable[[Any, Attempt, RunRecord], Awaitable[Result]]
"""Calls one hook (its definition as plain JSON) for a run that ended. Has a time limit of its own."""


class AttemptPreparer:
    """Prepares attempts. Without ``references``, no payload can refer to a Secret; without ``hook``, no hook runs."""

    def __init__(self, references: References | None = None, hook: Hook | None = None) -> None:
        self._references = references
        self._hook = hook

    def describe(self, owned: OwnedSchedule, run: Run, run_id: str, now: Instant) -> Attempt:
        """Describe an attempt for its executor, but for what ``execute`` adds."""
        row, timeouts = owned.row, owned.schedule.definition.timeouts
        limit, left = timeouts.attempt, None
        if timeouts.total is not None:
            left = max(0, run.begun + timeouts.total - now)
            limit = left if limit is None else min(limit, left)
        namespace, name = "", row.slug
        if row.origin != Origin.LIBRARY:
            namespace, _, name = row.slug.partition("/")
        return Attempt(
            run_id=run_id,
            uid=row.uid,
            namespace=namespace,
            name=name,
            slot=run.slot,
            attempt=run.attempt,
            version=row.version,
            deadline=owned.lease.deadline,
            timeout=None if limit is None else limit / SECOND,
            payload=row.payload if run.payload is None else run.payload,
            references=self._references,
            pending=timeouts.pending / SECOND,
            total=None if left is None else left / SECOND,
            begun=run.begun,
            adopted=run.adoptable,
        )

    def execute(self, running: RunningAttempt) -> Awaitable[Result]:
        """Complete an attempt and run it to its end. Any exception but a cancellation is its failure."""
        attempt, definition = running.attempt, running.definition
        attempt.params = running.kind.params(definition)
        if definition.payload_from is not None and running.run.payload is None and not running.kind.detached:
            return self._execute_with_payload(running, definition.payload_from)
        return running.kind.executor.run(attempt)

    async def _execute_with_payload(self, running: RunningAttempt, reference: Mapping[str, Any]) -> Result:
        running.attempt.payload = await self._payload(reference)
        running.attempt.payload_is_secret = "secret" in reference
        return await running.kind.executor.run(running.attempt)

    async def _payload(self, reference: Mapping[str, Any]) -> bytes | None:
        if self._references is None:
            raise LookupError("payloadFrom can't be resolved here: there are no Secrets or ConfigMaps beside the job")
        for kind, field in (("Secret", "secret"), ("ConfigMap", "config_map")):
            if field in reference:
                name, key = reference[field]
                try:
                    return await self._references.resolve(kind, name, key)
                except LookupError:
                    if reference.get("optional"):
                        return None
                    raise
        raise LookupError(f"payloadFrom names neither a Secret nor a ConfigMap: {reference}")

    async def call_hooks(self, attempt: Attempt, record: RunRecord, definition: Definition) -> None:
        """Call the hooks for the outcome of a run.

        The end of the run is written after that: a crash in between calls the hooks again, but never skips them.
        """
        if self._hook is None:
            return
        hooks: Mapping[Outcome, Sequence[Any]] = {
            Outcome.FAILED: definition.on_failure,
            Outcome.SUCCEEDED: definition.on_success,
        }
        for hook in hooks.get(record.outcome, ()):
            result = await self._hook(hook, attempt, record)
            if not result.ok:
                log.warning("a hook failed", slug=record.slug, outcome=record.outcome.value, reason=result.reason)

    async def report_overdue(self, owned: OwnedSchedule, now: Instant) -> None:
        """Call ``onFailure`` for a schedule that had no success for too long.

        No run belongs to that, so the hooks get a record of a failed run for the instant at which it was noticed.
        """
        row, definition = owned.row, owned.schedule.definition
        notice = Run(slot=now, due=now, token=f"overdue-{now}")
        reason = f"Overdue: no success for {format_duration(definition.expect_success_within or 0)}"
        record = record_of(notice, Outcome.FAILED, now, uid=row.uid, slug=row.slug, keep=definition.keep, reason=reason)
        attempt = self.describe(owned, notice, record.run_id, now)
        await self.call_hooks(attempt, record, definition)
