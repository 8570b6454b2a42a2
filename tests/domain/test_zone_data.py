"""Zone data: the newer of the system's and the packaged is used, and a zone of the package is read from there."""

from __future__ import annotations

import zoneinfo
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest
import tzdata

from scheduledjob.domain.time.zone_data import ZONE_DATA, ZoneData, newest, zone_info, zone_names
from scheduledjob.domain.time.zones import zone_of

if TYPE_CHECKING:
    from pathlib import Path


def folder_of(path: Path, first_line: str | None, *, file: str = "tzdata.zi") -> str:
    path.mkdir(parents=True)
    (path / "UTC").write_bytes(b"TZif")
    if first_line is not None:
        (path / file).write_text(f"{first_line}\n# more\n")
    return str(path)


@pytest.mark.parametrize(
    ("first_line", "file", "used"),
    [
        ("# version 2025b", "tzdata.zi", "package"),
        ("# version 2026f", "tzdata.zi", "package"),
        ("# version 2026g", "tzdata.zi", "2026g"),
        ("# version 2027a", "tzdata.zi", "2027a"),
        ("2027a", "+VERSION", "2027a"),
        ("# version 2026f-rearguard", "tzdata.zi", "package"),
        ("# version 2026g-dirty", "tzdata.zi", "2026g"),
        ("# version 9999", "tzdata.zi", "package"),
        ("# version 20990101", "tzdata.zi", "package"),
        ("no version", "tzdata.zi", "package"),
        ("", "tzdata.zi", "package"),
        (None, "", "package"),
    ],
)
def test_the_newer_data_are_used(tmp_path: Path, first_line: str | None, file: str, used: str) -> None:
    folder = folder_of(tmp_path / "zones", first_line, file=file)
    expected = ZoneData("2026f", "package") if used == "package" else ZoneData(used, folder)
    assert newest([str(tmp_path / "missing"), folder], "2026f") == expected


def test_only_the_first_folder_with_data_counts_as_for_zoneinfo(tmp_path: Path) -> None:
    old, new = folder_of(tmp_path / "old", "# version 2020a"), folder_of(tmp_path / "new", "# version 2030a")
    assert newest([old, new], "2026f").source == "package"
    assert newest([new, old], "2026f") == ZoneData("2030a", new)


def test_without_data_of_the_system_the_packaged_are_used() -> None:
    assert newest([], "2026f") == ZoneData("2026f", "package")


def test_this_process_uses_none_older_than_the_packaged() -> None:
    assert ZONE_DATA.version >= tzdata.IANA_VERSION


def test_packaged_zones_are_read_from_the_package() -> None:
    """British Columbia stays on daylight saving time from 2026, which data before 2026b did not know."""
    vancouver = zone_info("America/Vancouver", ZoneData(tzdata.IANA_VERSION, "package"))
    assert datetime(2026, 12, 1, tzinfo=UTC).astimezone(vancouver).utcoffset() == timedelta(hours=-7)
    offset = zone_of("America/Vancouver").at(1_796_083_200).offset
    assert offset == -7 * 3600


@pytest.mark.parametrize("content", [b"", b"garbage", b"TZif2", None], ids=["empty", "garbage", "cut", "missing"])
def test_a_zone_that_newer_data_of_the_system_can_not_give_is_read_from_the_package(
    tmp_path: Path, content: bytes | None
) -> None:
    newer = folder_of(tmp_path / "zones", "# version 2999a")
    (tmp_path / "zones" / "America").mkdir()
    if content is not None:
        (tmp_path / "zones" / "America" / "Vancouver").write_bytes(content)
    zoneinfo.reset_tzpath([newer])
    try:
        ZoneInfo.clear_cache()
        vancouver = zone_info("America/Vancouver", ZoneData("2999a", newer))
        with pytest.raises(KeyError):
            zone_info("America/Nowhere", ZoneData("2999a", newer))
    finally:
        zoneinfo.reset_tzpath()
        ZoneInfo.clear_cache()
    assert datetime(2026, 12, 1, tzinfo=UTC).astimezone(vancouver).utcoffset() == timedelta(hours=-7)


def test_each_name_is_a_zone() -> None:
    for name in zone_names():
        assert isinstance(zone_info(name), ZoneInfo)
        assert zone_of(name).name == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../zones", "/etc/passwd", "UTC/", "UTC\0", "Europe//Lisbon", "a" * 300, "zones", "Europe"]
)
def test_no_other_file_is_read_as_a_zone(name: str) -> None:
    with pytest.raises(ValueError, match="is unknown: write an IANA name"):
        zone_of(name)


@pytest.mark.parametrize("name", ["localtime", "Local", "local", "posixrules", "Factory", "factory", "right/UTC"])
def test_the_zone_of_the_machine_is_never_suggested(name: str) -> None:
    with pytest.raises(ValueError, match="is unknown: write an IANA name such as Europe/Lisbon, or UTC"):
        zone_of(name)
