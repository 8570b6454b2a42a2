"""The lock files install what pyproject.toml names, from whatever index the machine has, and only by hash."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = sorted(ROOT.glob("requirements*.lock"))
_PINNED = re.compile(r"^([a-z0-9.-]+)==([^ ;\\]+)", re.MULTILINE)


def pinned(name: str) -> dict[str, str]:
    """The packages of a lock file and their versions."""
    return dict(_PINNED.findall((ROOT / name).read_text()))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_has_a_hash_for_each_package_and_names_no_index(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    assert "--index" not in text
    assert "--find-links" not in text
    for line in text.replace("\\\n", "").splitlines():
        assert not line[:1].isalnum() or "--hash=sha256:" in line, line


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_no_lock_has_another_version_than_the_one_that_the_tests_run_with(lock: Path) -> None:
    tested = pinned("requirements-dev.lock")
    assert {name: version for name, version in pinned(lock.name).items() if tested.get(name, version) != version} == {}


def test_the_base_has_no_cloud_and_no_cluster() -> None:
    base, everything = pinned("requirements.lock"), pinned("requirements-image.lock")
    extras = {"google-cloud-firestore", "grpcio", "cryptography", "kopf", "kubernetes", "prometheus-client"}
    assert not extras & base.keys()
    assert extras <= everything.keys()
    assert "croniter" not in everything
