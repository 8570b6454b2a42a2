"""What a confined job runs in: a scratch folder, a thread that has given up what the job may not have, and its end.

Rights are given up by a thread for itself and for what it starts from then on. So each confined job is started by a
thread of its own, which first takes on the job's rules (no new privileges, Landlock, the filter of system calls): the
process inherits them from it, and no process needs to be forked that runs Python before the job's own program.

Where Landlock can hold signals back, the thread stays for as long as the job, because it can do what nobody else can:
a signal from it to "everybody" reaches the job's processes and nothing else, all of them at one instant, whatever
session, parent or environment they have given themselves and however quickly they fork. Without that, the process
table is what tells who belongs to a job, as for jobs that are not confined.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

from . import landlock
from .scratch import Scratches
from .seccomp import Filter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .scratch import Scratch

_DEVICES = (b"/dev/null", b"/dev/zero", b"/dev/full", b"/dev/random", b"/dev/urandom")
_LOOK_AGAIN = 10.0
"""Seconds after which the readable paths are looked up anew: files in /etc are replaced, not rewritten."""


class Sandboxes:
    """All cells of one helper."""

    def __init__(self, scratches: bytes, readable: Sequence[bytes], with_landlock: bool, replica: int) -> None:
        """See ``Confinement`` of the executor. Raises ``OSError``."""
        self.version = landlock.abi() if with_landlock else 0
        self.replica = replica
        self.scratches = Scratches(scratches)
        self.filter = Filter()
        self._rights = dict.fromkeys(readable, landlock.READ)
        self._rights.update(dict.fromkeys(_DEVICES, landlock.READ_FILE | landlock.WRITE_FILE))
        self._open: dict[bytes, int] = {}
        self._looked_at = -_LOOK_AGAIN
        self._common: list[bytes] = []
        """The rules of all jobs."""

    def make(self) -> Sandbox:
        """A cell for one job. Raises ``OSError``."""
        scratch = self.scratches.make()
        try:
            return Sandbox(self, scratch, self._rules_for(scratch) if self.version else None)
        except OSError:
            self.scratches.discard(scratch)
            raise

    def close(self) -> None:
        """Wait until every scratch is gone."""
        self.scratches.close()

    def _rules_for(self, scratch: Scratch) -> landlock.Rules:
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_AGAIN:
            self._looked_at = now
            for path in self._rights:
                self._look_up(path)
            self._common = [landlock.rule(self.version, self._rights[path], own) for path, own in self._open.items()]
        own = landlock.rule(self.version, landlock.ALL, scratch.descriptor)
        return landlock.Rules(self.version, [*self._common, own])

    def _look_up(self, path: bytes) -> None:
        """Open a path, if there is one; what has not changed stays open: ``/proc`` forgets files that nobody holds."""
        before = self._open.get(path)
        try:
            now = os.stat(path)
            if before is not None and os.path.samestat(os.fstat(before), now):
                return
            self._open[path] = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            self._open.pop(path, None)
        if before is not None:
            os.close(before)


class Sandbox:
    """What one job runs in."""

    def __init__(self, sandboxes: Sandboxes, scratch: Scratch, rules: landlock.Rules | None) -> None:
        self._sandboxes = sandboxes
        self._scratch = scratch
        self._rules = rules
        self._pid = 0
        self._error: BaseException | None = None
        self._has_thread = False
        """The thread stays, and can kill."""
        self._closing = False
        self._order = _thread.allocate_lock()
        self._done = _thread.allocate_lock()
        self._order.acquire()
        self._done.acquire()

    @property
    def home(self) -> bytes:
        """The path of its scratch."""
        return self._scratch.path

    def may_be_in(self, folder: bytes) -> bool:
        """Whether its job may start in a folder, given by its real path: not in another's scratch."""
        own = os.path.realpath(self.home)
        return os.path.commonpath((own, folder)) == own or not self._sandboxes.scratches.contains(folder)

    def start(self, spawn: Callable[[], int]) -> int:
        """Call ``spawn`` in the cell and return what it returns; what it raises is raised here.

        Raises ``OSError`` when the cell can't be locked, and then nothing is started.
        """
        try:
            _thread.start_new_thread(self._live, (spawn,))
        except RuntimeError as error:
            raise OSError(0, str(error)) from None
        self._done.acquire()
        if self._error is not None:
            raise self._error
        return self._pid

    def kill(self) -> bool:
        """Kill every process of the job at one instant; False: there is no way to, here."""
        if not self._has_thread:
            return False
        self._order.release()
        self._done.acquire()
        return self._has_thread

    def close(self) -> None:
        """Let go of everything, when nothing of the job is alive; the scratch is removed in a moment."""
        if self._has_thread:
            self._closing = True
            self._order.release()
        if self._rules is not None:
            self._rules.close()
            self._rules = None
        self._sandboxes.scratches.discard(self._scratch)

    # In the thread

    def _live(self, spawn: Callable[[], int]) -> None:
        try:
            self._lock()
            self._pid = spawn()
            self._has_thread = self._is_held_back()
        except BaseException as error:  # raised where it was called
            self._error = error
        stays = self._has_thread
        self._done.release()
        while stays:
            self._order.acquire()
            if self._closing:
                return
            self._kill_all()
            self._done.release()

    def _lock(self) -> None:
        landlock.no_new_privileges()
        if self._rules is not None:
            self._rules.enter()
            self._rules.close()
            self._rules = None
        self._sandboxes.filter.enter()

    def _is_held_back(self) -> bool:
        """Whether a signal from here can't reach the replica; asked before each signal to everybody."""
        if self._sandboxes.version < landlock.SCOPES_SINCE:
            return False
        try:
            os.kill(self._sandboxes.replica, 0)
        except PermissionError:
            return True
        except ProcessLookupError:
            # The replica is gone. The one who is always there is as good, if we could signal it otherwise.
            return self._has_thread
        return False

    def _kill_all(self) -> None:
        if self._is_held_back():
            with contextlib.suppress(OSError):
                os.kill(-1, signal.SIGKILL)
        else:
            self._has_thread = False
