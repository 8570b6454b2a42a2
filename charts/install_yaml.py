"""install.yaml: the chart with no values, for those without Helm. `make install-yaml` writes it.

What only Helm has a use for is left out (its labels, its hooks, its notes, its test), and the namespace is put before.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.cluster.harness.binaries import programs

CHART = Path(__file__).with_name("scheduledjob-operator")
NAME = "scheduledjob"
NAMESPACE = "scheduledjob-system"

BEGINNING = f"""# The operator with one replica and its store in memory: kubectl apply --server-side -f install.yaml
# Written by `make install-yaml` from charts/scheduledjob-operator, which can be told more. To delete what is in here is
# to delete every ScheduledJob, because the CustomResourceDefinition is.
apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
  labels:
    pod-security.kubernetes.io/enforce: restricted
"""
_OF_THE_TEST = "app.kubernetes.io/component: test\n"
_HELMS_OWN = re.compile(r"^ *(helm\.sh/chart: .*|app\.kubernetes\.io/managed-by: Helm|# Source: .*)\n", re.MULTILINE)


def install_yaml(helm: Path) -> str:
    """The text of install.yaml."""
    command = [
        str(helm),
        "template",
        NAME,
        str(CHART),
        "--namespace",
        NAMESPACE,
        "--no-hooks",
        "--set",
        "crds.keep=false",
    ]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603  # our own words
    kept = [part for part in made.split("---\n") if _OF_THE_TEST not in part]
    return BEGINNING + _HELMS_OWN.sub("", "---\n".join(kept))


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(install_yaml(programs(["helm"])["helm"]), encoding="utf-8")
