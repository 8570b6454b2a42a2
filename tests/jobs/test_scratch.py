"""Scratch folders are removed although the loop lowers the limit of descriptors, and not while a job needs them."""

from __future__ import annotations

import fcntl
import os
import resource
import threading
from typing import TYPE_CHECKING

from scheduledjob.jobs.shell.spawner import scratch
from scheduledjob.jobs.shell.spawner.scratch import Scratches

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_a_scratch_folder_is_removed_when_descriptors_are_available_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emptied, refused = threading.Event(), threading.Event()
    really_empty = scratch.empty

    def empty(folder: int) -> None:
        try:
            really_empty(folder)
        except OSError:
            refused.set()
            raise
        emptied.set()

    monkeypatch.setattr(scratch, "empty", empty)
    scratches = Scratches(os.fsencode(tmp_path))
    first, second = scratches.make(), scratches.make()
    for made in (first, second):
        (tmp_path / made.name / "folder").mkdir()
        (tmp_path / made.name / "folder" / "file").touch()
    scratches.discard(first)
    assert emptied.wait(30)  # it has removed what others left behind, and waits
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, limits[1]))
    try:
        scratches.discard(second)
        assert refused.wait(30)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    scratches.close()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_helper_removed_before_it_was_locked_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A helper that starts takes a folder for left behind, until the folder is locked."""
    scratches = Scratches(os.fsencode(tmp_path))
    removed: list[str] = []
    lock = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        if not removed:
            (name,) = (entry.name for entry in tmp_path.iterdir())
            (tmp_path / name).rmdir()
            removed.append(name)
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    made = scratches.make()
    assert removed not in ([], [made.name])
    assert [entry.name for entry in tmp_path.iterdir()] == [made.name]
    scratches.discard(made)
    scratches.close()
