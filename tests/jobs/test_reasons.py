"""Reasons: a line of limited length, with durations as in a manifest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduledjob.jobs.reasons import REASON_LIMIT, length, one_line, timed_out


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (60, "1m"), (90, "1m30s"), (5400, "1h30m"), (300, "5m"), (86400 * 8 + 1, "8d1s"), (0.25, "250ms"),
        (1.5, "1s500ms"), (0, "0ms"), (0.0001, "0ms"), (59.9999, "1m"),
    ],
)  # fmt: skip
def test_durations_in_reasons(seconds: float, text: str) -> None:
    assert length(seconds) == text
    assert timed_out(seconds) == f"timed out after {text}"


@given(st.text())
def test_a_reason_is_a_printable_line_of_limited_length(text: str) -> None:
    line = one_line(text * 20)
    assert len(line) <= REASON_LIMIT
    assert line.isprintable()
    assert line == line.strip()


def test_a_cut_reason_ends_in_an_ellipsis() -> None:
    assert one_line("x" * 1000).endswith("x…")
    assert one_line("x" * REASON_LIMIT) == "x" * REASON_LIMIT
    assert one_line("a" + "\n" * 100 + "b") == "a b"
