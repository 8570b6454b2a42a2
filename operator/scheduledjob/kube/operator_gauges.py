"""Sets the gauges of the operator before a scrape."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scheduledjob.resource_names import PLURAL

if TYPE_CHECKING:
    from scheduledjob.engine.replica import Replica
    from scheduledjob.kube.pods.pods_api import ClusterPods
    from scheduledjob.kube.reconcile.known_objects import KnownObjects
    from scheduledjob.kube.report.events import EventRecorder
    from scheduledjob.kube.report.status_queue import StatusQueue
    from scheduledjob.kube.watch.kopf_watch import KopfWatcher
    from scheduledjob.web.metrics import Metrics


class OperatorGauges:
    """Reads the parts of a replica. ``set`` runs in the event loop of the web server."""

    def __init__(
        self,
        metrics: Metrics,
        replica: Replica,
        objects: KnownObjects,
        queue: StatusQueue,
        events: EventRecorder,
        watcher: KopfWatcher,
        pods: ClusterPods,
    ) -> None:
        self._metrics = metrics
        self._replica = replica
        self._objects = objects
        self._queue = queue
        self._events = events
        self._watcher = watcher
        self._pods = pods

    def set(self) -> None:
        metrics, stats = self._metrics, self._replica.stats()
        metrics.held_schedules.set(stats.owned)
        metrics.claimed_ahead.set(stats.ahead)
        metrics.queued_runs.set(stats.waiting)
        metrics.active_runs.set(stats.executing - stats.detached, "inline")
        metrics.active_runs.set(stats.detached, "pod")
        metrics.schedules.set(len(self._objects))
        metrics.invalid_schedules.set(self._objects.invalid)
        metrics.overdue_schedules.set(self._objects.overdue)
        metrics.status_dirty.set(len(self._queue))
        metrics.events.reached(self._events.written)
        metrics.events_dropped.reached(self._events.dropped)
        metrics.watch_restarts.reached(self._watcher.state.restarts, PLURAL)
        metrics.watch_restarts.reached(self._pods.reflector.restarts, "pods")
