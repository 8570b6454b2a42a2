"""What GitOps tools make of objects: Argo CD's interpreter of health checks, and Flux's kstatus as Flux compiles it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from lupa.lua51 import LuaRuntime  # the version of Lua that Argo CD has

from tests.cluster.chart.go import answers

ROOT = Path(__file__).parents[3]
HEALTH = ROOT / "gitops" / "argocd" / "health.lua"
CONFIG_MAP = ROOT / "gitops" / "argocd" / "argocd-cm.yaml"
_KSTATUS = Path(__file__).with_name("kstatus")

Object = dict[str, Any]


class Health(NamedTuple):
    """What is said of an object."""

    status: str
    message: str


def argo_cd(obj: Object) -> Health:
    """By the health check as argocd-cm.yaml has it, with nothing at hand that Argo CD does not have."""
    config = yaml.safe_load(CONFIG_MAP.read_text())["data"]
    lua = LuaRuntime(unpack_returned_tuples=True)
    for library in ("io", "os", "package", "debug", "require", "dofile", "loadfile", "python"):
        lua.globals()[library] = None
    lua.globals()["obj"] = lua.table_from(obj, recursive=True)
    found: Any = lua.execute(config["resource.customizations.health.scheduledjobs.dev_ScheduledJob"])
    return Health(found.status, found.message)


async def flux(objects: list[Object]) -> list[Health]:
    """By kstatus, the library with which Flux waits."""
    output = await answers(_KSTATUS, [json.dumps(each) for each in objects])
    return [Health(**json.loads(line)) for line in output.splitlines()]
