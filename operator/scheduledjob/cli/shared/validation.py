"""``validate``: prints every fault of some manifests, each in one line that an editor turns into a link."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from scheduledjob.manifests.loader import load
from scheduledjob.resource_names import GROUP

from .formats import print_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduledjob.manifests.loader import Loaded
    from scheduledjob.manifests.problems import Problem


def print_faults(paths: Sequence[str], output: str) -> bool:
    """Print the faults and a summary; return whether there are faults. With output ``name``, print the valid jobs."""
    loaded = load(with_pipe(paths))
    if output == "name":
        for _, name in sorted(loaded.jobs):
            print(f"scheduledjob.{GROUP}/{name}")  # noqa: T201  # a command prints
        for problem in loaded.problems:
            print(problem, file=sys.stderr)  # noqa: T201  # a command prints
    elif output == "table":
        for problem in loaded.problems:
            print(problem)  # noqa: T201  # a command prints
        print(summary(loaded), file=sys.stderr if loaded.problems else sys.stdout)
    else:
        faults = [_as_json(problem) for problem in loaded.problems]
        print_value({"files": len(loaded.files), "jobs": len(loaded.jobs), "faults": faults}, output)
    return bool(loaded.problems)


def with_pipe(paths: Sequence[str]) -> list[str]:
    """Replace ``-`` among the paths with standard input."""
    return ["/dev/stdin" if path == "-" else path for path in paths]


def summary(loaded: Loaded) -> str:
    """Return the result in one line."""
    faults = _counted(len(loaded.problems), "fault") if loaded.problems else "no faults"
    found = f"{_counted(len(loaded.jobs), 'valid job')} in {_counted(len(loaded.files), 'file')}"
    ignored = len(loaded.ignored)
    others = f", {_counted(ignored, 'document')} of other kinds ignored" if ignored else ""
    return f"{faults}; {found}{others}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


def _as_json(problem: Problem) -> dict[str, Any]:
    return {
        "file": problem.file,
        "line": problem.line,
        "column": problem.column,
        "field": problem.field,
        "message": problem.message,
        "allowed": problem.allowed,
    }
