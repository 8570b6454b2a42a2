"""The filter that denies a confined job system calls that Landlock does not restrict.

They are the calls with which a process reaches others of its user without a file or a signal: to read their memory, to
starve them (``prlimit`` could limit the operator to one second of processor time, which would kill it), to leave
something behind that belongs to no process (System V memory, keys), or to watch folders that it may not read. Each
returns EPERM. ``clone3``, whose arguments a filter can't read, returns ENOSYS, so that the C library uses ``clone``.

A filter is a program for the kernel's classic packet filter: it loads words of the call (architecture, number,
arguments) and jumps. There is one for each of the two architectures that images are built for, and none for others.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_NOT_LESS, _JUMP_IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000
_X32 = 0x40000000
_REFUSED_BY_CLONE = 0x7E020000 | 0x8000
"""``CLONE_NEW*`` except ``CLONE_NEWTIME``, which ``clone`` can't request; and ``CLONE_PARENT``, with which a process
becomes a sibling of its parent, outside the tree of the job."""
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_COLUMN = {"x86_64": 0, "aarch64": 1}

_DENIED: dict[str, tuple[int, int]] = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "perf_event_open": (298, 241),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "shmget": (29, 194),
    "shmctl": (31, 195),
    "shmat": (30, 196),
    "semget": (64, 190),
    "semctl": (66, 191),
    "semtimedop": (220, 192),
    "semop": (65, 193),
    "msgget": (68, 186),
    "msgctl": (71, 187),
    "msgrcv": (70, 188),
    "msgsnd": (69, 189),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "inotify_init": (253, 26),
    "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
    "unshare": (272, 97),
    "setns": (308, 268),
}
_OF_ITSELF_ONLY: dict[str, tuple[int, int]] = {
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
}
"""Calls whose first argument is a process, and that are allowed for 0, the caller itself."""
_SETPRIORITY, _IOPRIO_SET, _PRLIMIT, _CLONE, _CLONE3 = (141, 140), (251, 30), (302, 261), (56, 220), (435, 435)

_system = ctypes.PyDLL(None, use_errno=True)


def program(machine: str) -> bytes | None:
    """Return the filter for a machine (its name as in ``uname -m``); None: there is none."""
    if machine not in _ARCHITECTURES:
        return None
    own = _COLUMN[machine]
    allow, deny = (_instruction(_RETURN, value) for value in (_ALLOW, _ERROR | errno.EPERM))
    code = [_instruction(_LOAD, _ARCHITECTURE), _instruction(_JUMP_IF_EQUAL, _ARCHITECTURES[machine], 1, 0), deny]
    code += [_instruction(_LOAD, _NUMBER), _instruction(_JUMP_IF_NOT_LESS, _X32, 0, 1), deny]
    for numbers in _DENIED.values():
        code += [_instruction(_JUMP_IF_EQUAL, numbers[own], 0, 1), deny]
    blocks = [(numbers, [*_zero(0, 0, 1), allow, deny]) for numbers in _OF_ITSELF_ONLY.values()]
    blocks += [
        # which, who: a process (0, but 1 for the second call), the caller.
        (_SETPRIORITY, [*_zero(0, 0, 3), *_zero(1, 0, 1), allow, deny]),
        (_IOPRIO_SET, [_load(0), _instruction(_JUMP_IF_EQUAL, 1, 0, 3), *_zero(1, 0, 1), allow, deny]),
        # Reading the limits of another process is allowed: then the third argument is 0.
        (_PRLIMIT, [*_zero(0, 4, 0), *_zero(2, 0, 3), _load(2, 4), _instruction(_JUMP_IF_EQUAL, 0, 0, 1), allow, deny]),
        (_CLONE, [_load(0), _instruction(_JUMP_IF_ANY_BIT, _REFUSED_BY_CLONE, 1, 0), allow, deny]),
        (_CLONE3, [_instruction(_RETURN, _ERROR | errno.ENOSYS)]),
    ]
    for numbers, block in blocks:
        code += [_instruction(_JUMP_IF_EQUAL, numbers[own], 0, len(block)), *block]
    return b"".join([*code, allow])


def _load(argument: int, offset: int = 0) -> bytes:
    """Load the lower half of an argument, or with offset 4 the upper half."""
    return _instruction(_LOAD, _ARGUMENTS + 8 * argument + offset)


def _zero(argument: int, yes: int, no: int) -> list[bytes]:
    """Skip ``yes`` instructions if the lower half of an argument is zero, otherwise ``no``."""
    return [_load(argument), _instruction(_JUMP_IF_EQUAL, 0, yes, no)]


def _instruction(operation: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", operation, yes, no, value)


class Filter:
    """The filter for this machine, ready to be applied."""

    def __init__(self) -> None:
        self._program = program(platform.machine())
        if self._program is not None:
            self._buffer = ctypes.create_string_buffer(self._program, len(self._program))
            length = len(self._program) // 8
            self._description = struct.pack("@HP", length, ctypes.addressof(self._buffer))

    def enter(self) -> None:
        """Apply the filter to this thread and what it starts, permanently. Needs ``no_new_privileges`` first."""
        if self._program is None:
            return
        if _system.prctl(_PR_SET_SECCOMP, _MODE_FILTER, self._description, 0, 0) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
