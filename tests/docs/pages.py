"""Parse the pages into the steps of a reader: save this file, type that command.

A ``console`` block contains commands, which start with ``$ ``, and their output. A block of any language with a
``title`` is a file to save under that name. A comment above a block says what is special about it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parents[2]
CLUSTER, POSTGRES, TIMES, EXIT = "needs a cluster", "needs a Postgres", "times vary", "exit code"
IMAGE, STARTS = "needs the image", "starts a cluster"

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w+)(?P<rest>[^\n`]*)$")
_COMMENT = re.compile(r"<!-- (.*) -->")


@dataclass(frozen=True)
class File:
    """A file that the reader saves."""

    line: int
    name: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command that the reader types."""

    line: int
    typed: str
    prints: str
    """The output on the page; empty if the page shows none."""
    code: int = 0
    times_vary: bool = False
    needs_cluster: bool = False
    needs_postgres: bool = False
    needs_image: bool = False
    """It needs the operator's image, and a cluster with a node but without an operator."""
    starts_cluster: bool = False
    """It starts and stops a cluster on this machine."""

    @property
    def needs_no_cluster(self) -> bool:
        return not (self.needs_cluster or self.needs_image or self.starts_cluster)

    @property
    def ends_by_interrupt(self) -> bool:
        return "press Ctrl-C to stop" in self.typed


class PageError(ValueError):
    """A page does not follow the format that this module expects."""


def pages() -> list[Path]:
    """Return every page with steps, those in the repository's root first."""
    return [page for page in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))) if steps(page)]


def steps(page: Path) -> list[File | Command]:
    """Return the steps of a page, in order."""
    found: list[File | Command] = []
    before, fence, start = "", None, 0
    lines: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if fence is None:
            if match := _FENCE.match(line):
                fence, lines, start = match, [], number
            elif line.strip():
                before = line
        elif line.strip() == "```":
            found += _of_fence(page, fence, lines, start, before)
            fence, before = None, ""
        else:
            lines.append(line.removeprefix(fence["indent"]))
    return found


def _of_fence(page: Path, fence: re.Match[str], lines: list[str], start: int, before: str) -> list[File | Command]:
    title = re.search(r'title="([^"]+)"', fence["rest"])
    if title:
        return [File(start, title[1], "\n".join(lines) + "\n")]
    if fence["language"] != "console":
        return []
    comment = _COMMENT.fullmatch(before.strip())
    remarks = [remark.strip() for remark in comment[1].split(";")] if comment else []
    code = 0
    for remark in remarks:
        if remark.startswith(EXIT):
            code = int(remark.removeprefix(EXIT))
        elif remark not in {CLUSTER, POSTGRES, TIMES, IMAGE, STARTS}:
            raise PageError(f"{page.name}:{start}: unknown comment {remark!r}")
    commands: list[File | Command] = []
    for number, line in enumerate(lines, start + 1):
        if line.startswith("$ "):
            needs = (remark in remarks for remark in (TIMES, CLUSTER, POSTGRES, IMAGE, STARTS))
            commands.append(Command(number, line[2:], "", code, *needs))
        elif not commands:
            raise PageError(f"{page.name}:{number}: a console block must start with a command: $ ...")
        else:
            last = commands.pop()
            assert isinstance(last, Command)
            if last.typed.endswith("\\"):
                commands.append(replace(last, typed=f"{last.typed}\n{line}"))
            else:
                commands.append(replace(last, prints=f"{last.prints}{line}\n"))
    return commands
