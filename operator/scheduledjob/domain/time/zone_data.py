"""Zone data: the rules of the time zones, of the system or of the ``tzdata`` package, whichever is newer.

``zoneinfo`` always prefers the system's data, however old it is. Governments change their rules at short notice, so an
old operating system would start jobs at the wrong hour although new rules are installed beside it. IANA names its
releases ``2026f``: a year and a letter. They compare as text.
"""

from __future__ import annotations

import re
import struct
import zoneinfo
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import tzdata

if TYPE_CHECKING:
    from collections.abc import Sequence

_RELEASE = re.compile(r"[0-9]{4}[a-z]{1,2}(?![a-z])")
"""Builds of the same release have names such as ``2026f-rearguard``."""
_NAME = re.compile(r"[A-Za-z0-9_+-]{1,40}(/[A-Za-z0-9_+-]{1,40}){0,3}")


@dataclass(frozen=True, slots=True)
class ZoneData:
    """Which zone data is used."""

    version: str
    """The release of IANA, as in ``2026f``."""
    source: str
    """``package``, or the folder of the system's data."""

    def __str__(self) -> str:
        return f"{self.version} ({self.source})"


def newest(folders: Sequence[str], packaged: str) -> ZoneData:
    """Return the system's data from the first folder that has any, if it is newer than the package's version."""
    for folder in folders:
        if (Path(folder) / "UTC").is_file() or (Path(folder) / "Etc" / "UTC").is_file():
            version = _version_of(Path(folder))
            return ZoneData(version, folder) if version > packaged else ZoneData(packaged, "package")
    return ZoneData(packaged, "package")


def _version_of(folder: Path) -> str:
    """Return the release of a folder's data; empty if it does not say."""
    for name in ("tzdata.zi", "+VERSION", "version"):
        try:
            with (folder / name).open(encoding="utf-8", errors="replace") as file:
                words = file.readline().split()
        except OSError:
            continue
        if words and (release := _RELEASE.match(words[-1])):
            return release[0]
    return ""


ZONE_DATA = newest(zoneinfo.TZPATH, tzdata.IANA_VERSION)
"""What this process uses."""


@cache
def zone_info(name: str, data: ZoneData = ZONE_DATA) -> ZoneInfo:
    """Return a time zone. Raises KeyError, ValueError or OSError for a name that is unknown.

    A zone that the newer data lack, or whose file is damaged there, is read from the other data.
    """
    packaged = _packaged(name) if data.source == "package" else None
    if packaged is not None:
        return packaged
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, IndexError, struct.error) as error:
        if (packaged := _packaged(name)) is None:
            raise ValueError(f"time zone {name!r:.60} has damaged data in {data.source}") from error
        return packaged


def _packaged(name: str) -> ZoneInfo | None:
    """Return a zone of the package, or None if it has no such zone."""
    if not _NAME.fullmatch(name):
        return None
    resource = files("tzdata.zoneinfo").joinpath(*name.split("/"))
    if not resource.is_file():
        return None
    with resource.open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


@cache
def zone_names() -> frozenset[str]:
    """Return the names of all time zones."""
    return frozenset(name for name in zoneinfo.available_timezones() if not is_local_name(name))


def is_local_name(name: str) -> bool:
    """Whether a system adds this name to those of IANA: for the zone of the machine, or for one with leap seconds."""
    return name.startswith(("right/", "posix/")) or name in {"localtime", "posixrules", "Factory"}
