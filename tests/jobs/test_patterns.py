"""Patterns that take RE2 long to compile are refused before it does."""

from __future__ import annotations

from typing import Any

import pytest
import re2

from scheduledjob.jobs.curl import patterns
from scheduledjob.jobs.curl.patterns import PATTERN_LIMIT, PatternTooLarge, check_pattern, compiled_for_search


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The memory that each compilation may use."""
    compile_, used = re2.compile, list[int]()

    def compiled(pattern: str, options: Any) -> Any:
        used.append(options.max_mem)
        return compile_(pattern, options)

    monkeypatch.setattr(re2, "compile", compiled)
    return used


@pytest.mark.parametrize(
    "pattern",
    [
        "x{0,1000}" * 450,
        r"[^\]a]{999}" * 3,
        r"(?i)[\x{100}-\x{10ffff}]{1000}" * 3,
        r"\pN" * 1000,
        r"[\pL\PM]" * 26,
        r"\\\pL" * 51,
        "a{1000,}" * 3,
    ],
)
def test_a_pattern_with_many_repetitions_or_classes_is_not_compiled(pattern: str, memory: list[int]) -> None:
    with pytest.raises(PatternTooLarge, match="it is too large: write fewer classes"):
        check_pattern(pattern)
    assert not memory


@pytest.mark.parametrize(
    "pattern", [r"\pL{1000}", "(?i)" + r"[\x{100}-\x{10ffff}]" * 100, "(x{0,1000})", "(a|b)" * 900]
)
def test_a_large_pattern_is_compiled_with_little_memory(pattern: str, memory: list[int]) -> None:
    with pytest.raises(PatternTooLarge):
        compiled_for_search(pattern)
    assert max(memory) <= 32 * PATTERN_LIMIT


@pytest.mark.parametrize(
    "pattern",
    [r"\{1000}" * 9, "[{1000}]" * 9, r"\\pL" * 60, "a" * 1900, ".{199}", r"\pL", "[]{9999}]", r"\p{Greek}" * 9],
)
def test_what_only_looks_large_is_compiled(pattern: str) -> None:
    assert compiled_for_search(pattern).programsize <= PATTERN_LIMIT


@pytest.mark.parametrize("text", ["[", "[^", "\\", "{1,", "(", r"\p"])
def test_text_of_the_largest_size_is_read_once(text: str) -> None:
    """Time is not asserted: a quadratic search would take minutes."""
    with pytest.raises(patterns.PatternError):
        check_pattern(text * (200_000 // len(text)) + "(")
