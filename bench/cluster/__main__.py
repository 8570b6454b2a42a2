"""``python -m bench.cluster [NAME...] [--quick] [--json FILE]``: the operator on a real control plane against its bars.

Without names everything is measured, one after the other; ``--list`` prints the names. It ends with 1 where a bar is
missed.
"""

from __future__ import annotations

import sys

from bench.__main__ import run

BENCHMARKS = {
    # name: module and function, which is given what was asked for and returns rows
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
