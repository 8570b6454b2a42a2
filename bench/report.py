"""What a benchmark reports: one row for each bar, as a table on the terminal and as JSON for everything else.

A row says what was measured, what it has to be, what we do, what the peer does beside us in the same run, the ratio of
the two, and whether the bar is met. All the numbers that it stands on are in its ``details``, which only the JSON has.
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
    """None: nothing to compare with, or it could not be measured; ``ours`` says why."""
    peer: str = ""
    ratio: float | None = None
    """Ours by the peer's where more is better, the peer's by ours where less is: above 1 we are ahead."""
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
    """Write the rows and the circumstances as one JSON object."""
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
    """What the numbers depend on."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load average": [round(each, 2) for each in os.getloadavg()],
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
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return asked.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
