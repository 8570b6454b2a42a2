"""The contents of the image."""

from __future__ import annotations

import re

import pytest
from packaging.version import Version

from image.build import ROOT, archive, version
from image.scan import scan
from tests.e2e.conftest import AN_IMAGE
from tests.support.absent import do_without

pytestmark = pytest.mark.e2e

LARGEST = 200_000_000


def test_the_image_is_small_and_has_no_forbidden_files() -> None:
    if not archive().exists():
        do_without(AN_IMAGE, f"there is no {archive()}: make image")
    found = scan(archive())
    assert not any(found.faults.values()), found.faults
    assert found.size < LARGEST
    assert found.user == "65532:65532"
    assert Version(found.labels["org.opencontainers.image.version"]).release == Version(version()).release
    about = {name.rpartition(".")[2] for name, text in found.labels.items() if text}
    assert about >= {"title", "description", "licenses", "version", "revision"}
    assert found.environment["PYTHONDONTWRITEBYTECODE"] == "1"
    assert found.health_check is None, "Kubernetes has probes"


def test_installed_packages_are_locked_and_hashed() -> None:
    """pip refuses packages without a hash, and never builds one from source."""
    text = (ROOT / "Dockerfile").read_text()
    installs = re.findall(r"pip .*?install (.*?)(?:;|$)", text.replace("\\\n", " "), re.MULTILINE)
    assert len(installs) == 3
    for install in installs:
        from_here = "--no-deps" in install and install.endswith("/wheel/*.whl")
        assert from_here or {"--require-hashes", "--only-binary"} <= set(install.split()), install
    for name in ("requirements-image.lock", "requirements-wheel.lock"):
        lines = (ROOT / name).read_text().replace("\\\n", "").splitlines()
        assert all("--hash=sha256:" in line for line in lines if line[:1].isalnum()), name
