"""The pages that people read, as a list of what a reader would do: save this file, type that command.

A fence of ``console`` holds commands, which begin with ``$ ``, and what they print; a fence of any language with a
``title`` is a file to be saved under that name. A comment above a fence says what is special about it.
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
    """What the page says it prints; empty where the page does not say."""
    code: int = 0
    times_vary: bool = False
    needs_cluster: bool = False
    needs_postgres: bool = False
    needs_image: bool = False
    """The operator's, on a cluster with a node and no operator yet."""
    starts_cluster: bool = False
    """On this machine, and ends it."""

    @property
    def needs_no_cluster(self) -> bool:
        return not (self.needs_cluster or self.needs_image or self.starts_cluster)

    @property
    def ends_by_interrupt(self) -> bool:
        return "press Ctrl-C to stop" in self.typed


class PageError(ValueError):
    """A page that is not written as the reader of this module expects."""


def pages() -> list[Path]:
    """Every page with something to type, those of the repository's own folder first."""
    return [page for page in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))) if steps(page)]


def steps(page: Path) -> list[File | Command]:
    """What there is to do on a page, in order."""
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
    said = [word.strip() for word in comment[1].split(";")] if comment else []
    code = 0
    for word in said:
        if word.startswith(EXIT):
            code = int(word.removeprefix(EXIT))
        elif word not in {CLUSTER, POSTGRES, TIMES, IMAGE, STARTS}:
            raise PageError(f"{page.name}:{start}: nobody knows {word!r}")
    commands: list[File | Command] = []
    for number, line in enumerate(lines, start + 1):
        if line.startswith("$ "):
            needs = (one in said for one in (TIMES, CLUSTER, POSTGRES, IMAGE, STARTS))
            commands.append(Command(number, line[2:], "", code, *needs))
        elif not commands:
            raise PageError(f"{page.name}:{number}: a block of console begins with a command: $ ...")
        else:
            last = commands.pop()
            assert isinstance(last, Command)
            if last.typed.endswith("\\"):
                commands.append(replace(last, typed=f"{last.typed}\n{line}"))
            else:
                commands.append(replace(last, prints=f"{last.prints}{line}\n"))
    return commands
