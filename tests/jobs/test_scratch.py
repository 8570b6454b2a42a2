"""Scratch folders are removed although the loop lowers the limit of descriptors for a moment."""

from __future__ import annotations

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
