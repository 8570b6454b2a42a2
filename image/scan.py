"""What is in the image, read from its archive: what must not be there, and how large the rest is."""

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
    """Paths without a slash before them."""

    size: int = 0
    """Of all files, in bytes."""
    count: int = 0
    user: str = ""
    """Whom its programs run as."""
    labels: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    health_check: object = None
    """What a runtime without probes would ask."""
    privileged: list[str] = field(default_factory=list)
    """Files that run as somebody else than who starts them."""
    writable: list[str] = field(default_factory=list)
    """What its user may write to."""
    compilers: list[str] = field(default_factory=list)
    caches: list[str] = field(default_factory=list)
    """Files that a package manager left."""
    package_managers: list[str] = field(default_factory=list)
    without_bytecode: list[str] = field(default_factory=list)
    """Modules below /opt that would be compiled at each start."""

    @property
    def faults(self) -> dict[str, list[str]]:
        """What must not be there, by what it is."""
        return {
            "setuid and setgid files": self.privileged,
            f"writable by {self.user}": self.writable,
            "compilers": self.compilers,
            "package managers": self.package_managers,
            "files in their caches": self.caches,
            "modules without bytecode": self.without_bytecode,
        }


def scan(archive: Path) -> Scan:
    """Read an archive as `docker save` writes it."""
    with tarfile.open(archive) as tar:
        manifest = _json(tar, "manifest.json")[0]
        config = _json(tar, manifest["Config"])["config"]
        found = Scan(user=config.get("User", ""), labels=config.get("Labels") or {})
        found.environment = dict(each.split("=", 1) for each in config.get("Env") or [])
        found.health_check = config.get("Healthcheck")
        entries: dict[str, tarfile.TarInfo] = {}
        for name in layers(tar):
            with tarfile.open(fileobj=tar.extractfile(name)) as layer:
                entries |= {_normal(entry.name): entry for entry in layer}
    uid, gid = (int(part) for part in found.user.split(":"))
    for path, entry in sorted(entries.items()):
        _look(found, path, entry, uid, gid)
    sources = [path for path in entries if path.startswith("opt/") and path.endswith(".py")]
    stems = {_stem(path) for path in entries if path.endswith(".pyc")}
    found.without_bytecode = sorted(path for path in sources if path.removesuffix(".py") not in stems)
    return found


def layers(tar: tarfile.TarFile) -> list[str]:
    """The names in an archive of the file systems that lie upon each other."""
    found: list[str] = _json(tar, "manifest.json")[0]["Layers"]
    return found


def _look(found: Scan, path: str, entry: tarfile.TarInfo, uid: int, gid: int) -> None:
    if entry.issym():
        return
    found.size += entry.size
    found.count += 1
    if entry.isfile() and entry.mode & _SPECIAL:
        found.privileged.append(path)
    # Its own files it may make writable.
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
    """The module of ``a/__pycache__/b.cpython-311.pyc``, which is ``a/b``."""
    parsed = PurePosixPath(path)
    return str(parsed.parent.parent / parsed.name.split(".")[0])


def _json(tar: tarfile.TarFile, name: str) -> Any:
    file = tar.extractfile(name)
    if file is None:
        raise ValueError(f"this is no archive of an image: {name} is no file in it")
    return json.load(file)
