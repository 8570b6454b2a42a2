"""The result of a benchmark: one row per target, shown as a table on the terminal and written in full as JSON.

A row contains what was measured, the target, our result, the peer's result in the same run, the ratio of the two, and
whether the target is met. Its ``details``, with all underlying numbers, are only in the JSON.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(slots=True)
class Row:
    """One line of the table."""

    what: str
    bar: str
    ours: str
    passed: bool | None
    """None: there is no target, or it could not be measured; ``ours`` says why."""
    peer: str = ""
    ratio: float | None = None
    """Above 1, ours is better: ours divided by the peer's if more is better, otherwise the reverse."""
    details: dict[str, Any] = field(default_factory=dict)


def show(rows: Iterable[Row]) -> None:
    """Print the table."""
    table = Table("what", "bar", "ours", "peer", "ratio", "")
    for row in rows:
        verdict = {True: "[green]pass", False: "[red bold]fail", None: "-"}[row.passed]
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        table.add_row(row.what, row.bar, row.ours, row.peer, ratio, verdict)
    Console().print(table)


def write(path: Path, rows: Sequence[Row], *, quick: bool, cores: Sequence[int], took: float) -> None:
    """Write the rows and a description of the machine as one JSON object."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "seconds": round(took),
        "machine": machine() | {"cores used": list(cores)},
        "rows": [asdict(row) for row in rows],
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """Return what the numbers depend on."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load average": [round(load, 2) for load in os.getloadavg()],
        "commit": _commit(),
        "versions": {name: _version(name) for name in ("asyncpg", "uvloop", "pgqueuer", "aiohttp")},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _commit() -> str:
    revision = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return revision.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
