"""Watching files: when those below some paths have changed, and have come to rest.

A look at every file's time, size and number costs little and works everywhere, on network disks and on the links that
Kubernetes swaps for a ConfigMap too. A change counts once two looks in a row agree, so that a file is not read while
an editor or a checkout is in the middle of writing it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias

from scheduledjob.manifests.files import discover

if TYPE_CHECKING:
    from collections.abc import Sequence

LOOK_EVERY = 0.5
"""Seconds between two looks."""

Signature: TypeAlias = dict[str, tuple[int, int, int] | None]


class Watcher:
    """What the files below some paths look like, and whether that has changed."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self._last: Signature | None = None
        self._read: Signature | None = None

    def begin(self) -> None:
        """The files are about to be read for the first time."""
        self._last = self._read = self._signature()

    def look(self) -> bool:
        """Whether the files have changed since they were read, and have not changed since the last look."""
        now = self._signature()
        at_rest, self._last = now == self._last, now
        return at_rest and now != self._read

    def done(self) -> None:
        """The files were read as they were at the last look."""
        self._read = self._last

    def _signature(self) -> Signature:
        signature: Signature = {}
        for path in self._paths:
            for found in discover(path):
                name = found if isinstance(found, str) else found.file
                signature[name] = _stamp(name)
        return signature


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino)
