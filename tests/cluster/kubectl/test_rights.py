"""What docs/kubectl.md says that each command has to be allowed is enough for it, and nothing of it is too much."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.cli.kubectl.test_convert import shape
from tests.cluster.e2e.operators import annotate, manifest
from tests.cluster.kubectl.support import Plugin
from tests.docs.pages import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.harness import ApiClient, Cluster

pytestmark = pytest.mark.cluster

GROUPS = {"scheduledjobs": "scheduledjobs.dev", "cronjobs": "batch", "events": "", "pods": "", "pods/log": ""}
TYPED = {
    "list": [["list"]],
    "next": [["next"], ["next", "job"]],
    "explain": [["explain", "job"]],
    "history": [["history"], ["history", "job"]],
    "simulate": [["simulate"]],
    "describe": [["describe", "job"]],
    "logs": [["logs", "job"]],
    "suspend": [["suspend", "job"]],
    "resume": [["resume", "job"]],
    "cancel": [["cancel", "job", "run"]],
    "trigger": [["trigger", "job"]],
    "trigger --wait": [["trigger", "job", "--wait", "--timeout", "2"]],
    "convert": [["convert", "hello"], ["convert", "--all"]],
}
"""What is typed for each command of the table."""
ONLY_WITH_A_POD = {"logs": [("get", "pods/log")], "trigger --wait": [("get", "pods/log"), ("list", "pods")]}
"""Of a command: what it does not come to ask for here, where no Pod runs."""
_ROW = re.compile(r"^\| (`.*?) \| (`.*) \|$", re.MULTILINE)
_RIGHT = re.compile(r"((?:`[a-z]+`(?:, )?)+) on `([a-z/]+)`")


def _table() -> list[tuple[list[str], list[tuple[str, str]]]]:
    """The commands of each row, and their (verb, resource)."""
    text = (ROOT / "docs" / "kubectl.md").read_text(encoding="utf-8").partition("## What it may do")[2]
    rows = []
    for commands, rights in _ROW.findall(text):
        found = [(verb, where) for verbs, where in _RIGHT.findall(rights) for verb in re.findall(r"[a-z]+", verbs)]
        rows.append((re.findall(r"`(.*?)`", commands), found))
    return [(commands, found) for commands, found in rows if found]


def test_every_command_that_asks_the_cluster_is_in_the_table() -> None:
    assert {command for commands, _ in _table() for command in commands} == set(TYPED)


async def _allow(sjobs: Cluster, namespace: str, user: str, rights: list[tuple[str, str]]) -> None:
    api, group = "rbac.authorization.k8s.io/v1", "rbac.authorization.k8s.io"
    metadata = {"name": user, "namespace": namespace}
    rules = [{"apiGroups": [GROUPS[where]], "resources": [where], "verbs": [verb]} for verb, where in rights]
    role = {"apiVersion": api, "kind": "Role", "metadata": metadata, "rules": rules}
    binding: dict[str, Any] = {
        "apiVersion": api,
        "kind": "RoleBinding",
        "metadata": metadata,
        "roleRef": {"apiGroup": group, "kind": "Role", "name": user},
        "subjects": [{"kind": "User", "name": user, "apiGroup": group}],
    }
    await sjobs.apply(yaml.safe_dump_all([role, binding]))


@pytest.mark.parametrize("row", range(len(_table())), ids=lambda row: " ".join(_table()[row][0]))
async def test_the_rights_of_a_row(sjobs: Cluster, api: ApiClient, namespace: str, tmp_path: Path, row: int) -> None:
    commands, rights = _table()[row]
    await sjobs.apply(manifest("job", "every: 1h", "{custom: {kind: print}}"), "-n", namespace)
    await annotate(api, namespace, "job", run_now="run")
    cronjob = shape("plain")
    cronjob["metadata"]["namespace"] = namespace
    await sjobs.apply(yaml.safe_dump(cronjob), "-n", namespace)
    enough = f"enough-{row}-{namespace}"
    await _allow(sjobs, namespace, enough, rights)
    plugin = Plugin(sjobs.kubeconfig_for(enough), namespace, tmp_path)
    said = [await plugin(*typed) for command in commands for typed in TYPED[command]]
    assert not [done for done in said if "cannot" in done.out + done.err]
    for left_out in [one for one in rights if one not in ONLY_WITH_A_POD.get(commands[0], [])]:
        less = f"less-{rights.index(left_out)}-{row}-{namespace}"
        await _allow(sjobs, namespace, less, [one for one in rights if one != left_out])
        plugin = Plugin(sjobs.kubeconfig_for(less), namespace, tmp_path)
        said = [await plugin(*typed) for command in commands for typed in TYPED[command]]
        assert [done for done in said if "cannot" in done.out + done.err], left_out
