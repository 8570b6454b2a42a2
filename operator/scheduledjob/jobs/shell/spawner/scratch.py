"""The folder of its own that each confined job writes to, and how it goes away whatever the job has put into it.

Scratches lie side by side in one folder, under names that nobody can guess, and no job may list it: the one way to
another's scratch that Landlock leaves open is to change its mode by its path. A thread removes them, because a job may
leave a million files and the helper's loop may wait for none. Each is locked while it is in use, so what a helper
that was killed has left behind is told from what another one beside it still needs, and removed by the next.

Removing follows no symbolic link and holds no path: every step is a name in an open folder. A folder in a folder is
first moved up, so a tree of any depth takes no recursion and two descriptors; a mode that forbids us is changed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import queue
import re
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
"""Of ``_WAIT`` seconds each, for the loop to have started its jobs."""
T = TypeVar("T")


class Scratch(NamedTuple):
    """One, while its job may live."""

    name: str
    path: bytes
    descriptor: int
    """Holds the lock."""


class Scratches:
    """All scratches of one helper."""

    def __init__(self, root: bytes) -> None:
        """``root`` is an absolute path of a folder in which we may write. Raises ``OSError``."""
        self._path = root
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._unwanted: queue.SimpleQueue[Scratch | None] = queue.SimpleQueue()
        self._remover = threading.Thread(target=self._remove_unwanted, daemon=True)
        self._remover.start()

    def make(self) -> Scratch:
        """A new, empty one. Raises ``OSError``."""
        for _ in range(_ATTEMPTS):
            name = _PREFIX + os.urandom(16).hex()
            os.mkdir(name, 0o700, dir_fd=self._root)
            # A helper that starts just now may take it for left behind.
            with contextlib.suppress(FileNotFoundError, BlockingIOError):
                return Scratch(name, os.path.join(self._path, name.encode()), self._lock(name))
        raise FileNotFoundError("others keep removing it")

    def discard(self, scratch: Scratch) -> None:
        """Have it removed; returns at once."""
        # Most jobs leave nothing in it, and then it takes no longer than to tell the thread.
        try:
            os.rmdir(scratch.name, dir_fd=self._root)
        except OSError:
            self._unwanted.put(scratch)
        else:
            os.close(scratch.descriptor)

    def contains(self, folder: bytes) -> bool:
        """Whether a real path leads into any scratch of anybody's."""
        root = os.path.realpath(self._path)
        return os.path.commonpath((root, folder)) == root and os.path.relpath(folder, root).startswith(_PREFIX.encode())

    def close(self) -> None:
        """Wait until all that were discarded are gone."""
        self._unwanted.put(None)
        self._remover.join()
        os.close(self._root)

    def _lock(self, name: str) -> int:
        descriptor = os.open(name, _FOLDER, dir_fd=self._root)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    # In the thread

    def _remove_unwanted(self) -> None:
        with contextlib.suppress(OSError):
            self._remove_left_behind()
        while (unwanted := self._unwanted.get()) is not None:
            self._remove(unwanted)

    def _remove_left_behind(self) -> None:
        for name in _patiently(lambda: [entry for entry, _ in _entries(self._root) if _NAME.match(entry)]):
            # Another user's, in use, or gone.
            with contextlib.suppress(OSError):
                if os.stat(name, dir_fd=self._root, follow_symlinks=False).st_uid == os.geteuid():
                    self._remove(Scratch(name, b"", _patiently(partial(self._lock, name))))

    def _remove(self, scratch: Scratch) -> None:
        # What can't be removed stays for the next helper to try.
        with contextlib.suppress(OSError):
            os.fchmod(scratch.descriptor, 0o700)
            _patiently(partial(empty, scratch.descriptor))
            os.rmdir(scratch.name, dir_fd=self._root)
        os.close(scratch.descriptor)


def _patiently(work: Callable[[], T]) -> T:
    """Do it again while there are no descriptors to be had. Raises what it raises, of another cause or for too long.

    The loop lowers the limit of all of us for the instant in which it starts a job that is to have a low one.
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
    """Remove everything in an open folder that nobody else writes to. Raises ``OSError``."""
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
                        # To move a folder one must be allowed to write to it.
                        os.close(_open_for_removal(inner_name, inner))
                        number += 1
                        os.rename(inner_name, f"{moved_up}-{number}", src_dir_fd=inner, dst_dir_fd=folder)
                    else:
                        os.unlink(inner_name, dir_fd=inner)
                    removed = True
            finally:
                os.close(inner)
            # Reading a folder that changes may have passed over something: then the next round has it.
            with contextlib.suppress(OSError):
                os.rmdir(name, dir_fd=folder)
                removed = True


def _entries(folder: int) -> Iterator[tuple[str, bool]]:
    os.lseek(folder, 0, os.SEEK_SET)
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry.name, entry.is_dir(follow_symlinks=False)


def _open_for_removal(name: str, parent: int) -> int:
    """Open a folder, whatever its mode, and let us do with it what we want."""
    handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{handle}", 0o700)
    finally:
        os.close(handle)
    return os.open(name, _FOLDER, dir_fd=parent)
