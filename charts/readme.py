"""Generate the README of a chart from its values.yaml (`make chart`).

The comment that ends on the line before a key documents that key. A key whose value is a mapping with documented keys
becomes a section; every other key becomes a row of a table.
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

By default, the chart installs one replica with its store in memory. Values are validated before anything is installed:
if a value is unknown, invalid or conflicts with another one, the error message says what to write.

Several replicas share a Postgres or a Firestore:

```yaml
replicaCount: 3
store:
  type: postgresql
  postgresql:
    host: postgres.databases.svc
    passwordSecret: {{name: scheduledjob-postgres}}
```

The service account gets the rules in `files/rules.yaml` and no others, either in all namespaces or in those of
`namespaces`. It may read Secrets and ConfigMaps only in the namespaces that you list in `rbac.secrets` and
`rbac.configMaps`.

`helm uninstall` keeps the CustomResourceDefinition, and with it every ScheduledJob, unless `crds.keep` is false. You
can delete the remaining objects like any others. To install a release under another name, either take over the
definition with `helm install --take-ownership`, or leave it alone with `crds.install=false`. `helm upgrade` also
upgrades the definition.

The Pod of `helm test` is kept for its log until the next test. Its service account, which may create ScheduledJobs in
one namespace and delete its own, is part of the release and is removed with it.

Without Helm, `kubectl apply --server-side -f install.yaml` installs what the chart installs with its default values.

## Values
"""


@dataclass
class Key:
    """One key of the values."""

    path: str
    comment: str
    default: Any
    children: list[Key] = field(default_factory=list)
    """The keys below this one, if at least one of them is documented."""


def read_keys(text: str) -> list[Key]:
    """Return the keys of a values.yaml with their comments. ValueError: a key has no comment."""
    root = yaml.compose(text)
    if not isinstance(root, yaml.MappingNode):
        raise TypeError("values.yaml must contain a mapping")
    keys = list(_keys(root, text.splitlines(), ""))
    if undocumented := [key.path for key in _leaves(keys) if not key.comment]:
        raise ValueError(f"no comment on {', '.join(undocumented)}: write one on the line before the key")
    return keys


def _keys(node: yaml.MappingNode, lines: Sequence[str], prefix: str) -> Iterator[Key]:
    for name, value in node.value:
        path = f"{prefix}{name.value}"
        key = Key(path, _comment_before(lines, name.start_mark.line), yaml.safe_load(yaml.serialize(value)))
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            children = list(_keys(value, lines, f"{path}."))
            if any(child.comment or child.children for child in children):
                key.children = children
        yield key


def _comment_before(lines: Sequence[str], line: int) -> str:
    words: list[str] = []
    while line > 0 and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        words.insert(0, lines[line].strip().lstrip("#").strip())
    return " ".join(words)


def _leaves(keys: Sequence[Key]) -> Iterator[Key]:
    for key in keys:
        if key.children:
            yield from _leaves(key.children)
        else:
            yield key


def readme(folder: Path) -> str:
    """Return the README of the chart in this directory."""
    chart = yaml.safe_load((folder / "Chart.yaml").read_text(encoding="utf-8"))
    keys = read_keys((folder / "values.yaml").read_text(encoding="utf-8"))
    parts = [BEGINNING.format(description=chart["description"]), *_table([key for key in keys if not key.children])]
    for section in (key for key in keys if key.children):
        parts.append(f"### `{section.path}`\n")
        parts += [f"{section.comment}\n"] if section.comment else []
        parts += _table(list(_leaves(section.children)))
    return "\n".join(parts)


def _table(keys: Sequence[Key]) -> list[str]:
    rows = [f"| `{key.path}` | {_cell(key.comment)} | `{_cell(json.dumps(key.default))}` |" for key in keys]
    return ["| Value | Meaning | Default |", "|---|---|---|", *rows, ""] if rows else []


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    chart_folder = Path(sys.argv[1])
    (chart_folder / "README.md").write_text(readme(chart_folder), encoding="utf-8")
