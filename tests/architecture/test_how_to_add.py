"""What docs/architecture.md says under "How to add": each example is added to a copy of the code, counted and run.

A fence with a title is a file. One of ``python`` is new, one of ``diff`` changes a file that is there: its lines that
begin with a space are there already, those that begin with ``+`` go below. To cover another section of the page, add
its heading to ``SECTIONS``.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"
FENCE = re.compile(r'^```(\w+) title="([^"]+)"\n(.*?)^```$', re.M | re.S)


@dataclass
class Example:
    """What a section of the page adds."""

    new: dict[str, str] = field(default_factory=dict)
    """The texts of new files by their paths."""
    changed: dict[str, list[str]] = field(default_factory=dict)
    """The lines of each change by the path of the file."""

    @property
    def tests(self) -> list[str]:
        return [path for path in self.new if Path(path).name.startswith("test_")]

    def added_to(self, path: str) -> list[str]:
        """The lines that a change adds."""
        return [line[1:].strip() for line in self.changed[path] if line.startswith("+")]


SECTIONS = {"A trigger": (3, 2)}
"""New and changed files by the heading of the section."""


def example_of(heading: str) -> Example:
    page = PAGE.read_text(encoding="utf-8").partition("\n## How to add\n")[2].partition("\n## ")[0]
    section = page.partition(f"\n### {heading}\n")[2].partition("\n### ")[0]
    example = Example()
    for language, path, text in FENCE.findall(section):
        if language == "diff":
            example.changed[path] = text.splitlines()
        else:
            example.new[path] = text
    return example


def with_lines(text: str, change: list[str]) -> str:
    """A text with the added lines of a change, each below the line that the change names before it."""
    lines = text.splitlines()
    place = -1
    for line in change:
        if line.startswith("+"):
            place += 1
            lines.insert(place, line[1:])
        else:
            assert lines.count(line[1:]) == 1, f"{line[1:]!r} is to stand in the file once"
            place = lines.index(line[1:])
    return "\n".join(lines) + "\n"


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={"PYTHONPATH": str(folder / "operator"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_page_names_so_many_files(heading: str) -> None:
    example = example_of(heading)
    assert (len(example.new), len(example.changed)) == SECTIONS[heading]
    for path in example.changed:
        imports = [line for line in example.added_to(path) if line.startswith(("from ", "import "))]
        assert len(example.added_to(path)) - len(imports) == 1, "one line in a table, beside its import"
    assert not [path for path in example.new if (ROOT / path).exists()]


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_example_of_the_page_works(heading: str, tmp_path: Path) -> None:
    example = example_of(heading)
    shutil.copytree(ROOT / "operator", tmp_path / "operator", ignore=shutil.ignore_patterns("__pycache__"))
    for path, text in example.new.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    for path, change in example.changed.items():
        file = tmp_path / path
        file.write_text(with_lines(file.read_text(encoding="utf-8"), change), encoding="utf-8")
    where = run(tmp_path, "-c", "import scheduledjob; print(scheduledjob.__file__)")
    assert Path(where.strip()).is_relative_to(tmp_path)
    assert example.tests
    said = run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", *example.tests)
    assert " passed" in said
