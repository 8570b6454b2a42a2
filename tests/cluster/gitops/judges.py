"""Who judges objects in Git's name: Argo CD's interpreter of health checks, and Flux's kstatus as Flux compiles it."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from lupa.lua51 import LuaRuntime  # the version of Lua that Argo CD has

from tests.cluster.harness.binaries import cache
from tests.support.absent import do_without

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
    process = await asyncio.create_subprocess_exec(
        str(await asyncio.to_thread(_program)), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    output, _ = await process.communicate("".join(json.dumps(each) + "\n" for each in objects).encode())
    assert process.returncode == 0
    return [Health(**json.loads(line)) for line in output.splitlines()]


def _program() -> Path:
    """Built anew each time; the Go toolchain knows what has not changed."""
    if shutil.which("go") is None:
        do_without("a Kubernetes control plane", "there is no Go to build kstatus with: install Go 1.26 or newer")
    target = cache() / "kstatus"
    target.parent.mkdir(parents=True, exist_ok=True)
    command = ["nice", "go", "build", "-mod=readonly", "-o", str(target), "."]
    built = subprocess.run(command, cwd=_KSTATUS, capture_output=True, text=True, check=False)
    if built.returncode != 0:
        raise AssertionError(f"`{' '.join(command)}` in {_KSTATUS} failed:\n{built.stderr[-4000:]}")
    return target
