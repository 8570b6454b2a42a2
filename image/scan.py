"""Read the contents of the image from its archive, and list files that must not be there."""

from __future__ import annotations

import json
import re
import tarfile
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_COMPILERS = re.compile(r"(.*-)?(g?cc|[gc]\+\+|clang|cpp|tcc|rustc|go|ld|as|make)(-[\d.]+)?")
_CACHES = ("var/cache", "var/lib/apt/lists", "root/.cache", "usr/share/python-wheels")
_PACKAGE_MANAGERS = {"apt", "apt-get", "dpkg", "pip", "pip3", "uv"}
_PROGRAMS = {"bin", "sbin"}
_SPECIAL = 0o6000
_BY_GROUP = 0o020
_BY_OTHERS = 0o002


@dataclass
class Scan:
    """The contents of an image. Paths have no leading slash."""

    size: int = 0
    """The total size of all files, in bytes."""
    count: int = 0
    user: str = ""
    """The user that its programs run as."""
    labels: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    health_check: object = None
    """The health check of the image's configuration."""
    privileged: list[str] = field(default_factory=list)
    """Files with the setuid or setgid bit."""
    writable: list[str] = field(default_factory=list)
    """Files that the image's user can write to or make writable."""
    compilers: list[str] = field(default_factory=list)
    caches: list[str] = field(default_factory=list)
    """Files that a package manager left in its caches."""
    package_managers: list[str] = field(default_factory=list)
    without_bytecode: list[str] = field(default_factory=list)
    """Modules below /opt that Python would compile at each start."""

    @property
    def faults(self) -> dict[str, list[str]]:
        """Files that must not be in the image, by the kind of fault."""
        return {
            "setuid and setgid files": self.privileged,
            f"writable by {self.user}": self.writable,
            "compilers": self.compilers,
            "package managers": self.package_managers,
            "files in their caches": self.caches,
            "modules without bytecode": self.without_bytecode,
        }


def scan(archive: Path) -> Scan:
    """Read an archive in the format of `docker save`."""
    with tarfile.open(archive) as tar:
        manifest = _json(tar, "manifest.json")[0]
        config = _json(tar, manifest["Config"])["config"]
        found = Scan(user=config.get("User", ""), labels=config.get("Labels") or {})
        found.environment = dict(variable.split("=", 1) for variable in config.get("Env") or [])
        found.health_check = config.get("Healthcheck")
        entries: dict[str, tarfile.TarInfo] = {}
        for name in layers(tar):
            with tarfile.open(fileobj=tar.extractfile(name)) as layer:
                entries |= {_normal(entry.name): entry for entry in layer}
    uid, gid = (int(part) for part in found.user.split(":"))
    for path, entry in sorted(entries.items()):
        _classify(found, path, entry, uid, gid)
    sources = [path for path in entries if path.startswith("opt/") and path.endswith(".py")]
    stems = {_stem(path) for path in entries if path.endswith(".pyc")}
    found.without_bytecode = sorted(path for path in sources if path.removesuffix(".py") not in stems)
    return found


def layers(tar: tarfile.TarFile) -> list[str]:
    """Return the names of the layers in an archive, the lowest first."""
    found: list[str] = _json(tar, "manifest.json")[0]["Layers"]
    return found


def _classify(found: Scan, path: str, entry: tarfile.TarInfo, uid: int, gid: int) -> None:
    if entry.issym():
        return
    found.size += entry.size
    found.count += 1
    if entry.isfile() and entry.mode & _SPECIAL:
        found.privileged.append(path)
    # The user can make its own files writable.
    if entry.uid == uid or (entry.gid == gid and entry.mode & _BY_GROUP) or entry.mode & _BY_OTHERS:
        found.writable.append(path)
    parsed = PurePosixPath(path)
    if entry.isfile() and parsed.parent.name in _PROGRAMS:
        if _COMPILERS.fullmatch(parsed.name):
            found.compilers.append(path)
        if parsed.name in _PACKAGE_MANAGERS:
            found.package_managers.append(path)
    if entry.isfile() and path.startswith(_CACHES):
        found.caches.append(path)


def _normal(path: str) -> str:
    return path.removeprefix("./").strip("/")


def _stem(path: str) -> str:
    """Return the module of a bytecode file: ``a/b`` for ``a/__pycache__/b.cpython-311.pyc``."""
    parsed = PurePosixPath(path)
    return str(parsed.parent.parent / parsed.name.split(".")[0])


def _json(tar: tarfile.TarFile, name: str) -> Any:
    file = tar.extractfile(name)
    if file is None:
        raise ValueError(f"not an archive of an image: it has no file {name}")
    return json.load(file)
