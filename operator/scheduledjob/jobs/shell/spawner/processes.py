"""What is alive, and whose it is: the questions that only ``/proc`` answers.

A process says whose it is in three ways, from cheap to dear: its session or process group is the job's first process,
or the environment it was executed with names the job's run. One that has left all three behind belongs to nobody
here; what follows from that is for the caller to decide.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

Mark = tuple[bytes, bytes]
"""Run id and version: the one start of one run that a process belongs to."""

RUN_ID, VERSION = b"SCHEDULEDJOB_RUN_ID", b"SCHEDULEDJOB_VERSION"


def children() -> set[int]:
    """The children of this process's first thread, which is the only one that reaps them.

    So nothing leaves the kernel's list while it is read, and it is exact. Orphans come to the first thread; what
    another thread has started is not among them until that thread ends.
    """
    own = os.getpid()
    try:
        with open(f"/proc/self/task/{own}/children", "rb") as listing:
            return set(map(int, listing.read().split()))
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        return {pid for pid in everybody() if (status := status_of(pid)) is not None and status[1] == own}


def everybody() -> list[int]:
    """All processes that can be seen."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def status_of(pid: int) -> tuple[str, int, int, int] | None:
    """State, parent, process group and session of a process, or None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            # The name stands in parentheses and may hold anything, parentheses too.
            fields = stat.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return fields[0].decode(), int(fields[1]), int(fields[2]), int(fields[3])


def mark_of(pid: int) -> Mark | None:
    """The mark in the environment that a process was executed with; None: gone, not ours to read, or none there."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as environ:
            variables = dict(item.partition(b"=")[::2] for item in environ.read().split(b"\0"))
    except OSError:
        return None
    if RUN_ID in variables and VERSION in variables:
        return variables[RUN_ID], variables[VERSION]
    return None


def exterminate(leaders: Collection[int], marks: Collection[Mark]) -> None:
    """Kill the sessions of these leaders, every process with one of these marks, and their descendants.

    For who is not their parent: the replica, when its helper has died. Returns when none is alive; what belongs to
    another user and so can't be killed is passed over. Blocks for milliseconds to however long the kernel takes.
    """
    passed_over: set[int] = set()
    # Twice, because a process in the middle of an exec has no environment for a moment.
    empty_looks = 0
    while empty_looks < 2:
        found = _belonging_to(leaders, marks) - passed_over
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            except PermissionError:
                passed_over.add(pid)
        empty_looks = 0 if found else empty_looks + 1
        time.sleep(0.005)


def _belonging_to(leaders: Collection[int], marks: Collection[Mark]) -> set[int]:
    own = os.getpid()
    found: set[int] = set()
    offspring: dict[int, list[int]] = {}
    for pid in everybody():
        status = status_of(pid)
        if status is None or pid == own:
            continue
        state, parent, group, session = status
        ours = pid in leaders or group in leaders or session in leaders
        if state in "ZX":
            # Orphans come to the process with the id 1, which a replica in a container is.
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
