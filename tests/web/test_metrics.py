"""Metrics: that they count, that Prometheus can read them, and that their page is true."""

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
    """Metrics of which each has at least one sample."""
    metrics = Metrics("1.2.3")
    for each in metrics.instruments:
        labels = [f"some {label}" for label in each.labels]
        if isinstance(each, Counter):
            each.add(*labels)
        elif isinstance(each, Gauge):
            each.set(3, *labels)
        elif isinstance(each, Histogram):
            each.observe(0.02, *labels)
    return metrics


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = generate_latest(metrics.registry).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_everything_can_be_read_by_prometheus() -> None:
    metrics = filled()
    families = {
        family.name: family
        for family in text_string_to_metric_families(generate_latest(metrics.registry).decode())
        if not family.name.startswith("process_")
    }
    assert set(families) == {each.name for each in metrics.instruments}
    for each in metrics.instruments:
        family = families[each.name]
        assert family.type == each.type
        assert family.documentation == each.help_text
        assert {frozenset(sample.labels) - {"le"} for sample in family.samples} >= {frozenset(each.labels)}
    open_metrics = generate_open_metrics(metrics.registry).decode()  # type: ignore[no-untyped-call]  # the library's
    assert list(open_metrics_families(open_metrics))  # type: ignore[no-untyped-call]  # the library's


def test_names_have_the_prefix_and_no_metric_knows_a_job() -> None:
    for each in Metrics().instruments:
        assert each.name.startswith("scheduledjob_")
        assert not {"name", "namespace", "job", "slug", "uid"} & set(each.labels)
        assert not isinstance(each, Histogram) or each.name.endswith("_seconds")


def test_a_fresh_replica_shows_its_counters_at_zero() -> None:
    found = samples(Metrics("1.2.3"))
    assert found["scheduledjob_lease_losses_total", frozenset()] == 0
    assert found["scheduledjob_start_lateness_seconds_count", frozenset()] == 0
    assert [dict(labels)["version"] for name, labels in found if name == "scheduledjob_build_info"] == ["1.2.3"]


def test_gauges_are_looked_at_when_they_are_scraped() -> None:
    metrics, should_poll = Metrics(), iter([4, 5])
    metrics.at_scrape(lambda: metrics.active_runs.set(next(should_poll), "inline"))
    key = ("scheduledjob_active_runs", frozenset({("where", "inline")}))
    assert samples(metrics)[key] == 4
    assert samples(metrics)[key] == 5


@given(st.lists(st.floats(min_value=0, max_value=100), max_size=50))
def test_buckets_hold_what_is_not_above_their_bound(values: list[float]) -> None:
    histogram = Histogram("size_seconds", "Sizes.", bounds=(0.1, 1, 10))
    for value in values:
        histogram.observe(value)
    found = {sample.labels.get("le", sample.name): sample.value for sample in histogram.family().samples}
    for bound in (0.1, 1, 10):
        assert found[f"{bound:g}"] == sum(value <= bound for value in values)
    assert found["+Inf"] == len(values) == histogram.count()
    assert abs(found["scheduledjob_size_seconds_sum"] - sum(values)) < 1e-6


def test_nothing_is_lost_between_threads() -> None:
    counter, histogram = Counter("things", "Things.", "kind"), Histogram("size_seconds", "Sizes.", bounds=(1,))

    def count() -> None:
        for _ in range(20_000):
            counter.add("a")
            histogram.observe(0.5)

    threads = [threading.Thread(target=count) for _ in range(4)]
    patience = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(patience)
    assert counter.value("a") == histogram.count() == 80_000


def test_what_somebody_else_counts_is_taken_over() -> None:
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
