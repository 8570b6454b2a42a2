"""The page about the architecture names files that exist, and answers each question with few of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "operator" / "scheduledjob"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PROSE = re.sub(r"^```.*?^```", "", PAGE, flags=re.DOTALL | re.MULTILINE)
NAMED = sorted({name for name in re.findall(r"`([a-z_./]+/[a-z_.]*)`", PROSE) if "NAME" not in name})

MOST_FILES = {
    "How is a due run claimed?": 3,
    "When is a failed run retried?": 2,
    "What happens on SIGTERM?": 2,
    "What does Replace do?": 1,
    "How is a DST gap handled?": 2,
    "How does a Pod's exit code become an outcome?": 3,
}


@pytest.mark.parametrize("name", NAMED)
def test_a_named_file_exists(name: str) -> None:
    assert (PACKAGE / name).exists() or (ROOT / name).exists(), f"docs/architecture.md names {name}"


@pytest.mark.parametrize("question", MOST_FILES)
def test_a_question_needs_few_files(question: str) -> None:
    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| {question} |")]
    files = re.findall(r"`([^`]+)`", row)
    assert 0 < len(files) <= MOST_FILES[question]
    assert all((PACKAGE / name).is_file() for name in files)
