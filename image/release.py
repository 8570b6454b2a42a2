"""`make release`: write what is published for a tag to dist/: packages, the chart, install.yaml and the image.

The git tag is the version. Only the chart repeats it, because GitOps tools read the chart's directory at a tag and must
get the image of that version. Therefore a tag that disagrees with its chart is refused before anything is built.
"""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

import yaml
from packaging.version import Version

from charts.install_yaml import install_yaml
from image.build import CHART, ROOT, ImageError, archive, build, default_image, run, version
from tests.cluster.harness.binaries import programs
from tests.support.processes import ServerUnavailableError

if TYPE_CHECKING:
    from pathlib import Path

DIST = ROOT / "dist"


class ReleaseError(Exception):
    """The release can't be made. The message says why and what to do."""


def tagged(found: str) -> Version:
    """Return the version of this commit. Raises ReleaseError if the commit has no tag."""
    parsed = Version(found)
    if parsed.is_devrelease or parsed.local is not None or parsed == Version("0.0.0"):
        raise ReleaseError(f"this commit is {found}, which is not a release: commit everything, then git tag v1.2.3")
    return parsed


def check(wanted: Version, chart: Path = CHART) -> None:
    """Raise ReleaseError if the chart has another version."""
    metadata: dict[str, str] = yaml.safe_load(chart.read_text())
    for field in ("version", "appVersion"):
        if Version(metadata[field]) != wanted:
            raise ReleaseError(
                f"{chart.parent.name}/{chart.name} has {field} {metadata[field]}, but the tag is v{wanted}: write "
                f"{wanted}, run `make install-yaml`, commit both, and tag that commit"
            )


def make(helm: Path) -> None:
    """Write dist/. Raises ReleaseError and ImageError."""
    text = install_yaml(helm)
    if text != (ROOT / "install.yaml").read_text(encoding="utf-8"):
        raise ReleaseError("install.yaml is out of date: run `make install-yaml`, commit it, and tag that commit")
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    run(sys.executable, "-m", "hatchling", "build", "--directory", str(DIST), folder=ROOT)
    run(str(helm), "package", str(CHART.parent), "--destination", str(DIST), folder=ROOT)
    (DIST / "install.yaml").write_text(text, encoding="utf-8")
    image = default_image()
    build(image)
    shutil.copy(archive(), DIST / f"{image.replace(':', '-image-')}.tar")


def main() -> int:
    try:
        found = tagged(version())
        check(found)
        make(programs(["helm"])["helm"])
    except (ReleaseError, ImageError, ServerUnavailableError) as error:
        print(error, file=sys.stderr)
        return 1
    print(
        "\n".join(f"{path.relative_to(ROOT)} ({path.stat().st_size / 1e6:.1f} MB)" for path in sorted(DIST.iterdir()))
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
