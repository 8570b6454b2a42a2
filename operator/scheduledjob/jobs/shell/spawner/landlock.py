"""The system calls of Landlock, with which a process of Linux gives up rights for itself and its descendants.

The C library has no functions for them, so they are called by number, which is the same on every architecture. The
kernel reports what it supports as a number (the ABI). To ask for more is an error, so each right stands beside the ABI
that added it.

    1  reading, writing, making, removing, executing       Linux 5.13
    2  moving and linking between folders (before: denied) Linux 5.19
    3  truncating (before: not checked)                    Linux 6.2
    5  device ioctls                                       Linux 6.10
    6  signals and abstract sockets out of the domain      Linux 6.12
    7  records in the audit log, unless told otherwise     Linux 6.15
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHARACTER_DEVICE, _MAKE_BLOCK_DEVICE = 1 << 6, 1 << 11
_REFER, _TRUNCATE, _IOCTL_DEVICE = 1 << 13, 1 << 14, 1 << 15

READ = EXECUTE | READ_FILE | READ_DIR
ALL = (1 << 15) - 1 & ~(_MAKE_CHARACTER_DEVICE | _MAKE_BLOCK_DEVICE)
"""Every right except to make devices."""
_FOR_FILES = EXECUTE | WRITE_FILE | READ_FILE | _TRUNCATE | _IOCTL_DEVICE
"""Rights that apply to a file. The kernel refuses a rule that gives others for a file."""

SCOPES_SINCE = 6
_ABSTRACT_SOCKETS, _SIGNALS = 1 << 0, 1 << 1
QUIET_SINCE = 7
QUIET = 1 << 0
"""A flag of ``enter``: what is denied to this program itself is not recorded in the machine's audit log."""

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

# PyDLL keeps the interpreter's lock during a call: the calls are short, each job needs dozens, and to release the lock
# and get it back from the other threads costs more than the call.
_system = ctypes.PyDLL(None, use_errno=True)
_system.syscall.restype = ctypes.c_long
# A function of its own with declared types, because it is called most.
_add_rule = ctypes.PyDLL(None, use_errno=True).syscall
_add_rule.restype = ctypes.c_long
_add_rule.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)


def _call(number: int, *arguments: object) -> int:
    result: int = _system.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def abi() -> int:
    """Return what the kernel supports, as a number from 1. Raises ``OSError`` if it has no Landlock."""
    return _call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))


def no_new_privileges() -> None:
    """Deny this thread and what it starts the rights of set-user-id files, permanently."""
    if _system.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def handled(version: int) -> int:
    """Return the rights that a kernel of this ABI supports. Those that no rule gives are denied."""
    rights = (1 << 13) - 1
    for since, right in ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEVICE)):
        if version >= since:
            rights |= right
    return rights


def rule(version: int, rights: int, descriptor: int) -> bytes:
    """Return a rule that gives rights on an open file, or on an open folder and all below it. Raises ``OSError``."""
    rights &= handled(version)
    if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
        rights &= _FOR_FILES
    return struct.pack("=Qi", rights, descriptor)


class Rules:
    """A ruleset of the kernel: what a job may do with files. What no rule gives is denied."""

    def __init__(self, version: int, rules: Iterable[bytes], *, restrict_files: bool = True) -> None:
        """``rules`` were made by ``rule``, and their descriptors must still be open. Raises ``OSError``.

        Without ``restrict_files``, only signals and abstract sockets are restricted, if ``version`` can do that.
        """
        attributes = struct.pack("=Q", handled(version) if restrict_files else 0)
        if version >= SCOPES_SINCE:
            # The 0 between the two: no rights on TCP ports are handled.
            attributes += struct.pack("=QQ", 0, _ABSTRACT_SOCKETS | _SIGNALS)
        size = ctypes.c_size_t(len(attributes))
        self._ruleset = _call(_CREATE_RULESET, attributes, size, ctypes.c_uint32(0))
        for packed in rules:
            if _add_rule(_ADD_RULE, self._ruleset, _PATH_BENEATH, packed, 0) != 0:
                error = ctypes.get_errno()
                os.close(self._ruleset)
                raise OSError(error, os.strerror(error))

    def enter(self, *, flags: int = 0) -> None:
        """Apply the rules to this thread and what it starts, permanently. Call ``no_new_privileges`` first."""
        _call(_RESTRICT_SELF, ctypes.c_int(self._ruleset), ctypes.c_uint32(flags))

    def close(self) -> None:
        """Close the ruleset. Threads that have entered it stay bound by it."""
        os.close(self._ruleset)
