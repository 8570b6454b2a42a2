"""`run --watch` updates the schedules when files change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from scheduledjob.cli.scheduledjob.file_watcher import FileWatcher
from tests.cli.support import Running, job, names

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def named(name: str) -> Callable[[dict[str, Any]], bool]:
    return lambda run: run["name"] == name


def prints(name: str, text: str) -> str:
    return job(name, what=f"custom: {{kind: print, params: {{text: {text}}}}}")


def test_documents_are_added_edited_rejected_and_removed(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(prints("stays", "as-it-was") + prints("goes", "soon"))
    with Running("run", "-f", tmp_path, "--watch") as running:
        running.wait_for_run(named("goes"))

        (tmp_path / "b.yaml").write_text(prints("added", "later"))
        running.wait_for_run(named("added"))

        file.write_text(prints("stays", "edited") + prints("goes", "soon"))
        running.wait_for_error("edited")

        file.write_text(prints("stays", "edited").replace("every: 1s", "every: 0s") + prints("goes", "soon"))
        said = running.wait_for_error("spec.triggers[0].every")
        assert said.startswith(f"{file}:7: ")
        running.wait_for_error("edited")  # its last valid version still runs
        running.wait_for_error("edited")

        # The removal is applied before the new jobs start.
        file.write_text(prints("stays", "again"))
        (tmp_path / "c.yaml").write_text(prints("sentinel", "on-guard"))
        first = running.wait_for_run(named("sentinel"))["slot"]
        for _ in range(3):
            running.wait_for_run(named("sentinel"))
        assert not [run for run in running.runs if run["name"] == "goes" and run["slot"] > first]
        assert [run for run in running.runs if run["name"] == "stays" and run["slot"] > first]

        (tmp_path / "b.yaml").unlink()
        (tmp_path / "c.yaml").write_text(prints("another", "on-guard"))
        first = running.wait_for_run(named("another"))["slot"]
        for _ in range(3):
            running.wait_for_run(named("another"))
        assert not [run for run in running.runs if run["name"] in {"added", "sentinel"} and run["slot"] > first]
        assert running.end() == 0


def test_an_unreadable_file_ends_no_schedule(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(prints("stays", "here"))
    with Running("run", "-f", tmp_path, "--watch") as running:
        running.wait_for_run(named("stays"))
        file.write_bytes(b"\xff\xfe not what it was")
        running.wait_for_error("UTF-16")
        (tmp_path / "b.yaml").write_text(prints("sentinel", "on-guard"))
        running.wait_for_run(named("sentinel"))
        running.wait_for_run(named("stays"))
        assert running.end() == 0


def test_it_waits_for_the_first_manifest(tmp_path: Path) -> None:
    with Running("run", "-f", tmp_path, "--watch") as running:
        (tmp_path / "a.yaml").write_text(prints("first", "one"))
        running.wait_for_run(named("first"))
        assert running.end() == 0
        assert names(running.runs) == {"first"}


def test_without_watch_changes_are_ignored(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(prints("first", "unchanged"))
    with Running("run", "-f", tmp_path) as running:
        running.wait_for_run(named("first"))
        file.write_text(prints("second", "changed"))
        for _ in range(3):
            running.wait_for_run(named("first"))
        assert running.end() == 0
        assert names(running.runs) == {"first"}


def test_a_changed_secret_applies_from_the_next_run(tmp_path: Path) -> None:
    secret = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {code: '%d'}\n"
    shell = """shell:
      command: exit $CODE
      env: [{name: CODE, valueFrom: {secretKeyRef: {name: s, key: code}}}]"""
    (tmp_path / "job.yaml").write_text(job("exits", what=shell, more="  retry: {maxRetries: 0}\n"))
    (tmp_path / "secret.yaml").write_text(secret % 5)
    with Running("run", "-f", tmp_path, "--watch") as running:
        running.wait_for_run(lambda run: run["reason"] == "exit code 5")
        (tmp_path / "secret.yaml").write_text(secret % 6)
        running.wait_for_run(lambda run: run["reason"] == "exit code 6")
        (tmp_path / "secret.yaml").write_text("---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: 7\n")
        running.wait_for_error("secret.yaml:5")
        running.wait_for_run(lambda run: run["reason"] == "exit code 6")
        assert running.end() == 0


@pytest.fixture
def watcher(tmp_path: Path) -> FileWatcher:
    (tmp_path / "a.yaml").write_text("a")
    watcher = FileWatcher([str(tmp_path)])
    watcher.begin()
    return watcher


def test_a_change_counts_when_the_file_has_settled(watcher: FileWatcher, tmp_path: Path) -> None:
    assert not watcher.poll()
    (tmp_path / "a.yaml").write_text("half")
    assert not watcher.poll()
    (tmp_path / "a.yaml").write_text("half and half")
    assert not watcher.poll()
    assert watcher.poll()
    assert watcher.poll(), "until it was read"
    watcher.done()
    assert not watcher.poll()


def test_added_and_removed_files_are_changes(watcher: FileWatcher, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").unlink()
    watcher.poll()
    assert watcher.poll()
    watcher.done()
    (tmp_path / "b.yaml").write_text("b")
    watcher.poll()
    assert watcher.poll()
