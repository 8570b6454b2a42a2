"""The metrics of a replica.

No metric has a label for a job, because ten thousand jobs would make ten thousand series. Status and history say what a
job did. Labels have few values: outcomes, kinds of jobs, calls of the store, verbs and resources of the API server.

Counters and histograms count where something happens. Gauges are set before each scrape, by the functions that were
given to ``at_scrape``.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from prometheus_client import CollectorRegistry, ProcessCollector

from scheduledjob.domain.time.zone_data import ZONE_DATA
from scheduledjob.engine.watchdog import HELD_FOR

from .instruments import Counter, Gauge, Histogram, Instrument

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.core import Metric

I = TypeVar("I", bound=Instrument)  # noqa: E741  # an instrument

LATENESS_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Seconds. A run normally starts within two milliseconds, and within the lease after a replica has died."""
CALL_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Seconds of a round trip."""


class Metrics:
    """All metrics, in a registry of their own. Any thread may use any instrument."""

    def __init__(self, program_version: str = "") -> None:
        self.instruments: list[Instrument] = []
        self._at_scrape: list[Callable[[], None]] = []
        add = self._add

        # Runs
        self.runs = add(Counter("runs", "Runs that have ended, by outcome and kind of job.", "outcome", "kind"))
        self.attempts_started = add(Counter("attempts_started", "Attempts that have started, with retries.", "kind"))
        self.attempts_adopted = add(
            Counter("attempts_adopted", "Attempts in Pods that this replica took over from another.")
        )
        self.retries = add(Counter("retries", "Failed attempts that are retried."))
        self.start_lateness = add(
            Histogram(
                "start_lateness_seconds",
                "How late attempts started, by the store's clock.",
                bounds=LATENESS_BOUNDS,
            )
        )
        self.slots_passed_over = add(
            Counter("slots_passed_over", "Slots that did not run: Missed, SkippedOverlap or Excluded.", "outcome")
        )
        self.active_runs = add(Gauge("active_runs", "Active runs of this replica, inline or in Pods.", "where"))
        self.hooks_given_up = add(
            Counter("hooks_given_up", "Calls of hooks that failed so often that they are not made again.")
        )
        self.queued_runs = add(Gauge("queued_runs", "Runs that are due but wait for another run of their schedule."))
        self.held_schedules = add(
            Gauge("held_schedules", "Schedules that this replica owns: claimed ahead, running or being written.")
        )
        self.claimed_ahead = add(
            Gauge("claimed_ahead", "Schedules that this replica has claimed ahead of their next slot.")
        )

        # The store
        self.store_call_seconds = add(
            Histogram("store_call_seconds", "How long the store took to answer, by call.", "call", bounds=CALL_BOUNDS)
        )
        self.store_errors = add(
            Counter("store_errors", "Calls that the store did not answer, or answered with an error.", "call")
        )
        self.lease_losses = add(
            Counter("lease_losses", "Schedules that this replica lost, because it could not renew their lease in time.")
        )
        self.lease_thread_failures = add(
            Counter("lease_thread_failures", "Failures of the thread that renews leases, after which it started again.")
        )

        # The event loop
        self.event_loop_lag_seconds = add(
            Histogram(
                "event_loop_lag_seconds",
                "How late the event loop, which all runs share, made a call that was due.",
                bounds=LATENESS_BOUNDS,
            )
        )
        self.event_loop_held = add(
            Counter("event_loop_held", "How often something held the event loop for 50 ms or longer.")
        )

        # The API server
        self.api_requests = add(
            Counter(
                "api_requests",
                "Requests to the API server, by verb, resource and HTTP status (0: no answer).",
                "verb",
                "resource",
                "code",
            )
        )
        self.api_request_seconds = add(
            Histogram(
                "api_request_seconds",
                "How long the API server took to answer, by verb, without watches.",
                "verb",
                bounds=CALL_BOUNDS,
            )
        )
        self.watch_restarts = add(Counter("watch_restarts", "Watches that failed and were started again.", "resource"))
        self.status_writes = add(Counter("status_writes", "Status updates that were written."))
        self.status_dirty = add(Gauge("status_dirty", "Objects whose status is out of date."))
        self.events = add(Counter("events", "Events that were written."))
        self.events_dropped = add(
            Counter(
                "events_dropped", "Events that were dropped, because the queue was full or the API server refused them."
            )
        )

        # Schedules
        self.reconciled = add(Counter("reconciled", "Objects that were written to the store."))
        self.reconcile_errors = add(Counter("reconcile_errors", "Objects that could not be written to the store."))
        self.swept = add(
            Counter(
                "swept",
                "Schedules that a resync removed: their object is gone, or their namespace is no longer watched.",
            )
        )
        self.schedules = add(Gauge("schedules", "ScheduledJobs in the watched namespaces."))
        self.invalid_schedules = add(Gauge("invalid_schedules", "ScheduledJobs that can't run because of their spec."))
        self.overdue_schedules = add(
            Gauge("overdue_schedules", "ScheduledJobs without a success for longer than expectSuccessWithin.")
        )
        self.build_info = add(
            Gauge("build_info", "Always 1. Its labels are the versions.", "version", "python", "zone_data")
        )
        self.build_info.set(1, program_version, platform.python_version(), ZONE_DATA.version)

        self.registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self.registry)
        self.registry.register(self)

    def _add(self, instrument: I) -> I:
        self.instruments.append(instrument)
        return instrument

    def at_scrape(self, set_gauges: Callable[[], None]) -> None:
        """Call ``set_gauges`` before each scrape, in the thread of the server."""
        self._at_scrape.append(set_gauges)

    def describe(self) -> Iterator[Metric]:
        """Return nothing, so that registering does not collect the metrics."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Return the samples. The registry calls this for each scrape."""
        for set_gauges in self._at_scrape:
            set_gauges()
        return iter([instrument.family() for instrument in self.instruments])

    def loop_lag(self, seconds: float) -> None:
        """Count a call of the event loop's watchdog."""
        self.event_loop_lag_seconds.observe(seconds)
        if seconds >= HELD_FOR:
            self.event_loop_held.add()

    def api_request(self, verb: str, resource: str, status: int, seconds: float) -> None:
        """Count an attempt of a request to the API server. ``status`` is 0 if there was no answer."""
        self.api_requests.add(verb, resource, str(status))
        if verb != "watch":
            self.api_request_seconds.observe(seconds, verb)


def metrics_page() -> str:
    """Return the text of ``docs/metrics.md``."""
    lines = [
        "# Metrics",
        "",
        "<!-- Generated by `make docs` from operator/scheduledjob/web/metrics.py. -->",
        "",
        "Each replica serves its own metrics at `/metrics`, in the text format of Prometheus, or of OpenMetrics if the",
        "scraper asks for it. Add up the values of all replicas, except for `scheduledjob_schedules`,",
        "`scheduledjob_invalid_schedules` and `scheduledjob_overdue_schedules`: every replica counts all objects, so",
        "take the maximum. No metric has a label for a job, so ten thousand jobs need no more series than one job.",
        "There are also the usual `process_` metrics. Durations are in seconds.",
        "",
        "| Metric | Type | Labels | Meaning |",
        "|---|---|---|---|",
    ]
    for instrument in Metrics().instruments:
        labels = ", ".join(f"`{label}`" for label in instrument.labels)
        name = f"{instrument.name}{instrument.suffix}"
        lines.append(f"| `{name}` | {instrument.type} | {labels} | {instrument.help_text} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(metrics_page(), encoding="utf-8")
