"""Watches the files below some paths, and reports when they have changed and settled.

It polls the modification time, size and inode of each file. That is cheap and works everywhere, including network disks
and the links that Kubernetes replaces for a ConfigMap. A change counts after two equal polls in a row, so that no file
is read while an editor or a checkout is still writing it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias

from scheduledjob.manifests.files import discover

if TYPE_CHECKING:
    from collections.abc import Sequence

POLL_INTERVAL = 0.5
"""Seconds between two polls."""

Signature: TypeAlias = dict[str, tuple[int, int, int] | None]


class FileWatcher:
    """Compares the files below some paths with those that were read last."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self._last: Signature | None = None
        self._read: Signature | None = None

    def begin(self) -> None:
        """Call this before the files are read for the first time."""
        self._last = self._read = self._signature()

    def poll(self) -> bool:
        """Return whether the files differ from what was read, and are the same as at the last poll."""
        now = self._signature()
        settled, self._last = now == self._last, now
        return settled and now != self._read

    def done(self) -> None:
        """Call this once the files have been read as they were at the last poll."""
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
