"""The CustomResourceDefinition of ScheduledJob, generated from the models: ``make crds``.

``python -m scheduledjob.manifests.crd FILE`` writes it. The file is committed, because people and charts install it
without this program. A test fails if it differs from the models.

No field of a ScheduledJob is immutable: a run is identified by uid and slot, so an edit never repeats a slot that is
already decided. The CRD needs Kubernetes 1.31, because of ``selectableFields``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from scheduledjob.resource_names import API_VERSION, GROUP, KIND, PLURAL, RESOURCE, VERSION

from .models import ScheduledJob
from .schema import structural_schema
from .status_model import Status

_HEADER = """\
# Generated from the models in scheduledjob.manifests: edit those, then run `make crds`.
# Needs Kubernetes 1.31 or newer.
"""

_API_VERSION = f"Group and version of this resource: {API_VERSION}."
_KIND = f"Kind of this resource: {KIND}."

_SELECTABLE = (".spec.suspend", ".spec.concurrencyPolicy", ".status.lastOutcome")


def _condition(kind: str, part: str = "status") -> str:
    return f'.status.conditions[?(@.type=="{kind}")].{part}'


_COLUMNS = (
    ("Schedule", "string", ".status.schedule", "When the job runs, in words."),
    ("Suspended", "string", _condition("Suspended"), "Whether no new slot starts."),
    ("Active", "integer", ".status.activeCount", "Runs in progress."),
    ("Last outcome", "string", ".status.lastOutcome", "How the newest run ended."),
    # A date column shows a time in the future as <invalid>.
    ("Next run", "string", ".status.nextRun", "When the next slot starts."),
    ("Age", "date", ".metadata.creationTimestamp", "Time since the object was created."),
)
_WIDE_COLUMNS = (
    ("Ready", "string", _condition("Ready"), "Whether the spec is valid and scheduled."),
    ("Overdue", "string", _condition("Overdue"), "Whether no run succeeded within expectSuccessWithin."),
    ("Last success", "date", ".status.lastSuccessTime", "Time since a run succeeded."),
    ("Last failure", "date", ".status.lastFailureTime", "Time since a run failed."),
    ("Succeeded", "integer", ".status.counters.succeeded", "Runs that succeeded."),
    ("Failed", "integer", ".status.counters.failed", "Runs that failed."),
    (
        "Policy",
        "string",
        ".spec.concurrencyPolicy",
        "What happens to a slot while a run is active; unset means Forbid.",
    ),
    ("Message", "string", _condition("Ready", "message"), "Why it is ready, or why not."),
)


def crd() -> dict[str, Any]:
    """Return the definition as an object for the API server."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": RESOURCE},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["sjob", "sj"],
                "categories": [PLURAL],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "selectableFields": [{"jsonPath": path} for path in _SELECTABLE],
                    "additionalPrinterColumns": _columns(),
                    "schema": {"openAPIV3Schema": _schema()},
                }
            ],
        },
    }


def _columns() -> list[dict[str, Any]]:
    columns: list[dict[str, Any]] = []
    for priority, group in ((0, _COLUMNS), (1, _WIDE_COLUMNS)):
        for name, kind, path, description in group:
            columns.append({"name": name, "type": kind, "jsonPath": path, "description": description})
            if priority:
                columns[-1]["priority"] = priority
    return columns


def _schema() -> dict[str, Any]:
    root = structural_schema(ScheduledJob)
    root["required"] = ["spec"]
    root["properties"] = {
        "apiVersion": {"description": _API_VERSION, "type": "string"},
        "kind": {"description": _KIND, "type": "string"},
        # The API server allows no description here.
        "metadata": {"type": "object"},
        "spec": root["properties"]["spec"],
        "status": structural_schema(Status),
    }
    return root


class _Dumper(yaml.SafeDumper):
    """Writes YAML without anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def text() -> str:
    """Return the definition as the text of the committed file."""
    return _HEADER + yaml.dump(crd(), Dumper=_Dumper, sort_keys=False, width=116, allow_unicode=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("name the file to write: python -m scheduledjob.manifests.crd FILE")
    Path(sys.argv[1]).write_text(text(), encoding="utf-8")
