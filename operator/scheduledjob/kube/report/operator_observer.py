"""Reports what an operator does: as metrics, as status and as Events.

The engine, the reconciler and the status writer call one observer. They call it between two steps of a run, so each
method only counts, marks an object or queues an Event. Slow work is done elsewhere.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from scheduledjob.domain.schedule.runs import capacity_reason
from scheduledjob.domain.schedule.state import Outcome, State
from scheduledjob.domain.time.instants import rfc3339
from scheduledjob.engine.stored_row import Origin
from scheduledjob.web.observing import MetricsObserver

from .events import EventType, Reason, Regarding
from .status import COMPLETED, failed_runs
from .status_queue import START_DELAY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from scheduledjob.domain.schedule.state import RunRecord
    from scheduledjob.domain.time.instants import Instant, Micros
    from scheduledjob.engine.executor import Attempt
    from scheduledjob.engine.stored_row import Row, Settlement
    from scheduledjob.kube.reconcile.desired_state import DesiredState
    from scheduledjob.kube.reconcile.known_objects import KnownObjects, ObservedObject
    from scheduledjob.web.metrics import Metrics

    from .events import EventRecorder
    from .status import Begun, Waiting
    from .status_queue import StatusQueue

log = structlog.get_logger("scheduledjob.runs")

FAILURE_LOG_INTERVAL = 60.0
"""Seconds between two log lines about failed runs of the same object. Failures in between are counted."""
REASON_LOGGED = 1024
"""Characters of a reason that are logged, as many as in status."""

NORMAL: EventType = "Normal"
WARNING: EventType = "Warning"


_PASSED_OVER = {
    Outcome.MISSED: (WARNING, Reason.MISSED, "it was too late to start, see spec.misfire"),
    Outcome.SKIPPED_OVERLAP: (NORMAL, Reason.SKIPPED_OVERLAP, "another run was active, see spec.concurrencyPolicy"),
}
"""The Events about slots that did not run. There is none for excluded slots, which are not meant to run."""


class OperatorObserver(MetricsObserver):
    """The observer of one replica of the operator."""

    def __init__(
        self,
        metrics: Metrics,
        objects: KnownObjects,
        events: EventRecorder,
        queue: StatusQueue,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(metrics)
        self._monotonic = monotonic
        self._metrics = metrics
        self._objects = objects
        self._events = events
        self._queue = queue
        self._owned: dict[str, str] = {}
        """The uid of each schedule that this replica owns, by slug. A new object may already have the same slug."""
        self._begun: dict[str, dict[str, Instant]] = {}
        """By slug and run id, when each active run began here. The store learns it only when the run ends."""
        self._waiting: dict[str, dict[str, tuple[str, bool]]] = {}
        """By slug and run id, what each attempt waits for, and whether its job has started."""
        self._failures: dict[str, tuple[float, int]] = {}
        """By uid, when a failed run was logged last, and how many have failed since."""

    # ---------------------------------------------------------------- calls of the engine

    def claimed(self, row: Row) -> None:
        super().claimed(row)
        if row.origin == Origin.CLUSTER.value:
            self._owned[row.slug] = row.uid

    def started(self, attempt: Attempt, due: Instant, late: Micros) -> None:
        super().started(attempt, due, late)
        if attempt.attempt == 1:  # the store knows when a run with later attempts began
            self._begun.setdefault(_slug_of(attempt), {})[attempt.run_id] = attempt.begun
        self._queue.changed(attempt.uid, START_DELAY)

    def waiting(self, attempt: Attempt, words: str, started: bool) -> None:
        """The Pod of an attempt waits for this; empty: it does not wait any more. ``started``: its job has started."""
        slug = _slug_of(attempt)
        if words:
            self._waiting.setdefault(slug, {})[attempt.run_id] = words, started
            message = f"Attempt {attempt.attempt} of the run of {rfc3339(attempt.slot)} waits for {words}"
            self._record_event(attempt.uid, slug, WARNING, Reason.WAITING, message)
        elif (waiting := self._waiting.get(slug)) is not None:
            waiting.pop(attempt.run_id, None)
            if not waiting:
                del self._waiting[slug]
        self._queue.changed(attempt.uid, START_DELAY)

    def settled(self, row: Row, settlement: Settlement) -> None:
        super().settled(row, settlement)
        if row.origin == Origin.CLUSTER.value:
            self._queue.changed(row.uid)

    def recorded(self, records: Sequence[RunRecord]) -> None:
        super().recorded(records)
        for record in records:
            if (begun := self._begun.get(record.slug)) is not None:
                begun.pop(record.run_id, None)
            run = f"The run of {rfc3339(record.slot)}"
            if record.outcome is Outcome.FAILED:
                message = f"{run} failed at attempt {record.attempt}: {record.reason}"
                self._record_event(record.uid, record.slug, WARNING, Reason.FAILED, message)
                self._log_failed(record)
            elif record.outcome is Outcome.SUCCEEDED:
                self._record_event(record.uid, record.slug, NORMAL, Reason.SUCCEEDED, f"{run} succeeded")
            else:
                message = f"{run} ended as {record.outcome.value}: {record.reason}"
                self._record_event(record.uid, record.slug, NORMAL, Reason(record.outcome.value), message)

    def passed_over(self, slug: str, outcome: Outcome, count: int) -> None:
        super().passed_over(slug, outcome, count)
        uid = self._owned.get(slug)
        if uid is None or outcome not in _PASSED_OVER:
            return
        event_type, reason, why = _PASSED_OVER[outcome]
        self._record_event(uid, slug, event_type, reason, f"{count} slot{'s' * (count > 1)} did not run: {why}")

    def lacked_capacity(self, slug: str, active: int) -> None:
        super().lacked_capacity(slug, active)
        if (uid := self._owned.get(slug)) is not None:
            message = f"A slot did not run: {capacity_reason(active)}; end runs that hang by spec.timeouts"
            self._record_event(uid, slug, WARNING, Reason.LACKED_CAPACITY, message)

    def retrying(self, attempt: Attempt, reason: str, due: Instant) -> None:
        super().retrying(attempt, reason, due)
        message = f"Attempt {attempt.attempt} of the run of {rfc3339(attempt.slot)} failed: {reason}"
        self._record_event(attempt.uid, _slug_of(attempt), WARNING, Reason.RETRYING, message)

    def released(self, slug: str, wake_at: Instant | None) -> None:
        super().released(slug, wake_at)
        self._owned.pop(slug, None)
        self._begun.pop(slug, None)

    def fenced(self, slug: str, why: str) -> None:
        uid = self._owned.pop(slug, None)
        self._begun.pop(slug, None)
        if uid is not None and self._objects.get(uid) is None:
            super().released(slug, None)  # the object was deleted, so nothing was lost
            return
        super().fenced(slug, why)
        if uid is not None:
            message = f"A replica lost the schedule and stopped its runs: {why}"
            self._record_event(uid, slug, WARNING, Reason.OWNER_LOST, message)

    def overdue(self, slug: str) -> None:
        super().overdue(slug)
        if uid := self._objects.uid_of(slug):
            message = "No run has succeeded for longer than expectSuccessWithin"
            self._record_event(uid, slug, WARNING, Reason.OVERDUE, message)

    def hook_given_up(self, slug: str, uid: str, attempts: int, reason: str) -> None:
        super().hook_given_up(slug, uid, attempts, reason)
        message = f"A hook failed {attempts} times and is not called again: {reason}"
        self._record_event(uid, slug, WARNING, Reason.HOOK_GIVEN_UP, message)

    # ---------------------------------------------------------------- calls of the reconciler

    def reconciled(self, desired: DesiredState) -> None:
        self._metrics.reconciled.add()
        problem, reason = (
            (desired.problem, Reason.INVALID_SPEC) if desired.problem else (desired.unknown_kind, Reason.UNKNOWN_KIND)
        )
        if problem:
            self._record_event(desired.uid, desired.slug, WARNING, reason, problem, "Reconcile")
        self._queue.changed(desired.uid)

    def tombstoned(self, uid: str) -> None:
        self._failures.pop(uid, None)
        self._queue.forget(uid)

    def swept(self, count: int) -> None:
        self._metrics.swept.add(by=count)

    def request_refused(self, body: Mapping[str, Any], reason: str) -> None:
        metadata = body["metadata"]
        slug = f"{metadata['namespace']}/{metadata['name']}"
        self._record_event(metadata["uid"], slug, WARNING, Reason.ACT_REFUSED, reason, "Reconcile")

    def object_restored(self, body: Mapping[str, Any]) -> None:
        self._restored(
            body,
            "The cluster has an older version of this object than the store: etcd was restored from a backup. "
            "The object counts from now on",
        )

    def store_restored(self, body: Mapping[str, Any]) -> None:
        self._restored(
            body,
            "The store has less history of this object than its status: the store was restored from a backup, or lost "
            "its last writes. The schedule continues from its status",
        )

    def _restored(self, body: Mapping[str, Any], message: str) -> None:
        metadata = body["metadata"]
        slug = f"{metadata['namespace']}/{metadata['name']}"
        log.warning("restored from a backup", slug=slug, found=message)
        self._record_event(metadata["uid"], slug, WARNING, Reason.RESTORED, message, "Reconcile")

    def reconcile_failed(self) -> None:
        self._metrics.reconcile_errors.add()

    # ---------------------------------------------------------------- calls of the status writer

    def begun(self, slug: str) -> Begun:
        """Return when each active run began that this replica has started."""
        return {run_id: rfc3339(begun) for run_id, begun in self._begun.get(slug, {}).items()}

    def waits_for(self, slug: str) -> Waiting:
        """Return, by run id, what the attempts of a schedule wait for."""
        return self._waiting.get(slug, {})

    def written(self, observed: ObservedObject, state: State) -> None:
        """The status of an object shows ``state`` now; ``observed`` is the object before the write."""
        self._metrics.status_writes.add()
        before = _state_of(observed.engine)
        if state.paused and (before is None or not before.paused):
            message = f"The last {failed_runs(state)} failed: change the spec, or resume the schedule"
            self._record_event(observed.uid, observed.slug, WARNING, Reason.AUTO_PAUSED, message)
        # A schedule with an invalid spec has no slots either, but it is not completed.
        completed = None if self._objects.is_invalid(observed.slug) else state.completed
        if completed is not None and (before is None or before.completed is None):
            message = f"The schedule is completed: {COMPLETED[completed]}"
            self._record_event(observed.uid, observed.slug, NORMAL, Reason.COMPLETED, message)

    # ---------------------------------------------------------------- log and Events

    def _log_failed(self, record: RunRecord) -> None:
        """Log a failed run, but a job that fails every second only once a minute, with the number of failures."""
        now = self._monotonic()
        logged_at, not_logged = self._failures.get(record.uid, (float("-inf"), 0))
        if now - logged_at < FAILURE_LOG_INTERVAL:
            self._failures[record.uid] = logged_at, not_logged + 1
            return
        self._failures[record.uid] = now, 0
        more = {"failed_since_last_line": not_logged} if not_logged else {}
        reason = record.reason[:REASON_LOGGED]
        log.warning(
            "a run failed", slug=record.slug, run_id=record.run_id, attempt=record.attempt, reason=reason, **more
        )

    def _record_event(
        self, uid: str, slug: str, event_type: EventType, reason: Reason, message: str, action: str = "Run"
    ) -> None:
        namespace, _, name = slug.partition("/")
        self._events.record(Regarding(namespace, name, uid), event_type, reason, message, action)


def _slug_of(attempt: Attempt) -> str:
    return f"{attempt.namespace}/{attempt.name}"


def _state_of(engine: str) -> State | None:
    try:
        return State.decode(engine) if engine else None
    except msgspec.MsgspecError:
        return None
