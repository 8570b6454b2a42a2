"""Which processes are alive, and to which job they belong, from ``/proc``.

A process belongs to a job if its session or its process group is that of the job's first process, or if the environment
that it was executed with names the job's run. The environment is the most expensive to read. A process to which none of
the three applies belongs to no job here; the caller decides what follows from that.

A confined job can change all three, so its processes bear another mark: their soft limit ``RLIMIT_RTTIME``, which every
process inherits, which anybody may read, and which the filter of system calls does not let a job set. It limits only
processes with a real-time priority, which jobs can't have.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

Mark = tuple[bytes, bytes]
"""Run id and version: the attempt that a process belongs to."""

RUN_ID, VERSION = b"SCHEDULEDJOB_RUN_ID", b"SCHEDULEDJOB_VERSION"


CELLS = 1 << 32
"""How many marks each helper has."""


def new_cells() -> int:
    """Return the first mark of a helper, different from that of others. As a limit, it is more than 30,000 years."""
    return (1 << 28 | int.from_bytes(os.urandom(4), "big") >> 4) * CELLS


def children(threads: Iterable[int] = ()) -> set[int]:
    """Return the children of this process's first thread, which is the only one that reaps, and of these threads.

    As nobody else reaps, nothing leaves the kernel's list while it is read, and the list is exact. Orphans become
    children of the first thread; the children of another thread do when that thread ends. So the first thread is last.
    """
    own = os.getpid()
    found: set[int] = set()
    for thread in (*threads, own):
        try:
            with open(f"/proc/self/task/{thread}/children", "rb") as listing:
                found.update(map(int, listing.read().split()))
        except FileNotFoundError:
            if thread == own:  # a kernel without CONFIG_PROC_CHILDREN
                return {pid for pid in all_pids() if (status := status_of(pid)) is not None and status[1] == own}
    return found


def cell_of(pid: int) -> int:
    """Return the mark of a process of a confined job; -1: it has none, or the process is gone or of another user."""
    try:
        return resource.prlimit(pid, resource.RLIMIT_RTTIME)[0]
    except OSError:
        return -1


def all_pids() -> list[int]:
    """Return the ids of all visible processes."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def status_of(pid: int) -> tuple[str, int, int, int] | None:
    """Return state, parent, process group and session of a process; None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            # The name is in parentheses and may contain anything, even parentheses.
            fields = stat.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return fields[0].decode(), int(fields[1]), int(fields[2]), int(fields[3])


def mark_of(pid: int) -> Mark | None:
    """Return the mark of a process's environment; None: it has none, can't be read, or the process is gone."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as environ:
            variables = dict(item.partition(b"=")[::2] for item in environ.read().split(b"\0"))
    except OSError:
        return None
    if RUN_ID in variables and VERSION in variables:
        return variables[RUN_ID], variables[VERSION]
    return None


def kill_orphans(leaders: Collection[int], marks: Collection[Mark], cells: range = range(0)) -> None:
    """Kill the sessions of these leaders, every process with one of these marks, and their descendants.

    ``cells`` are the marks of confined jobs.

    The replica, which is not their parent, calls this when its helper has died. Returns when none is alive, except for
    processes of another user, which can't be killed. Blocks for as long as the kernel takes, at least milliseconds.
    """
    beyond_us: set[int] = set()
    # Two polls must find nothing, because a process in the middle of an exec has no environment for a moment.
    empty_polls = 0
    while empty_polls < 2:
        if _kill_cells(cells):
            continue
        found = _belonging_to(leaders, marks, cells) - beyond_us
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            except PermissionError:
                beyond_us.add(pid)
        empty_polls = 0 if found else empty_polls + 1
        time.sleep(0.005)


def _kill_cells(cells: range) -> bool:
    """Kill the processes of confined jobs. Returns whether some may be left.

    One that forks and exits without pause is a different process each time. So the newest come first, and a process
    that is gone before its mark is read may have been one of them.
    """
    killed = gone = False
    if cells:
        for name in reversed(os.listdir("/proc")):
            if not name.isdigit():
                continue
            try:
                if resource.prlimit(int(name), resource.RLIMIT_RTTIME)[0] not in cells:
                    continue
                os.kill(int(name), signal.SIGKILL)
            except ProcessLookupError:
                gone = True
            except PermissionError:
                continue
            else:
                killed = killed or _is_alive(int(name))
    return killed or gone


def _is_alive(pid: int) -> bool:
    status = status_of(pid)
    return status is not None and (status[0] not in "ZX" or _has_threads(pid))


def _belonging_to(leaders: Collection[int], marks: Collection[Mark], cells: range) -> set[int]:
    own = os.getpid()
    found: set[int] = set()
    offspring: dict[int, list[int]] = {}
    for pid in all_pids():
        status = status_of(pid)
        if status is None or pid == own:
            continue
        state, parent, group, session = status
        ours = pid in leaders or group in leaders or session in leaders or (bool(cells) and cell_of(pid) in cells)
        if state in "ZX" and not _has_threads(pid):
            # Orphans become children of the process with the id 1, which may be this replica in a container.
            if ours and parent == own:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            continue
        offspring.setdefault(parent, []).append(pid)
        if ours or mark_of(pid) in marks:
            found.add(pid)
    unvisited = list(found)
    while unvisited:
        for pid in offspring.get(unvisited.pop(), ()):
            if pid not in found:
                found.add(pid)
                unvisited.append(pid)
    return found


def _has_threads(pid: int) -> bool:
    """Whether other threads of a process are alive. Without its first thread, such a process looks like a zombie."""
    try:
        return len(os.listdir(f"/proc/{pid}/task")) > 1
    except OSError:
        return False
