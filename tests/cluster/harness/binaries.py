"""Where the programs of a cluster come from: the folder KUBEBUILDER_ASSETS, or the Go toolchain.

KUBEBUILDER_ASSETS is the convention of controller-runtime's envtest; what its folder lacks (often the controller
manager) is built. The versions are those of the committed go.mod files, and nothing but their go.sum is trusted. A
build takes minutes, once: the binaries are kept outside the checkout by version, and one process builds at a time.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.processes import ServerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MODULES = Path(__file__).with_name("gomod")
CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")
NODE = ("kube-scheduler", "kubelet")
HOW_TO_GET = (
    "install Go 1.26 or newer (the first run then builds Kubernetes, once, in some minutes), or set "
    "KUBEBUILDER_ASSETS to a folder with etcd, kube-apiserver, kube-controller-manager and kubectl, "
    "or TEST_KUBECONFIG to the kubeconfig of a cluster"
)
_PACKAGES = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "helm": "helm.sh/helm/v3/cmd/helm",
    **{
        name: f"k8s.io/kubernetes/cmd/{name}"
        for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl")
    },
}


def programs(names: Sequence[str]) -> dict[str, Path]:
    """The path of each program by its name, built where it has to be; ServerUnavailableError where it can't be."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets and not Path(assets).is_dir():
        raise ServerUnavailableError(f"KUBEBUILDER_ASSETS must name a folder, and {assets!r} is none")
    found = {name: folder / name for folder in (cache(), *([Path(assets)] if assets else [])) for name in names
             if (folder / name).exists()}  # fmt: skip
    if missing := [name for name in names if name not in found]:
        _build(missing)
        found |= {name: cache() / name for name in missing}
    return found


def cache() -> Path:
    """The folder of the binaries that were built here; TEST_CLUSTER_CACHE overrides where it lies."""
    given = os.environ.get("TEST_CLUSTER_CACHE")
    root = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scheduledjob"
    return root / f"{version('k8s.io/kubernetes')}-{version('go.etcd.io/etcd/server/v3')}" / "bin"


def version(module: str) -> str:
    """The version of a Go module in the committed go.mod files, such as ``v1.37.2``."""
    for file in sorted(MODULES.glob("*/go.mod")):
        if match := re.search(rf"^\s*{re.escape(module)} (v\S+)", file.read_text(), re.MULTILINE):
            return match[1]
    raise ValueError(f"no go.mod below {MODULES} has {module}")


def _build(names: Sequence[str]) -> None:
    if shutil.which("go") is None:
        raise ServerUnavailableError(f"there is no {' and no '.join(names)}: {HOW_TO_GET}")
    folder = cache()
    folder.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(folder / ".lock"):
        missing = [name for name in names if not (folder / name).exists()]
        if missing:
            print(f"building {', '.join(missing)}; this takes minutes, once", file=sys.__stderr__, flush=True)
        began = time.monotonic()
        for name in missing:
            with tempfile.TemporaryDirectory(dir=folder) as scratch:  # a build that is interrupted leaves no program
                _go_build(name, Path(scratch) / name)
                (Path(scratch) / name).rename(folder / name)
        if missing:
            print(f"built in {time.monotonic() - began:.0f} s, kept in {folder}", file=sys.__stderr__, flush=True)


def _go_build(name: str, target: Path) -> None:
    module = MODULES / ("helm" if name == "helm" else "kubernetes")
    command = ["nice", "go", "build", "-mod=readonly", "-ldflags", _flags(name), "-o", str(target), _PACKAGES[name]]
    built = subprocess.run(command, cwd=module, capture_output=True, text=True, check=False)
    if built.returncode != 0:
        raise ServerUnavailableError(f"`{' '.join(command)}` in {module} failed:\n{built.stderr[-4000:]}")


def _flags(name: str) -> str:
    """What the linker writes into a program: without it Kubernetes calls itself v0.0.0-master."""
    kubernetes = version("k8s.io/kubernetes")
    minor = kubernetes.split(".")[1]
    flags = ["-s", "-w"]
    if name == "helm":
        module = "helm.sh/helm/v3"
        flags += ["-X", f"{module}/internal/version.version={version(module)}"]
        for package in ("chartutil", "lint/rules"):  # the version that `helm template` and `helm lint` assume
            flags += ["-X", f"{module}/pkg/{package}.k8sVersionMajor=1"]
            flags += ["-X", f"{module}/pkg/{package}.k8sVersionMinor={minor}"]
    elif name != "etcd":
        for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
            values = {"gitVersion": kubernetes, "gitMajor": "1", "gitMinor": minor}
            values |= {"gitTreeState": "clean", "gitCommit": "module"}
            flags += [part for key, value in values.items() for part in ("-X", f"{package}.{key}={value}")]
    return " ".join(flags)


@contextmanager
def _one_at_a_time(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
