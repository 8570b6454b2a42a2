"""The README of a chart, from its values.yaml: `make chart` writes it.

A comment that ends on the line before a key is that key's documentation, as somebody who edits the values reads it. A
key whose value is a mapping with documented keys of its own is a section; every other key is a row of a table.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BEGINNING = """# scheduledjob-operator

<!-- Written by `make chart` from values.yaml. -->

{description}

```console
$ helm install scheduledjob charts/scheduledjob-operator --namespace scheduledjob-system --create-namespace
$ helm test scheduledjob --namespace scheduledjob-system --logs
```

Without values there is one replica with its store in memory. Values are checked before anything is installed: one that
is unknown, wrong or can't be together with another is refused, and the message says what to write.

Several replicas share a Postgres or a Firestore:

```yaml
replicaCount: 3
store:
  type: postgresql
  postgresql:
    host: postgres.databases.svc
    passwordSecret: {{name: scheduledjob-postgres}}
```

The service account gets the rules of `files/rules.yaml` and nothing else: in all namespaces, or in those of
`namespaces`. Secrets and ConfigMaps are not among them until `rbac.secrets` and `rbac.configMaps` say where.

`helm uninstall` leaves the CustomResourceDefinition and with it every ScheduledJob, unless `crds.keep` is false;
objects that are left can be deleted as any other. A release of another name takes it over with
`helm install --take-ownership`, or leaves it alone with `crds.install=false`. `helm upgrade` upgrades it too.

The Pod of `helm test` stays, for its log, until the next test or until somebody deletes it. The account that it has,
which may make ScheduledJobs in one namespace and delete its own, goes with the release.

Without Helm, `kubectl apply --server-side -f install.yaml` is the chart with no values.

## Values
"""


@dataclass
class Key:
    """One key of the values."""

    path: str
    says: str
    default: Any
    keys: list[Key] = field(default_factory=list)
    """Those below it, where at least one of them is documented."""


def read_keys(text: str) -> list[Key]:
    """The keys of a values.yaml, with what is said of each. ValueError: a key of which nothing is said."""
    root = yaml.compose(text)
    if not isinstance(root, yaml.MappingNode):
        raise TypeError("values.yaml is to hold a mapping")
    found = list(_keys(root, text.splitlines(), ""))
    if silent := [each.path for each in _leaves(found) if not each.says]:
        raise ValueError(f"nothing is said of {', '.join(silent)}: write a comment on the line before")
    return found


def _keys(node: yaml.MappingNode, lines: Sequence[str], above: str) -> Iterator[Key]:
    for name, value in node.value:
        path = f"{above}{name.value}"
        key = Key(path, _comment_before(lines, name.start_mark.line), yaml.safe_load(yaml.serialize(value)))
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            below = list(_keys(value, lines, f"{path}."))
            if any(each.says or each.keys for each in below):
                key.keys = below
        yield key


def _comment_before(lines: Sequence[str], line: int) -> str:
    words: list[str] = []
    while line > 0 and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        words.insert(0, lines[line].strip().lstrip("#").strip())
    return " ".join(words)


def _leaves(keys: Sequence[Key]) -> Iterator[Key]:
    for each in keys:
        if each.keys:
            yield from _leaves(each.keys)
        else:
            yield each


def readme(folder: Path) -> str:
    """The README of the chart in this folder."""
    chart = yaml.safe_load((folder / "Chart.yaml").read_text(encoding="utf-8"))
    keys = read_keys((folder / "values.yaml").read_text(encoding="utf-8"))
    parts = [BEGINNING.format(description=chart["description"]), *_table([each for each in keys if not each.keys])]
    for section in (each for each in keys if each.keys):
        parts.append(f"### `{section.path}`\n")
        parts += [f"{section.says}\n"] if section.says else []
        parts += _table(list(_leaves(section.keys)))
    return "\n".join(parts)


def _table(keys: Sequence[Key]) -> list[str]:
    rows = [f"| `{each.path}` | {_cell(each.says)} | `{_cell(json.dumps(each.default))}` |" for each in keys]
    return ["| Value | Meaning | Default |", "|---|---|---|", *rows, ""] if rows else []


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    chart_folder = Path(sys.argv[1])
    (chart_folder / "README.md").write_text(readme(chart_folder), encoding="utf-8")
