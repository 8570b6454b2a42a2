"""What is in the image, and what is not."""

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


def test_the_image_is_small_and_holds_nothing_that_it_must_not() -> None:
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


def test_what_is_installed_in_it_is_locked_and_hashed() -> None:
    """All of it: pip refuses what has no hash, and never builds what nobody has seen."""
    text = (ROOT / "Dockerfile").read_text()
    installs = re.findall(r"pip .*?install (.*?)(?:;|$)", text.replace("\\\n", " "), re.MULTILINE)
    assert len(installs) == 3
    for each in installs:
        from_here = "--no-deps" in each and each.endswith("/wheel/*.whl")
        assert from_here or {"--require-hashes", "--only-binary"} <= set(each.split()), each
    for name in ("requirements-image.lock", "requirements-wheel.lock"):
        lines = (ROOT / name).read_text().replace("\\\n", "").splitlines()
        assert all("--hash=sha256:" in line for line in lines if line[:1].isalnum()), name
