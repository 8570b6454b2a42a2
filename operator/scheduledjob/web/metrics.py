"""The metrics of one replica: which there are, what each says, and how they come to be scraped.

No metric has a label for a job: ten thousand jobs would make ten thousand series of each. What one job did is in its
status and in history. Labels have few values each: outcomes, kinds of jobs, calls of the store, verbs and resources of
the API server.

Counters and histograms are fed where something happens; gauges are set when somebody scrapes, by the functions given
to ``at_scrape``.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from prometheus_client import CollectorRegistry, ProcessCollector

from .instruments import Counter, Gauge, Histogram, Instrument

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.core import Metric

I = TypeVar("I", bound=Instrument)  # noqa: E741  # an instrument

LATENESS_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Seconds: a slot starts within a millisecond or two when all is well, and within the lease when a replica died."""
CALL_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Seconds of one round trip."""


class Metrics:
    """All metrics, in a registry of their own. Any instrument may be fed from any thread."""

    def __init__(self, program_version: str = "") -> None:
        self.instruments: list[Instrument] = []
        self._at_scrape: list[Callable[[], None]] = []
        add = self._add

        # Runs
        self.runs = add(Counter("runs", "Runs that ended, by outcome and kind of job.", "outcome", "kind"))
        self.attempts_started = add(Counter("attempts_started", "Attempts that were started, retries too.", "kind"))
        self.attempts_adopted = add(
            Counter("attempts_adopted", "Attempts in Pods that this replica took over from another.")
        )
        self.retries = add(Counter("retries", "Failed attempts that are retried."))
        self.start_lateness = add(
            Histogram(
                "start_lateness_seconds",
                "How long after it was due an attempt started, by the store's clock.",
                bounds=LATENESS_BOUNDS,
            )
        )
        self.slots_passed_over = add(
            Counter("slots_passed_over", "Slots that did not run: Missed, SkippedOverlap or Excluded.", "outcome")
        )
        self.active_runs = add(Gauge("active_runs", "Runs that this replica has running now, inline or pod.", "where"))
        self.queued_runs = add(Gauge("queued_runs", "Runs that are due and wait for another run of their schedule."))
        self.held_schedules = add(
            Gauge("held_schedules", "Schedules that this replica holds: claimed ahead, running or being written.")
        )
        self.claimed_ahead = add(
            Gauge("claimed_ahead", "Schedules that were claimed before their slot and wait for it.")
        )

        # The store
        self.store_call_seconds = add(
            Histogram("store_call_seconds", "How long the store took to answer, by call.", "call", bounds=CALL_BOUNDS)
        )
        self.store_errors = add(
            Counter("store_errors", "Calls that the store did not answer, or answered with an error.", "call")
        )
        self.lease_losses = add(
            Counter("lease_losses", "Schedules lost to another replica, or because the store was away too long.")
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
                "How long the API server took to answer, by verb; watches are not in it.",
                "verb",
                bounds=CALL_BOUNDS,
            )
        )
        self.watch_restarts = add(Counter("watch_restarts", "Watches that ended and were begun again.", "resource"))
        self.status_writes = add(Counter("status_writes", "Statuses that were written."))
        self.status_dirty = add(Gauge("status_dirty", "Objects whose status is behind and waits for the budget."))
        self.events = add(Counter("events", "Events that were written."))
        self.events_dropped = add(Counter("events_dropped", "Events that were left out, for want of budget or room."))

        # Schedules
        self.reconciled = add(Counter("reconciled", "Objects that were read and brought into the store."))
        self.reconcile_errors = add(Counter("reconcile_errors", "Objects that could not be brought into the store."))
        self.swept = add(
            Counter(
                "swept", "Schedules that were ended because their object was gone, or their namespace is not watched."
            )
        )
        self.schedules = add(Gauge("schedules", "ScheduledJobs in the namespaces that are watched."))
        self.invalid_schedules = add(
            Gauge("invalid_schedules", "ScheduledJobs that are stopped because of their spec.")
        )
        self.overdue_schedules = add(
            Gauge("overdue_schedules", "ScheduledJobs without a success for longer than expectSuccessWithin.")
        )
        self.build_info = add(Gauge("build_info", "Always 1; its labels say what runs.", "version", "python"))
        self.build_info.set(1, program_version, platform.python_version())

        self.registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self.registry)
        self.registry.register(self)

    def _add(self, instrument: I) -> I:
        self.instruments.append(instrument)
        return instrument

    def at_scrape(self, look: Callable[[], None]) -> None:
        """Call ``look`` before each scrape, in the thread of the server, to set gauges."""
        self._at_scrape.append(look)

    def describe(self) -> Iterator[Metric]:
        """Nothing is looked at when this is registered."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Called by the registry for each scrape."""
        for look in self._at_scrape:
            look()
        return iter([instrument.family() for instrument in self.instruments])

    def api_request(self, verb: str, resource: str, status: int, seconds: float) -> None:
        """One try of a request to the API server; ``status`` 0: there was no answer."""
        self.api_requests.add(verb, resource, str(status))
        if verb != "watch":
            self.api_request_seconds.observe(seconds, verb)


def metrics_page() -> str:
    """``docs/metrics.md``."""
    lines = [
        "# Metrics",
        "",
        "<!-- Written by `make docs` from operator/scheduledjob/web/metrics.py. -->",
        "",
        "Each replica serves its own metrics at `/metrics`, in the text format of Prometheus or, where the scraper",
        "asks for it, of OpenMetrics. Sum over replicas; but each of them counts all of `scheduledjob_schedules`,",
        "`scheduledjob_invalid_schedules` and `scheduledjob_overdue_schedules`: of these take the maximum. No metric",
        "has a label for a job: ten thousand of them cost no more series than one. Beside these there are the usual",
        "`process_` metrics. Lengths are seconds.",
        "",
        "| Metric | Type | Labels | Meaning |",
        "|---|---|---|---|",
    ]
    for each in Metrics().instruments:
        labels = ", ".join(f"`{label}`" for label in each.labels)
        lines.append(f"| `{each.name}{each.suffix}` | {each.type} | {labels} | {each.help_text} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(metrics_page(), encoding="utf-8")
