"""Attempts: what one needs before it starts, and the hooks that its run's end calls.

The owner of a row decides that an attempt starts; here it is described for its executor, given what it refers to, and
run. What is wrong with it at that point (a description that this version can't read, a Secret that is not there) is a
failed attempt with words, like anything else that goes wrong in it.
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
"""Calls one hook (its definition as plain JSON) for a run that ended; bounded in time by itself."""


class Attempts:
    """Describes and runs attempts. ``references`` None: nothing can be referred to; ``hook`` None: there are none."""

    def __init__(self, references: References | None = None, hook: Hook | None = None) -> None:
        self._references = references
        self._hook = hook

    def describe(self, hold: OwnedSchedule, run: Run, run_id: str, now: Instant) -> Attempt:
        """Everything that a job is told about itself, but for what ``run`` still has to find out."""
        row, timeouts = hold.row, hold.schedule.definition.timeouts
        limit = timeouts.attempt
        if timeouts.total is not None:
            left = max(0, run.begun + timeouts.total - now)
            limit = left if limit is None else min(limit, left)
        namespace, name = "", row.slug
        if row.origin != Origin.LIBRARY:
            namespace, _, name = row.slug.partition("/")
        return Attempt(
            run_id,
            row.uid,
            namespace,
            name,
            run.slot,
            run.attempt,
            row.version,
            hold.lease.deadline,
            None if limit is None else limit / SECOND,
            None,
            row.payload if run.payload is None else run.payload,
            self._references,
            timeouts.pending / SECOND,
            run.begun,
            run.adoptable,
        )

    def run(self, this: RunningAttempt) -> Awaitable[Result]:
        """Run an attempt to its end. Whatever is raised, but for a cancellation, is its failure."""
        attempt, definition = this.attempt, this.definition
        attempt.params = this.kind.params(definition)
        if definition.payload_from is not None and this.run.payload is None and not this.kind.detached:
            return self._run_with_payload(this, definition.payload_from)
        return this.kind.executor.run(attempt)

    async def _run_with_payload(self, this: RunningAttempt, reference: Mapping[str, Any]) -> Result:
        this.attempt.payload = await self._payload(reference)
        this.attempt.payload_is_secret = "secret" in reference
        return await this.kind.executor.run(this.attempt)

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
        """Before the end of the run is written: a crash in between calls them again, never leaves them out."""
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

    async def tell_overdue(self, hold: OwnedSchedule, now: Instant) -> None:
        """Call ``onFailure`` for a schedule without a success for too long: once, beside whatever else goes on.

        There is no run that this belongs to, so it is told as one of its own, for the instant at which it was noticed.
        """
        row, definition = hold.row, hold.schedule.definition
        notice = Run(slot=now, due=now, token=f"overdue-{now}")
        reason = f"Overdue: no success for {format_duration(definition.expect_success_within or 0)}"
        record = record_of(notice, Outcome.FAILED, now, uid=row.uid, slug=row.slug, keep=definition.keep, reason=reason)
        attempt = self.describe(hold, notice, record.run_id, now)
        await self.call_hooks(attempt, record, definition)
