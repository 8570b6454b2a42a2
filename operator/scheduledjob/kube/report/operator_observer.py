"""What is told of the work: by metrics to machines, by status and Events to people.

The engine, the reconciler and the status writer each say what happened to one listener, and this is it. Everything
here is called between two steps of a run, so it counts, marks and remembers; what takes time is done by others later.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from scheduledjob.domain.schedule.state import Outcome, State
from scheduledjob.domain.time.instants import rfc3339
from scheduledjob.engine.store import Origin
from scheduledjob.web.observing import MetricsObserver

from .events import EventType, Reason, Regarding
from .status import COMPLETED
from .status_writer import START_DELAY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from scheduledjob.domain.schedule.state import RunRecord
    from scheduledjob.domain.time.instants import Instant, Micros
    from scheduledjob.engine.executor import Attempt
    from scheduledjob.engine.store import Row, Settlement
    from scheduledjob.kube.reconcile.desired_state import DesiredState
    from scheduledjob.kube.reconcile.known_objects import KnownObjects, ObservedObject
    from scheduledjob.web.metrics import Metrics

    from .events import EventRecorder
    from .status import Begun
    from .status_writer import StatusWriter

log = structlog.get_logger("scheduledjob.runs")

FAILED_AGAIN = 60.0
"""Seconds from one line of the log of a failed run to the next of the same object: what fails between is counted."""
REASON_LOGGED = 1024
"""Characters of a reason, as in status."""

NORMAL: EventType = "Normal"
WARNING: EventType = "Warning"


_PASSED_OVER = {
    Outcome.MISSED: (WARNING, Reason.MISSED, "it was too late for them, by the misfire rule"),
    Outcome.SKIPPED_OVERLAP: (NORMAL, Reason.SKIPPED_OVERLAP, "other runs were active, by concurrencyPolicy"),
}
"""What is said of slots that did not run. Those that are excluded are meant not to."""


class OperatorObserver(MetricsObserver):
    """The listener of one replica of the operator."""

    def __init__(
        self,
        metrics: Metrics,
        objects: KnownObjects,
        events: EventRecorder,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(metrics)
        self._monotonic = monotonic
        self._metrics = metrics
        self._objects = objects
        self._events = events
        self.status: StatusWriter | None = None
        """Receives what changes; set once it exists."""
        self._held: dict[str, str] = {}
        """The uid of each schedule that is held, by slug: another object may have the name by now."""
        self._begun: dict[str, dict[str, Instant]] = {}
        """By slug, of each run that was started here and has not ended: when. The store is told with its end only."""

        self._failed: dict[str, tuple[float, int]] = {}
        """By uid: when the log named a failed run last, and how many have failed since."""

    # ---------------------------------------------------------------- of the engine

    def claimed(self, row: Row) -> None:
        super().claimed(row)
        if row.origin == Origin.CLUSTER.value:
            self._held[row.slug] = row.uid

    def started(self, attempt: Attempt, due: Instant, late: Micros) -> None:
        super().started(attempt, due, late)
        if attempt.attempt == 1:  # of later ones the store has been told
            self._begun.setdefault(f"{attempt.namespace}/{attempt.name}", {})[attempt.run_id] = attempt.begun
        self._changed(attempt.uid, START_DELAY)

    def settled(self, row: Row, settlement: Settlement) -> None:
        super().settled(row, settlement)
        if row.origin == Origin.CLUSTER.value:
            self._changed(row.uid)

    def recorded(self, records: Sequence[RunRecord]) -> None:
        super().recorded(records)
        for record in records:
            if (begun := self._begun.get(record.slug)) is not None:
                begun.pop(record.run_id, None)
            if record.outcome is Outcome.FAILED:
                words = f"The run of {rfc3339(record.slot)} failed at its attempt {record.attempt}: {record.reason}"
                self._say(record.uid, record.slug, WARNING, Reason.FAILED, words)
                self._log_failed(record)
            elif record.outcome is Outcome.SUCCEEDED:
                self._say(
                    record.uid, record.slug, NORMAL, Reason.SUCCEEDED, f"The run of {rfc3339(record.slot)} succeeded"
                )
            else:
                words = f"The run of {rfc3339(record.slot)} ended as {record.outcome.value}: {record.reason}"
                self._say(record.uid, record.slug, NORMAL, Reason(record.outcome.value), words)

    def passed_over(self, slug: str, outcome: Outcome, count: int) -> None:
        super().passed_over(slug, outcome, count)
        uid = self._held.get(slug)
        if uid is None or outcome not in _PASSED_OVER:
            return
        kind, reason, why = _PASSED_OVER[outcome]
        self._say(uid, slug, kind, reason, f"{count} slot{'s' * (count > 1)} did not run: {why}")

    def retrying(self, attempt: Attempt, reason: str, due: Instant) -> None:
        super().retrying(attempt, reason, due)
        words = f"Attempt {attempt.attempt} of the run of {rfc3339(attempt.slot)} failed: {reason}"
        self._say(attempt.uid, f"{attempt.namespace}/{attempt.name}", WARNING, Reason.RETRYING, words)

    def released(self, slug: str, wake_at: Instant | None) -> None:
        super().released(slug, wake_at)
        self._held.pop(slug, None)
        self._begun.pop(slug, None)

    def fenced(self, slug: str, why: str) -> None:
        uid = self._held.pop(slug, None)
        self._begun.pop(slug, None)
        if uid is not None and self._objects.get(uid) is None:
            super().released(slug, None)  # its object was deleted: nothing was lost
            return
        super().fenced(slug, why)
        if uid is not None:
            self._say(
                uid, slug, WARNING, Reason.OWNER_LOST, f"A replica gave it up, and stopped what it ran of it: {why}"
            )

    def overdue(self, slug: str) -> None:
        super().overdue(slug)
        if uid := self._objects.uid_of(slug):
            self._say(uid, slug, WARNING, Reason.OVERDUE, "No run has succeeded for longer than expectSuccessWithin")

    # ---------------------------------------------------------------- of the reconciler

    def taken(self, desired: DesiredState) -> None:
        self._metrics.reconciled.add()
        if desired.problem:
            self._say(desired.uid, desired.slug, WARNING, Reason.INVALID_SPEC, desired.problem, "Reconcile")
        elif desired.unknown_kind:
            self._say(desired.uid, desired.slug, WARNING, Reason.UNKNOWN_KIND, desired.unknown_kind, "Reconcile")
        self._changed(desired.uid)

    def tombstoned(self, uid: str) -> None:
        self._failed.pop(uid, None)
        if self.status is not None:
            self.status.gone(uid)

    def refused(self, body: Mapping[str, Any], reason: str) -> None:
        metadata = body["metadata"]
        self._say(
            metadata["uid"],
            f"{metadata['namespace']}/{metadata['name']}",
            WARNING,
            Reason.ACT_REFUSED,
            reason,
            "Reconcile",
        )

    def failed(self) -> None:
        self._metrics.reconcile_errors.add()

    # ---------------------------------------------------------------- of the status writer

    def begun(self, slug: str) -> Begun:
        """Of the runs of a schedule that were started here and have not ended: when."""
        return {run_id: rfc3339(begun) for run_id, begun in self._begun.get(slug, {}).items()}

    def written(self, observed: ObservedObject, state: State) -> None:
        """The status of an object was written; ``observed``: the object before the write."""
        self._metrics.status_writes.add()
        before = _state_of(observed.engine)
        if state.paused and (before is None or not before.paused):
            words = f"{state.failures_in_row} runs in a row have failed: change the spec, or resume it"
            self._say(observed.uid, observed.slug, WARNING, Reason.AUTO_PAUSED, words)
        # One that is stopped because of its spec has no slots either, and is not done.
        done = None if self._objects.is_invalid(observed.slug) else state.completed
        if done is not None and (before is None or before.completed is None):
            self._say(observed.uid, observed.slug, NORMAL, Reason.COMPLETED, f"It is done: {COMPLETED[done]}")

    # ---------------------------------------------------------------- the two ways

    def _changed(self, uid: str, after: float | None = None) -> None:
        if self.status is not None:
            if after is None:
                self.status.changed(uid)
            else:
                self.status.changed(uid, after)

    def _log_failed(self, record: RunRecord) -> None:
        """One line: at once the first time, then with a count, or a job that fails every second would fill the log."""
        now = self._monotonic()
        said_at, unsaid = self._failed.get(record.uid, (float("-inf"), 0))
        if now - said_at < FAILED_AGAIN:
            self._failed[record.uid] = said_at, unsaid + 1
            return
        self._failed[record.uid] = now, 0
        more = {"failed_since_last_line": unsaid} if unsaid else {}
        reason = record.reason[:REASON_LOGGED]
        log.warning(
            "a run failed", slug=record.slug, run_id=record.run_id, attempt=record.attempt, reason=reason, **more
        )

    def _say(self, uid: str, slug: str, kind: EventType, reason: Reason, words: str, action: str = "Run") -> None:
        namespace, _, name = slug.partition("/")
        self._events.say(Regarding(namespace, name, uid), kind, reason, words, action)


def _state_of(engine: str) -> State | None:
    try:
        return State.decode(engine) if engine else None
    except msgspec.MsgspecError:
        return None
