"""Prepares an attempt before it starts.

The owner of a row decides that an attempt starts. Here the attempt is described for its executor, and its payload is
resolved. If that fails (this version can't read the job, or a Secret is missing), the attempt fails with that reason,
like an attempt that fails for any other reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scheduledjob.domain.time.instants import SECOND, Instant

from .executor import Attempt, References, Result
from .stored_row import Origin

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from scheduledjob.domain.schedule.state import Run

    from .owned_schedule import OwnedSchedule, RunningAttempt


class AttemptPreparer:
    """Prepares attempts. Without ``references``, no payload can refer to a Secret."""

    def __init__(self, references: References | None = None) -> None:
        self._references = references

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
