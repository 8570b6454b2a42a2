"""Write the figures of a run to ``docs/benchmarks.md``: ``python -m bench.figures bench/results/FILE``.

With ``cluster`` after the file, they are the figures of ``python -m bench.cluster``, which have their own section. All
figures in the documentation come from the JSON of a run, with the machine that it was measured on.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
SECTIONS = ("figures", "cluster")


def figures(run: dict[str, Any]) -> str:
    """Return a run as Markdown."""
    machine, versions = run["machine"], run["machine"]["versions"]
    packages = ", ".join(f"{name} {versions[name]}" for name in ("asyncpg", "uvloop", "pgqueuer"))
    cores = len(machine["cores used"]) or machine["cores"]
    compared = any(row["peer"] for row in run["rows"])
    lines = [
        f"Measured {run['written'][:10]} at commit {machine['commit']} on "
        f"{cores} cores of {machine['processor']}, Python {machine['python']}, "
        f"{packages}" + (", shortened (`--quick`)." if run["quick"] else "."),
        "",
        "| What | Bar | Ours | Peer | Ratio | Met |" if compared else "| What | Bar | Ours | Met |",
        "|---|---|---|---|---|---|" if compared else "|---|---|---|---|",
    ]
    for row in run["rows"]:
        met = {True: "yes", False: "no", None: ""}[row["passed"]]
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        beside = (row["peer"], ratio) if compared else ()
        cells = (row["what"], row["bar"], row["ours"], *beside, met)
        lines.append("| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines)


def main() -> int:
    section = sys.argv[2] if len(sys.argv) == 3 else SECTIONS[0]
    if len(sys.argv) not in (2, 3) or section not in SECTIONS:
        print("usage: python -m bench.figures bench/results/FILE [cluster]", file=sys.stderr)
        return 2
    begin, end = f"<!-- {section}: begin, written by bench.figures -->", f"<!-- {section}: end -->"
    run = json.loads(Path(sys.argv[1]).read_text())
    text = DOCUMENT.read_text()
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    DOCUMENT.write_text(f"{before}{begin}\n{figures(run)}\n{end}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
