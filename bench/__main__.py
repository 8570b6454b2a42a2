"""``python -m bench [NAME...] [--quick] [--json FILE]``: compare the benchmarks with their targets and with the peer.

Without names, all benchmarks run one after the other; ``--list`` prints the names. The exit code is 1 if a target is
missed.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from bench.common import Options, use_cores
from bench.report import Row, show, write

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

BENCHMARKS = {
    # name: module and function; the function gets the options and returns rows
    "drain-1": "drain.drain_one",
    "drain-2": "drain.drain_two",
    "instant": "punctual.one_instant",
    "lateness": "punctual.spread_evenly",
    "recurring": "punctual.recurring",
    "insert-to-start": "idle.insert_to_start",
    "idle": "idle.idle_replica",
    "memory": "idle.memory",
    "claim": "claims.claim_latency",
    "next-slot": "slots.next_slot",
    "shell-rate": "manifests.shell_rate",
    "shell-burst": "manifests.shell_burst",
    "curl-burst": "manifests.curl_burst",
    "memory-print": "manifests.memory_print",
    "import": "installation.import_time",
    "installed": "installation.installed_size",
    "firestore": "firestore.cost",
    "takeover": "takeover.kill_one",
    "fairness": "fairness.delay_of_a_lone_run",
}


def arguments(benchmarks: Mapping[str, str], program: str, description: str, results: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description.partition("\n\n")[2])
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to measure; everything by default")
    parser.add_argument("--quick", action="store_true", help="shorter and fewer runs: to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", default=Path(results), help="where to write the numbers")
    parser.add_argument(
        "--cores", type=int, default=2, metavar="N", help="bind everything to N cores (0: all; default 2)"
    )
    parser.add_argument("--list", action="store_true", help="print the names and exit")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in benchmarks]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}: choose from {', '.join(benchmarks)}")
    return given


def measure(name: str, where: str, options: Options) -> list[Row]:
    """Run one benchmark and return its rows. A failure becomes a row, too, so that the others still run."""
    module, _, function = where.rpartition(".")
    benchmark: Callable[[Options], Coroutine[None, None, list[Row]]]
    benchmark = getattr(importlib.import_module(f"bench.{module}"), function)
    began, load = time.monotonic(), os.getloadavg()[0]
    try:
        rows = uvloop.run(benchmark(options))
    except (Exception, asyncio.CancelledError) as error:
        traceback.print_exc()
        rows = [Row(name, "", f"{type(error).__name__}: {error}"[:200], passed=False)]
    for row in rows:
        row.details |= {"load average before": round(load, 2), "seconds": round(time.monotonic() - began, 1)}
    return rows


def run(benchmarks: Mapping[str, str], program: str, description: str, results: str) -> int:
    """Run ``python -m PROGRAM`` and return the exit code. ``results``: the default file for the numbers."""
    given = arguments(benchmarks, program, description, results)
    if given.list:
        print("\n".join(benchmarks))
        return 0
    cores = use_cores(given.cores)
    options, began, rows = Options(given.quick), time.monotonic(), list[Row]()
    for name in given.names or benchmarks:
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows += measure(name, benchmarks[name], options)
        write(given.json, rows, quick=given.quick, cores=cores, took=time.monotonic() - began)
    show(rows)
    print(f"written to {given.json}")
    return int(any(row.passed is False for row in rows))


if __name__ == "__main__":
    sys.exit(run(BENCHMARKS, "bench", __doc__ or "", "bench/results/latest.json"))
