"""Metrics count, Prometheus can read them, and their page is up to date."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_open_metrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics_families
from prometheus_client.parser import text_string_to_metric_families

from scheduledjob.web.instruments import Counter, Gauge, Histogram
from scheduledjob.web.metrics import Metrics, metrics_page

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def filled() -> Metrics:
    """Return metrics with at least one sample instrument."""
    metrics = Metrics("1.2.3")
    for instrument in metrics.instruments:
        labels = [f"some {label}" for label in instrument.labels]
        if isinstance(instrument, Counter):
            instrument.add(*labels)
        elif isinstance(instrument, Gauge):
            instrument.set(3, *labels)
        elif isinstance(instrument, Histogram):
            instrument.observe(0.02, *labels)
    return metrics


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = generate_latest(metrics.registry).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_prometheus_can_read_every_metric() -> None:
    metrics = filled()
    families = {
        family.name: family
        for family in text_string_to_metric_families(generate_latest(metrics.registry).decode())
        if not family.name.startswith("process_")
    }
    assert set(families) == {instrument.name for instrument in metrics.instruments}
    for instrument in metrics.instruments:
        family = families[instrument.name]
        assert family.type == instrument.type
        assert family.documentation == instrument.help_text
        assert {frozenset(sample.labels) - {"le"} for sample in family.samples} >= {frozenset(instrument.labels)}
    open_metrics = generate_open_metrics(metrics.registry).decode()  # type: ignore[no-untyped-call]  # the library's
    assert list(open_metrics_families(open_metrics))  # type: ignore[no-untyped-call]  # the library's


def test_names_have_the_prefix_and_no_label_names_a_job() -> None:
    for instrument in Metrics().instruments:
        assert instrument.name.startswith("scheduledjob_")
        assert not {"name", "namespace", "job", "slug", "uid"} & set(instrument.labels)
        assert not isinstance(instrument, Histogram) or instrument.name.endswith("_seconds")


def test_a_fresh_replica_shows_its_counters_at_zero() -> None:
    found = samples(Metrics("1.2.3"))
    assert found["scheduledjob_lease_losses_total", frozenset()] == 0
    assert found["scheduledjob_start_lateness_seconds_count", frozenset()] == 0
    assert [dict(labels)["version"] for name, labels in found if name == "scheduledjob_build_info"] == ["1.2.3"]


def test_gauges_are_set_before_each_scrape() -> None:
    metrics, values = Metrics(), iter([4, 5])
    metrics.at_scrape(lambda: metrics.active_runs.set(next(values), "inline"))
    key = ("scheduledjob_active_runs", frozenset({("where", "inline")}))
    assert samples(metrics)[key] == 4
    assert samples(metrics)[key] == 5


@given(st.lists(st.floats(min_value=0, max_value=100), max_size=50))
def test_buckets_count_values_up_to_their_bound(values: list[float]) -> None:
    histogram = Histogram("size_seconds", "Sizes.", bounds=(0.1, 1, 10))
    for value in values:
        histogram.observe(value)
    found = {sample.labels.get("le", sample.name): sample.value for sample in histogram.family().samples}
    for bound in (0.1, 1, 10):
        assert found[f"{bound:g}"] == sum(value <= bound for value in values)
    assert found["+Inf"] == len(values) == histogram.count()
    assert abs(found["scheduledjob_size_seconds_sum"] - sum(values)) < 1e-6


def test_no_count_is_lost_between_threads() -> None:
    counter, histogram = Counter("things", "Things.", "kind"), Histogram("size_seconds", "Sizes.", bounds=(1,))

    def count() -> None:
        for _ in range(20_000):
            counter.add("a")
            histogram.observe(0.5)

    threads = [threading.Thread(target=count) for _ in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert counter.value("a") == histogram.count() == 80_000


def test_a_counter_can_be_set_to_a_total() -> None:
    metrics = Metrics()
    metrics.watch_restarts.reached(2, "pods")
    metrics.watch_restarts.reached(5, "pods")
    assert samples(metrics)["scheduledjob_watch_restarts_total", frozenset({("resource", "pods")})] == 5


def test_requests_to_the_api_server_are_counted_and_watches_not_timed() -> None:
    metrics = Metrics()
    metrics.api_request("patch", "scheduledjobs/status", 200, 0.01)
    metrics.api_request("watch", "pods", 0, 300.0)
    assert metrics.api_requests.value("patch", "scheduledjobs/status", "200") == 1
    assert metrics.api_requests.value("watch", "pods", "0") == 1
    assert metrics.api_request_seconds.count("patch") == 1
    assert metrics.api_request_seconds.count("watch") == 0


def test_the_page_of_metrics_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == metrics_page(), "stale: run make docs"
    for family in filled().collect():
        assert f"`{family.name}{'_total' if family.type == 'counter' else ''}`" in metrics_page()
