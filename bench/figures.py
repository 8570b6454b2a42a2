"""Puts the figures of one run into ``docs/benchmarks.md``: ``python -m bench.figures bench/results/FILE``.

Nobody types a figure into the documentation: it comes from a run's JSON, with the machine that it was measured on.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- figures: begin, written by bench.figures -->", "<!-- figures: end -->"


def figures(run: dict[str, Any]) -> str:
    """A run as Markdown."""
    machine, versions = run["machine"], run["machine"]["versions"]
    packages = ", ".join(f"{name} {versions[name]}" for name in ("asyncpg", "uvloop", "pgqueuer"))
    cores = len(machine["cores used"]) or machine["cores"]
    lines = [
        f"Measured {run['written'][:10]} at commit {machine['commit']} on "
        f"{cores} cores of {machine['processor']}, Python {machine['python']}, "
        f"{packages}" + (", in short (`--quick`)." if run["quick"] else "."),
        "",
        "| What | Bar | Ours | Peer | Ratio | Met |",
        "|---|---|---|---|---|---|",
    ]
    for row in run["rows"]:
        met = {True: "yes", False: "no", None: ""}[row["passed"]]
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        cells = (row["what"], row["bar"], row["ours"], row["peer"], ratio, met)
        lines.append("| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines)


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python -m bench.figures bench/results/FILE", file=sys.stderr)
        return 2
    run = json.loads(Path(sys.argv[1]).read_text())
    text = DOCUMENT.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{figures(run)}\n{END}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
