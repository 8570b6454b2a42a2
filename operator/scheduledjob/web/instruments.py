"""Counters, gauges and histograms: plain numbers in dictionaries, turned into samples at a scrape.

The counters of the client library take a microsecond, and a replica counts several times for each of 20,000 runs a
second. So counting is an addition here, and everything else happens at a scrape. Any thread may use an instrument: the
engine's event loop, the lease thread, or the thread that watches the cluster.
"""

from __future__ import annotations

from bisect import bisect_left
from threading import Lock
from typing import TYPE_CHECKING, TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prometheus_client.core import Metric

PREFIX = "scheduledjob_"

Labels: TypeAlias = tuple[str, ...]


class Instrument:
    """A metric: its name without prefix and suffix, its help text (one sentence), and the names of its labels."""

    type = ""
    suffix = ""
    """The suffix of the series' name in a query."""

    def __init__(self, name: str, help_text: str, *labels: str) -> None:
        self.name = PREFIX + name
        self.help_text = help_text
        self.labels: Labels = labels
        self._lock = Lock()

    def family(self) -> Metric:
        """Return the current samples."""
        raise NotImplementedError


class _ValueInstrument(Instrument):
    """Holds a number for each combination of labels."""

    family_type: type[CounterMetricFamily] | type[GaugeMetricFamily]

    def __init__(self, name: str, help_text: str, *labels: str) -> None:
        super().__init__(name, help_text, *labels)
        self._values: dict[Labels, float] = {}

    def value(self, *labels: str) -> float:
        return self._values.get(labels, 0)

    def family(self) -> Metric:
        family = self.family_type(self.name, self.help_text, labels=self.labels)
        with self._lock:
            values = list(self._values.items())
        for labels, value in values:
            family.add_metric(labels, value)
        return family


class Counter(_ValueInstrument):
    """Counts up. Without labels it starts at zero; with labels, each series appears with its first count."""

    type = "counter"
    suffix = "_total"
    family_type = CounterMetricFamily

    def __init__(self, name: str, help_text: str, *labels: str) -> None:
        super().__init__(name, help_text, *labels)
        if not labels:
            self._values[()] = 0

    def add(self, *labels: str, by: float = 1) -> None:
        with self._lock:
            self._values[labels] = self._values.get(labels, 0) + by

    def reached(self, total: float, *labels: str) -> None:
        """Set the total of something that is counted elsewhere."""
        with self._lock:
            self._values[labels] = total


class Gauge(_ValueInstrument):
    """Holds a current value. It is not exposed before it is set."""

    type = "gauge"
    family_type = GaugeMetricFamily

    def set(self, value: float, *labels: str) -> None:
        with self._lock:
            self._values[labels] = value


class Histogram(Instrument):
    """Counts values by size. ``bounds`` are the upper bounds of the buckets, in rising order."""

    type = "histogram"

    def __init__(self, name: str, help_text: str, *labels: str, bounds: Sequence[float]) -> None:
        super().__init__(name, help_text, *labels)
        self.bounds = tuple(bounds)
        self._counts: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}
        if not labels:
            self._begin(())

    def _begin(self, labels: Labels) -> list[int]:
        counts = self._counts[labels] = [0] * (len(self.bounds) + 1)
        self._sums[labels] = 0.0
        return counts

    def observe(self, value: float, *labels: str) -> None:
        bucket = bisect_left(self.bounds, value)
        with self._lock:
            counts = self._counts.get(labels) or self._begin(labels)
            counts[bucket] += 1
            self._sums[labels] += value

    def count(self, *labels: str) -> int:
        """Return the number of observations."""
        return sum(self._counts.get(labels, ()))

    def family(self) -> Metric:
        family = HistogramMetricFamily(self.name, self.help_text, labels=self.labels)
        with self._lock:
            all_counts = [(labels, list(counts), self._sums[labels]) for labels, counts in self._counts.items()]
        names = [*(f"{bound:g}" for bound in self.bounds), "+Inf"]
        for labels, counts, total in all_counts:
            below, buckets = 0, []
            for name, count in zip(names, counts, strict=True):
                below += count
                buckets.append((name, below))
            family.add_metric(labels, buckets, total)
        return family
