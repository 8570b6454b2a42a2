"""Helm as a user types it, on the chart of this checkout."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tests.cluster.harness.binaries import programs
from tests.support.absent import do_without
from tests.support.processes import ServerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.cluster.harness import Cluster

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts" / "scheduledjob-operator"

Object = dict[str, Any]


class Refused(Exception):
    """Helm's own words."""


def program() -> Path:
    """Helm itself; a test that can't have it is not run."""
    try:
        return programs(["helm"])["helm"]
    except ServerUnavailableError as reason:
        do_without("a Kubernetes control plane", reason)


def values_of(text: str) -> Object:
    """Values as they would stand in a file."""
    loaded: Object = yaml.safe_load(text) or {}
    return loaded


async def helm(*arguments: str, values: Object | None = None, kubeconfig: Path | None = None) -> str:
    """What it printed; Refused where it failed. Without a kubeconfig it has no cluster to ask."""
    command = [str(program()), *arguments, *(["--values", "-"] if values is not None else [])]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HELM_", "KUBE"))}
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment | {"KUBECONFIG": str(kubeconfig or os.devnull)},
    )
    output, errors = await process.communicate(json.dumps(values or {}).encode())
    if process.returncode != 0:
        raise Refused(errors.decode())
    return output.decode()


async def render(
    values: Object | None = None,
    *more: str,
    name: str = "scheduledjob",
    namespace: str = "sjobs",
    cluster: Cluster | None = None,
) -> list[Object]:
    """The objects of a release. With a cluster the chart may look at it, as an installation would."""
    asking = ["--dry-run=server"] if cluster is not None else []
    text = await helm(
        "template", name, str(CHART), "--namespace", namespace, *asking, *more,
        values=values or {}, kubeconfig=cluster.kubeconfig if cluster is not None else None,
    )  # fmt: skip
    return [each for each in yaml.load_all(text, yaml.CSafeLoader) if each]


def the(objects: Iterable[Object], kind: str, name: str | None = None) -> Object:
    """The one object of this kind, or of this kind and name."""
    (found,) = (each for each in objects if each["kind"] == kind and (name is None or each["metadata"]["name"] == name))
    return found


def of_the_test(one: Object) -> bool:
    """Whether an object is there for `helm test`."""
    return bool(one["metadata"].get("labels", {}).get("app.kubernetes.io/component") == "test")


def kinds(objects: Iterable[Object]) -> set[str]:
    return {each["kind"] for each in objects}


def container(objects: Iterable[Object]) -> Object:
    """The operator's."""
    found: Object = the(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    return found


def environment(objects: Iterable[Object]) -> dict[str, str]:
    """The variables of the operator's container whose values are written there."""
    return {each["name"]: each["value"] for each in container(objects)["env"] if "value" in each}
