"""The version comes from a git tag. There is also one without a tag, and without git."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.version import Version

from image import build
from image.release import ReleaseError, check, tagged
from scheduledjob.cli.scheduledjob.main import execute
from scheduledjob.domain.time.zone_data import ZONE_DATA
from scheduledjob.version import program_version

ROOT = Path(__file__).parents[2]
NAMED = r"\+g[0-9a-f]{7,}"


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.com", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, "-C", folder, *arguments], check=True, capture_output=True)


def version_of(folder: Path, **given: str) -> str:
    """Return the version that a build of the package gets."""
    kept = {name: value for name, value in os.environ.items() if "PRETEND_VERSION" not in name}
    command = [sys.executable, "-m", "hatchling", "version"]
    found = subprocess.run(command, cwd=folder, env=kept | given, capture_output=True, text=True, check=True)
    return found.stdout.strip()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The project without a git repository, as in a source archive."""
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture
def checkout(source: Path) -> Path:
    """A git repository of the project without tags."""
    git(source, "init", "--quiet")
    git(source, "add", ".")
    git(source, "commit", "--quiet", "-m", "Begin")
    return source


def test_without_git_the_version_is_the_given_one(source: Path) -> None:
    assert version_of(source) == "0.0.0"
    assert version_of(source, SETUPTOOLS_SCM_PRETEND_VERSION="1.2.3") == "1.2.3"


def test_without_a_tag_the_version_names_the_commit(checkout: Path) -> None:
    assert re.fullmatch(rf"0\.0\.1\.dev1{NAMED}", version_of(checkout))


def test_a_tag_is_the_version_until_the_next_commit(checkout: Path) -> None:
    for other in ("chart-9.9.9", "v9", "latest"):
        git(checkout, "tag", other)
    git(checkout, "tag", "v1.2.3")
    assert version_of(checkout) == "1.2.3"
    git(checkout, "commit", "--quiet", "--allow-empty", "-m", "Go on")
    assert re.fullmatch(rf"1\.2\.4\.dev1{NAMED}", version_of(checkout))
    git(checkout, "tag", "v2.0.0-rc.1")
    assert version_of(checkout) == "2.0.0rc1"
    (checkout / "README.md").write_text("changed")
    assert re.fullmatch(rf"2\.0\.0rc2\.dev0{NAMED}\.d\d+", version_of(checkout))


def test_the_program_prints_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["--version"]) == 0
    assert capsys.readouterr().out == f"scheduledjob {program_version()}\ntime zone data {ZONE_DATA}\n"


def test_the_image_has_the_version_and_the_name_in_the_chart() -> None:
    assert str(Version(build.version())) == build.version()
    chart = yaml.safe_load(build.CHART.read_text())
    assert chart["version"] == chart["appVersion"]
    assert build.default_image() == f"scheduledjob:{chart['appVersion']}"
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert 'SETUPTOOLS_SCM_PRETEND_VERSION="${VERSION}"' in dockerfile
    assert 'org.opencontainers.image.version="${VERSION}"' in dockerfile


def test_only_a_tagged_commit_is_published() -> None:
    assert tagged("1.2.3") == Version("1.2.3")
    assert tagged("2.0.0rc1") == Version("2.0.0rc1")
    for other in ("1.2.4.dev1+g0123456", "0.0.0", "1.2.3+d20261124"):
        with pytest.raises(ReleaseError, match=re.escape(f"this commit is {other}, which is not a release")):
            tagged(other)


def chart(folder: Path, version: str, app_version: str) -> Path:
    path = folder / "Chart.yaml"
    path.write_text(yaml.safe_dump({"version": version, "appVersion": app_version}))
    return path


def test_the_chart_must_have_the_version_of_the_tag(tmp_path: Path) -> None:
    check(Version("1.2.3"), chart(tmp_path, "1.2.3", "1.2.3"))
    check(Version("2.0.0rc1"), chart(tmp_path, "2.0.0-rc.1", "2.0.0-rc.1"))
    with pytest.raises(ReleaseError, match=r"appVersion 1\.2\.2, but the tag is v1\.2\.3: write 1\.2\.3"):
        check(Version("1.2.3"), chart(tmp_path, "1.2.3", "1.2.2"))
    with pytest.raises(ReleaseError, match=r"version 1\.2\.2, but the tag is v1\.2\.3: write 1\.2\.3"):
        check(Version("1.2.3"), chart(tmp_path, "1.2.2", "1.2.3"))
