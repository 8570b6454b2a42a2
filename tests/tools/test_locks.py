"""The lock files pin every package by hash, and name no index."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = sorted(ROOT.glob("requirements*.lock"))
_PINNED = re.compile(r"^([a-z0-9.-]+)==([^ ;\\]+)", re.MULTILINE)


def pinned(name: str) -> dict[str, str]:
    """Return the packages of a lock file and their versions."""
    return dict(_PINNED.findall((ROOT / name).read_text()))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_each_package_has_a_hash_and_no_index_is_named(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    assert "--index" not in text
    assert "--find-links" not in text
    for line in text.replace("\\\n", "").splitlines():
        assert not line[:1].isalnum() or "--hash=sha256:" in line, line


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_all_locks_have_the_versions_that_the_tests_run_with(lock: Path) -> None:
    tested = pinned("requirements-dev.lock")
    assert {name: version for name, version in pinned(lock.name).items() if tested.get(name, version) != version} == {}


def test_the_base_has_no_packages_for_the_cloud_or_a_cluster() -> None:
    base, everything = pinned("requirements.lock"), pinned("requirements-image.lock")
    extras = {"google-cloud-firestore", "grpcio", "cryptography", "kopf", "kubernetes", "prometheus-client"}
    assert not extras & base.keys()
    assert extras <= everything.keys()
    assert "croniter" not in everything
