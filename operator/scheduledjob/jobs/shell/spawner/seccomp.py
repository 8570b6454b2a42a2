"""The filter that denies a confined job the system calls that it does not need.

Landlock says which files and processes a job can reach by path and by signal. The filter closes the other ways, by
allowing only what ``syscalls`` lists. Some calls are allowed with some arguments only; the functions below say with
which.

A filter is a program for the kernel's classic packet filter: it loads words of the call (architecture, number,
arguments) and jumps. This one searches the number by halving, so each call takes about ten steps. There is one for each
of the two architectures that images are built for, and none for others. The calls of another architecture that the same
kernel runs, such as 32-bit x86, return EPERM; those of x32 have numbers that are not allowed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import threading
from itertools import pairwise

from . import syscalls

_LOAD, _JUMP, _JUMP_IF_EQUAL, _JUMP_IF_NOT_LESS, _JUMP_IF_ANY_BIT, _RETURN = 0x20, 0x05, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_LONGEST_JUMP = 255
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_COLUMN = {"x86_64": 0, "aarch64": 1}

Code = list[bytes]

_system = ctypes.PyDLL(None, use_errno=True)


def _instruction(operation: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", operation, yes, no, value)


def _answer(error: int) -> Code:
    return [_instruction(_RETURN, 0x00050000 | error)]


_ALLOW: Code = [_instruction(_RETURN, 0x7FFF0000)]
_DENY = _answer(errno.EPERM)
_UNKNOWN = _answer(errno.ENOSYS)


def _load(argument: int, offset: int = 0) -> bytes:
    """Load the lower half of an argument, or with offset 4 the upper half."""
    return _instruction(_LOAD, _ARGUMENTS + 8 * argument + offset)


def _if_equal(value: int, yes: Code, no: Code) -> Code:
    """Go on with ``yes`` if the loaded word is ``value``, otherwise with ``no``. Both return."""
    return [_instruction(_JUMP_IF_EQUAL, value, 0, len(yes)), *yes, *no]


def _if_one_of(argument: int, values: tuple[int, ...], yes: Code, no: Code) -> Code:
    for value in reversed(values):
        no = _if_equal(value, yes, no)
    return [_load(argument), *no]


def _if_zero(argument: int, yes: Code, no: Code) -> Code:
    """As above for a whole argument: a pointer may have a lower half of zero."""
    upper = [_load(argument, 4), *_if_equal(0, yes, no)]
    return [_load(argument), *_if_equal(0, upper, no)]


# ---- calls that are allowed with some arguments

_REFUSED_BY_CLONE = 0x7E020000 | 0x8000
"""``CLONE_NEW*`` except ``CLONE_NEWTIME``, which ``clone`` can't request; and ``CLONE_PARENT``, with which a process
becomes a sibling of its parent, outside the tree of the job."""
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK, _NETLINK_ROUTE = 1, 2, 10, 16, 0
_F_SETOWN, _F_SETSIG, _F_SETOWN_EX, _F_SETLEASE, _F_NOTIFY = 8, 10, 15, 1024, 1026
_TIOCSTI, _TIOCLINUX, _FIOSETOWN, _SIOCSPGRP = 0x5412, 0x541C, 0x8901, 0x8902
_PR_SET_MM, _PR_SCHED_CORE, _PR_SET_VMA, _PR_AFTER_LAST = 35, 62, 0x53564D41, 69
_PERSONALITIES = (0, 8, 0x20000, 0x20008, 0xFFFFFFFF)
_RLIMIT_RTTIME = 15
_THREAD, _PROCESS = 0x5EC0DE01, 0x5EC0DE02
"""Stand for the thread that starts a job and for its process, the helper. Landlock lets the job send signals to that
thread, because it is in the same sandbox, and a signal that ends or stops a thread does so to the whole process."""


def _clone() -> Code:
    return [_load(0), _instruction(_JUMP_IF_ANY_BIT, _REFUSED_BY_CLONE, 0, 1), *_DENY, *_ALLOW]


def _socket() -> Code:
    """Unix and IP sockets, and the netlink protocol that lists addresses and routes.

    Other netlink protocols list the paths of all Unix sockets, some of which are in scratch folders, and all processes.
    """
    routes = [_load(2), *_if_equal(_NETLINK_ROUTE, _ALLOW, _answer(errno.EPROTONOSUPPORT))]
    others = _if_equal(_AF_NETLINK, routes, _answer(errno.EAFNOSUPPORT))
    return _if_one_of(0, (_AF_UNIX, _AF_INET, _AF_INET6), _ALLOW, others)


def _fcntl() -> Code:
    """Everything except watching a folder, and having the kernel send signals because of a file."""
    return _if_one_of(1, (_F_NOTIFY, _F_SETLEASE, _F_SETOWN, _F_SETOWN_EX, _F_SETSIG), _DENY, _ALLOW)


def _ioctl() -> Code:
    """Everything except putting input into a terminal, and having the kernel send signals because of a file."""
    return _if_one_of(1, (_TIOCSTI, _TIOCLINUX, _FIOSETOWN, _SIOCSPGRP), _DENY, _ALLOW)


def _prctl() -> Code:
    """Options that a process sets for itself, up to those of Linux 6.12. ``PR_SCHED_CORE`` affects other processes."""
    invalid = _answer(errno.EINVAL)
    others = [_instruction(_JUMP_IF_NOT_LESS, _PR_AFTER_LAST, 0, 1), *invalid, *_ALLOW]
    return [_load(0), *_if_equal(_PR_SET_VMA, _ALLOW, _if_one_of(0, (_PR_SET_MM, _PR_SCHED_CORE), invalid, others))]


def _personality() -> Code:
    """The query, and the values that container runtimes allow."""
    return _if_one_of(0, _PERSONALITIES, _ALLOW, _DENY)


def _setrlimit() -> Code:
    """Every limit but the one that marks the job's processes (see ``sandbox``)."""
    return [_load(0), *_if_equal(_RLIMIT_RTTIME, _DENY, _ALLOW)]


def _prlimit() -> Code:
    """The caller's limits as in ``setrlimit``. A job may read those of others: then the third argument is 0."""
    mine = [_load(1), *_if_equal(_RLIMIT_RTTIME, _DENY, _ALLOW)]
    return _if_zero(2, _ALLOW, [_load(0), *_if_equal(0, mine, _DENY)])


def _of_itself() -> Code:
    """The first argument is a process; 0 is the caller."""
    return [_load(0), *_if_equal(0, _ALLOW, _DENY)]


def _not_to(argument: int, *processes: int) -> Code:
    """Every process and thread except these."""
    return _if_one_of(argument, processes, _DENY, _ALLOW)


def _priority(process: int) -> Code:
    """The first argument must say that the second one is a process, and that must be 0, the caller."""
    return [_load(0), *_if_equal(process, [_load(1), *_if_equal(0, _ALLOW, _DENY)], _DENY)]


_NO_ATTRIBUTES = _answer(errno.EOPNOTSUPP)
"""As on a file system without extended attributes, which every program can handle. Landlock does not check them, and
they include access lists: those of the folder of all scratch folders would apply to the next job's. The calls for open
files are allowed, because Landlock has checked what is open."""

_CHECKS: dict[str, Code] = {
    "clone": _clone(),
    "socket": _socket(),
    "fcntl": _fcntl(),
    "ioctl": _ioctl(),
    "prctl": _prctl(),
    "personality": _personality(),
    "setrlimit": _setrlimit(),
    "prlimit64": _prlimit(),
    "setpriority": _priority(0),
    "ioprio_set": _priority(1),
    "sched_setaffinity": _of_itself(),
    "sched_setattr": _of_itself(),
    "sched_setparam": _of_itself(),
    "sched_setscheduler": _of_itself(),
    "kill": _not_to(0, _THREAD),
    "tkill": _not_to(0, _THREAD),
    "rt_sigqueueinfo": _not_to(0, _THREAD),
    "pidfd_open": _not_to(0, _THREAD),
    "tgkill": _not_to(0, _PROCESS),
    "rt_tgsigqueueinfo": _not_to(0, _PROCESS),
    "setxattr": _NO_ATTRIBUTES,
    "lsetxattr": _NO_ATTRIBUTES,
    "removexattr": _NO_ATTRIBUTES,
    "lremovexattr": _NO_ATTRIBUTES,
}


# ---- the program


def program(machine: str) -> bytes | None:
    """Return the filter for a machine (its name as in ``uname -m``); None: there is none."""
    if machine not in _ARCHITECTURES:
        return None
    column = _COLUMN[machine]
    answers: dict[int, Code] = {}
    for groups, answer in ((syscalls.ALLOWED, _ALLOW), (syscalls.REFUSED, _DENY)):
        for group in groups:
            answers.update(dict.fromkeys(syscalls.numbers(group.calls, column).values(), answer))
    for name, number in syscalls.numbers(syscalls.CHECKED, column).items():
        answers[number] = _CHECKS[name]
    ranges: list[tuple[int, Code]] = [(0, _UNKNOWN)]
    """Ranges of numbers: the first number of each, and its answer. The last one has no end, so it includes x32."""
    for number, answer in sorted(answers.items()):
        ranges += [(number, answer), (number + 1, _UNKNOWN)]
    starts = dict(ranges)
    distinct = [next(iter(starts.items()))]
    distinct += [after for before, after in pairwise(starts.items()) if before[1] is not after[1]]
    code = [_instruction(_LOAD, _ARCHITECTURE), _instruction(_JUMP_IF_EQUAL, _ARCHITECTURES[machine], 1, 0), *_DENY]
    return b"".join([*code, _instruction(_LOAD, _NUMBER), *_search(distinct)])


def _search(ranges: list[tuple[int, Code]]) -> Code:
    """Return the code that finds the range in which the loaded number lies."""
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    start = ranges[middle][0]
    below, above = _search(ranges[:middle]), _search(ranges[middle:])
    if len(below) <= _LONGEST_JUMP:
        return [_instruction(_JUMP_IF_NOT_LESS, start, len(below), 0), *below, *above]
    return [_instruction(_JUMP_IF_NOT_LESS, start, 0, 1), _instruction(_JUMP, len(below)), *below, *above]


def for_thread(program: bytes, thread: int, process: int) -> bytes:
    """Return the filter for what this thread of this process starts."""
    for name, number in ((_THREAD, thread), (_PROCESS, process)):
        program = program.replace(struct.pack("=I", name), struct.pack("=I", number))
    return program


class Filter:
    """The filter for this machine, ready to be applied."""

    def __init__(self) -> None:
        self._program = program(platform.machine())

    def enter(self) -> None:
        """Apply the filter to this thread and what it starts, permanently. Needs ``no_new_privileges`` first."""
        if self._program is None:
            return
        own = for_thread(self._program, threading.get_native_id(), os.getpid())
        buffer = ctypes.create_string_buffer(own, len(own))
        description = struct.pack("@HP", len(own) // 8, ctypes.addressof(buffer))
        if _system.prctl(_PR_SET_SECCOMP, _MODE_FILTER, description, 0, 0) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
