"""``python -m bench.cluster [NAME...] [--quick] [--json FILE]``: benchmarks of the operator on a real control plane.

Without names, all benchmarks run one after the other; ``--list`` prints the names. The exit code is 1 if a target is
missed.
"""

from __future__ import annotations

import sys

from bench.__main__ import run

BENCHMARKS = {
    # name: module and function; the function gets the options and returns rows
    "pods": "cluster.pods.burst",
    "pod": "cluster.pods.one",
    "cronjobs": "cluster.pods.cron_jobs",
    "inline": "cluster.inline.burst",
    "apply": "cluster.applied.to_first_start",
    "held": "cluster.held.restarted",
    "status": "cluster.status.storm",
}

if __name__ == "__main__":
    sys.exit(run(BENCHMARKS, "bench.cluster", __doc__ or "", "bench/results/cluster.json"))
