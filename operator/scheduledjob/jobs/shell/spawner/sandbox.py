"""The sandbox of a confined job: a scratch folder, and a thread that has given up the rights that the job may not have.

A thread gives up rights for itself and for what it starts afterwards. So each confined job has a thread, which first
applies the job's rules to itself (no new privileges, Landlock, the filter of system calls) and then starts the job. The
process inherits the rules, and no fork has to run Python before the job's own program. Then the thread ends: the job
could send signals to it, as both are in the same sandbox. While it lives, the filter prevents that.

If Landlock can restrict signals, a second thread lives as long as the job. It starts the first one in a sandbox around
the job's, so the job can't reach it, but a signal that it sends to all processes (``kill(-1)``) reaches the job's, only
those, and all of them at once, whatever session, parent or environment they have given themselves and however quickly
they fork. This is done at the end of every job. Otherwise, the loop kills the
processes one by one. In both cases, a mark that a job can't remove shows which processes belong to it (see
``processes``), and the job has ended when none has its mark. A namespace or a control group for each job would need
privileges that the operator does not have.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import resource
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
_REOPEN_INTERVAL = 10.0
"""Seconds after which the readable paths are opened again: files in /etc are replaced, not rewritten."""


class Sandboxes:
    """All sandboxes of a helper."""

    def __init__(
        self, scratches: bytes, readable: Sequence[bytes], with_landlock: bool, replica: int, cells: int = 0
    ) -> None:
        """See ``Confinement`` and ``Settings`` for the arguments. Raises ``OSError``."""
        self.cells = cells
        self.version = landlock.abi() if with_landlock else 0
        self.replica = replica
        self.scratches = Scratches(scratches)
        self.around_jobs = landlock.Rules(self.version, (), restrict_files=False) if self.can_kill_at_once else None
        """Each thread that enters it gets a sandbox of its own."""
        self.filter = Filter()
        self._rights = dict.fromkeys(readable, landlock.READ)
        self._rights.update(dict.fromkeys(_DEVICES, landlock.READ_FILE | landlock.WRITE_FILE))
        self._open: dict[bytes, int] = {}
        self._opened_at = -_REOPEN_INTERVAL
        self._common: list[bytes] = []
        """The rules of all jobs."""

    @property
    def can_kill_at_once(self) -> bool:
        """Whether the kernel lets a sandbox kill all of its processes and no others."""
        return self.version >= landlock.SCOPES_SINCE

    def make(self, number: int) -> Sandbox:
        """Return a sandbox for the job with this number. Raises ``OSError``."""
        scratch = self.scratches.make()
        try:
            return Sandbox(self, self.cells + number, scratch, self._rules_for(scratch) if self.version else None)
        except OSError:
            self.scratches.discard(scratch)
            raise

    def close(self) -> None:
        """Wait until every scratch folder is gone."""
        self.scratches.close()

    def _rules_for(self, scratch: Scratch) -> landlock.Rules:
        now = time.monotonic()
        if now - self._opened_at >= _REOPEN_INTERVAL:
            self._opened_at = now
            for path in self._rights:
                self._reopen(path)
            self._common = [landlock.rule(self.version, self._rights[path], own) for path, own in self._open.items()]
        own = landlock.rule(self.version, landlock.ALL, scratch.descriptor)
        return landlock.Rules(self.version, [*self._common, own])

    def _reopen(self, path: bytes) -> None:
        """Open a path if it exists. If it has not changed it stays open: ``/proc`` forgets files that are not open."""
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
    """The sandbox of a job."""

    def __init__(self, sandboxes: Sandboxes, cell: int, scratch: Scratch, rules: landlock.Rules | None) -> None:
        self.thread = 0
        """The id of the thread that starts the job, which is the parent of the job's first process while it lives."""
        self._sandboxes = sandboxes
        self._cell = cell
        self._scratch = scratch
        self._rules = rules
        self._pid = 0
        self._error: BaseException | None = None
        self._has_thread = False
        """Whether the second thread lives, and can kill the job."""
        self._closing = False
        self._order = _thread.allocate_lock()
        self._done = _thread.allocate_lock()
        self._order.acquire()
        self._done.acquire()

    @property
    def home(self) -> bytes:
        """The path of its scratch folder."""
        return self._scratch.path

    def may_be_in(self, folder: bytes) -> bool:
        """Whether the job may start in a folder (its real path). It may not in the scratch folder of another job."""
        own = os.path.realpath(self.home)
        return os.path.commonpath((own, folder)) == own or not self._sandboxes.scratches.contains(folder)

    def start(self, spawn: Callable[[], int]) -> int:
        """Call ``spawn`` in the sandbox, and return or raise what it does.

        Raises ``OSError`` if the rules can't be applied; then nothing is started.
        """
        # What is started inherits the mark. This process has no real-time priority, so the limit does not apply to it.
        unmarked = resource.getrlimit(resource.RLIMIT_RTTIME)
        resource.setrlimit(resource.RLIMIT_RTTIME, (self._cell, unmarked[1]))
        try:
            first = self._keep if self._sandboxes.can_kill_at_once else self._start
            _thread.start_new_thread(first, (spawn,))
            self._done.acquire()
        except RuntimeError as error:
            raise OSError(0, str(error)) from None
        finally:
            resource.setrlimit(resource.RLIMIT_RTTIME, unmarked)
        if self._error is not None:
            raise self._error
        return self._pid

    def kill(self) -> bool:
        """Kill all processes of the job at once. Returns False if this kernel can't do that."""
        if not self._has_thread:
            return False
        self._order.release()
        self._done.acquire()
        return self._has_thread

    def close(self) -> None:
        """Release everything, when no process of the job is alive. The scratch folder is removed in the background."""
        if self._has_thread:
            self._closing = True
            self._order.release()
        if self._rules is not None:
            self._rules.close()
            self._rules = None
        self._sandboxes.scratches.discard(self._scratch)

    # ---- in the thread that starts the job

    def _start(self, spawn: Callable[[], int]) -> None:
        self.thread = _thread.get_native_id()
        try:
            self._lock()
            self._pid = spawn()
        except BaseException as error:  # ``start`` raises it
            self._error = error
        self._done.release()

    def _lock(self) -> None:
        landlock.no_new_privileges()
        if self._rules is not None:
            self._rules.enter()
            self._rules.close()
            self._rules = None
        self._sandboxes.filter.enter()

    # ---- in the thread that lives as long as the job

    def _keep(self, spawn: Callable[[], int]) -> None:
        try:
            landlock.no_new_privileges()
            assert self._sandboxes.around_jobs is not None
            # Its signal to all processes is denied for each one outside; that is not an attack.
            quiet = landlock.QUIET if self._sandboxes.version >= landlock.QUIET_SINCE else 0
            self._sandboxes.around_jobs.enter(flags=quiet)
            self._has_thread = self._is_held_back()
            _thread.start_new_thread(self._start, (spawn,))
        except BaseException as error:  # ``start`` raises it
            self._error = error
            self._has_thread = False
            self._done.release()
        while self._has_thread:
            self._order.acquire()
            if self._closing:
                return
            self._kill_all()
            self._done.release()

    def _is_held_back(self) -> bool:
        """Whether a signal of this thread can't reach the replica; checked before each signal to all processes."""
        try:
            os.kill(self._sandboxes.replica, 0)
        except PermissionError:
            return True
        except ProcessLookupError:
            # The replica is gone, so only the earlier answer is left.
            return self._has_thread
        return False

    def _kill_all(self) -> None:
        if self._is_held_back():
            with contextlib.suppress(OSError):
                os.kill(-1, signal.SIGKILL)
        else:
            self._has_thread = False
