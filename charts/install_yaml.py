"""Generate install.yaml, the chart with its default values, for installing without Helm (`make install-yaml`).

It leaves out what only Helm uses (labels, hooks, notes, the test) and adds the namespace.
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
# Generated from charts/scheduledjob-operator by `make install-yaml`; the chart has more settings. Deleting the objects
# in this file also deletes every ScheduledJob, because the CustomResourceDefinition is one of them.
apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
  labels:
    pod-security.kubernetes.io/enforce: restricted
"""
_TEST_LABEL = "app.kubernetes.io/component: test\n"
_HELM_LINES = re.compile(r"^ *(helm\.sh/chart: .*|app\.kubernetes\.io/managed-by: Helm|# Source: .*)\n", re.MULTILINE)


def install_yaml(helm: Path) -> str:
    """Return the text of install.yaml."""
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
    rendered = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603  # our own words
    kept = [document for document in rendered.split("---\n") if _TEST_LABEL not in document]
    return BEGINNING + _HELM_LINES.sub("", "---\n".join(kept))


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(install_yaml(programs(["helm"])["helm"]), encoding="utf-8")
