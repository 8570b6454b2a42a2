"""Without a server, its tests are skipped with a line that says how to get it, or fail with REQUIRE_ALL=1."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _run_firestore_tests_without_an_emulator(require_all: str) -> subprocess.CompletedProcess[str]:
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("FIRESTORE_", "PYTEST_"))}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "1", "tests/support/test_firestore.py"]
    return subprocess.run(
        command,
        cwd=ROOT,
        # No gcloud and no java on an empty PATH, and no Docker at that address.
        env={**bare, "PATH": "", "DOCKER_HOST": "unix:///nonexistent", "REQUIRE_ALL": require_all},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("unset", ["", "0"])
def test_tests_are_skipped_and_the_last_line_says_what_to_install(unset: str) -> None:
    ended = _run_firestore_tests_without_an_emulator(unset)
    assert ended.returncode == 0, ended.stdout
    last = ended.stdout.splitlines()[-1]
    assert last.startswith("3 TESTS WERE NOT RUN for want of a Firestore emulator: install the Google Cloud SDK")


def test_tests_fail_if_all_servers_are_required() -> None:
    ended = _run_firestore_tests_without_an_emulator("1")
    assert ended.returncode == 1, ended.stdout
    assert "REQUIRE_ALL=1, but no Firestore emulator found: install the Google Cloud SDK" in ended.stdout
    assert "skipped" not in ended.stdout
