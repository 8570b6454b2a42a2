"""Scratch folders: each confined job gets its own, and it is removed whatever the job has put into it.

The scratch folders are in one folder, under names that can't be guessed, and no job may list or watch that folder:
Landlock does not prevent a job from changing the mode of a folder whose path it knows. If the folder of all scratch
folders belongs to the same user, which it should not, a job can close it to all. The next job opens it again. A thread
removes them, because a job may leave a million files, and the helper's loop must not wait. A scratch folder is locked
while it is in use. So the next helper can tell what a killed helper has left behind from what another helper still
needs, and removes the former.

The removal follows no symbolic links and uses no paths: each step is a name in an open folder. A folder in a folder is
first moved up, so a tree of any depth takes two descriptors and no recursion. A mode that forbids access is changed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import queue
import re
import stat
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PREFIX = "sjob-"
_NAME = re.compile(re.escape(_PREFIX) + r"[0-9a-f]{32}\Z")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ATTEMPTS = 5
_WAIT = 0.001
_WAITS = 5000
"""How many waits of ``_WAIT`` seconds, while the loop starts jobs."""
T = TypeVar("T")


class Scratch(NamedTuple):
    """A scratch folder whose job may be alive."""

    name: str
    path: bytes
    descriptor: int
    """Holds the lock."""


class Scratches:
    """All scratch folders of a helper."""

    def __init__(self, root: bytes) -> None:
        """``root`` is the absolute path of a writable folder. Raises ``OSError``."""
        self._path = root
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._mode = stat.S_IMODE(os.fstat(self._root).st_mode)
        self._unwanted: queue.SimpleQueue[Scratch | None] = queue.SimpleQueue()
        self._remover = threading.Thread(target=self._remove_unwanted, daemon=True)
        self._remover.start()

    def make(self) -> Scratch:
        """Make an empty scratch folder. Raises ``OSError``."""
        for _ in range(_ATTEMPTS):
            self._open_again()
            name = _PREFIX + os.urandom(16).hex()
            os.mkdir(name, 0o700, dir_fd=self._root)
            # A helper that starts at this moment may take it for left behind.
            with contextlib.suppress(FileNotFoundError, BlockingIOError):
                return Scratch(name, os.path.join(self._path, name.encode()), self._lock(name))
        raise FileNotFoundError("other processes keep removing it")

    def discard(self, scratch: Scratch) -> None:
        """Have a scratch folder removed. Returns at once."""
        # Most jobs leave nothing in it, and then this is as quick as to queue it for the thread.
        self._open_again()
        try:
            os.rmdir(scratch.name, dir_fd=self._root)
        except OSError:
            self._unwanted.put(scratch)
        else:
            os.close(scratch.descriptor)

    def contains(self, folder: bytes) -> bool:
        """Whether a real path leads into the scratch folder of any job."""
        root = os.path.realpath(self._path)
        return os.path.commonpath((root, folder)) == root and os.path.relpath(folder, root).startswith(_PREFIX.encode())

    def close(self) -> None:
        """Wait until all discarded scratch folders are gone."""
        self._unwanted.put(None)
        self._remover.join()
        os.close(self._root)

    def _open_again(self) -> None:
        """Restore the mode of the folder of all scratch folders if a job has changed it."""
        found = os.fstat(self._root)
        if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) != self._mode:
            os.fchmod(self._root, self._mode)

    def _lock(self, name: str) -> int:
        descriptor = os.open(name, _FOLDER, dir_fd=self._root)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another helper may have locked, removed and released it since it was opened. A new name can't be guessed,
            # so nobody makes it again.
            os.stat(name, dir_fd=self._root, follow_symlinks=False)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    # ---- in the thread

    def _remove_unwanted(self) -> None:
        with contextlib.suppress(OSError):
            self._remove_left_behind()
        while (unwanted := self._unwanted.get()) is not None:
            self._remove(unwanted)

    def _remove_left_behind(self) -> None:
        for name in _patiently(lambda: [entry for entry, _ in _entries(self._root) if _NAME.match(entry)]):
            # It may be in use, gone, or of another user.
            with contextlib.suppress(OSError):
                if os.stat(name, dir_fd=self._root, follow_symlinks=False).st_uid == os.geteuid():
                    self._remove(Scratch(name, b"", _patiently(partial(self._lock, name))))

    def _remove(self, scratch: Scratch) -> None:
        # The next helper tries again to remove what can't be removed now.
        with contextlib.suppress(OSError):
            os.fchmod(scratch.descriptor, 0o700)
            _patiently(partial(empty, scratch.descriptor))
            os.rmdir(scratch.name, dir_fd=self._root)
        os.close(scratch.descriptor)


def _patiently(work: Callable[[], T]) -> T:
    """Repeat ``work`` while no descriptors are available, for some seconds at most. Raises what it raises.

    The loop lowers the limit of the whole process for the moment in which it starts a job with a low limit.
    """
    for _ in range(_WAITS):
        try:
            return work()
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
        time.sleep(_WAIT)
    return work()


def empty(folder: int) -> None:
    """Remove everything in an open folder, to which nothing else writes. Raises ``OSError``."""
    moved_up = os.urandom(8).hex()
    number = 0
    found = removed = True
    while found:
        if not removed:
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        found = removed = False
        for name, is_folder in _entries(folder):
            found = True
            if not is_folder:
                os.unlink(name, dir_fd=folder)
                removed = True
                continue
            inner = _open_for_removal(name, folder)
            try:
                for inner_name, inner_is_folder in _entries(inner):
                    if inner_is_folder:
                        # A folder that is moved must be writable.
                        os.close(_open_for_removal(inner_name, inner))
                        number += 1
                        os.rename(inner_name, f"{moved_up}-{number}", src_dir_fd=inner, dst_dir_fd=folder)
                    else:
                        os.unlink(inner_name, dir_fd=inner)
                    removed = True
            finally:
                os.close(inner)
            # A folder that changes while it is read may not list everything; then the next round does.
            with contextlib.suppress(OSError):
                os.rmdir(name, dir_fd=folder)
                removed = True


def _entries(folder: int) -> Iterator[tuple[str, bool]]:
    os.lseek(folder, 0, os.SEEK_SET)
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry.name, entry.is_dir(follow_symlinks=False)


def _open_for_removal(name: str, parent: int) -> int:
    """Open a folder, whatever its mode, and make it writable."""
    handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{handle}", 0o700)
    finally:
        os.close(handle)
    return os.open(name, _FOLDER, dir_fd=parent)
