"""Landlock, the part of Linux by which a process gives up rights for itself and its descendants: its system calls.

The C library has no functions for it, so the calls are made by number; being newer than the split of the tables,
they have the same numbers on every machine that matters here. What the kernel knows is told by one number (the ABI),
and asking for more than it knows is an error, so each right stands beside the ABI that brought it.

    1  reading, writing, making, removing, executing       Linux 5.13
    2  moving and linking between folders (until then: never allowed)   5.19
    3  truncating (until then: not checked)                6.2
    5  device ioctls                                       6.10
    6  signals and abstract sockets out of the domain      6.12
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
"""Every right but those on devices."""
_FOR_FILES = EXECUTE | WRITE_FILE | READ_FILE | _TRUNCATE | _IOCTL_DEVICE
"""Rights that mean something for what is no folder; the kernel refuses rules that give others."""

SCOPES_SINCE = 6
_ABSTRACT_SOCKETS, _SIGNALS = 1 << 0, 1 << 1

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

# PyDLL keeps the interpreter's lock during a call: they are short, there are dozens of them for each job, and to give
# the lock up and get it back from the other threads costs more than the call.
_system = ctypes.PyDLL(None, use_errno=True)
_system.syscall.restype = ctypes.c_long
# By itself and with its types, because it is called most.
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
    """What the kernel can, as a number from 1. Raises ``OSError`` where it can nothing."""
    return _call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))


def no_new_privileges() -> None:
    """This thread and what it starts gain nothing by executing a set-user-id file. For good."""
    if _system.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def handled(version: int) -> int:
    """The rights that a kernel of this version knows, all of which are denied where no rule gives them."""
    rights = (1 << 13) - 1
    for since, right in ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEVICE)):
        if version >= since:
            rights |= right
    return rights


def rule(version: int, rights: int, descriptor: int) -> bytes:
    """What gives rights on an open file, or on an open folder and all below it. Raises ``OSError``."""
    rights &= handled(version)
    if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
        rights &= _FOR_FILES
    return struct.pack("=Qi", rights, descriptor)


class Rules:
    """What one job may do with files, as a ruleset of the kernel; everything that no rule gives is denied."""

    def __init__(self, version: int, rules: Iterable[bytes]) -> None:
        """With rules made by ``rule``, whose descriptors must be open still. Raises ``OSError``."""
        attributes = struct.pack("=Q", handled(version))
        if version >= SCOPES_SINCE:
            # Between the two: rights on TCP ports, none of which are handled.
            attributes += struct.pack("=QQ", 0, _ABSTRACT_SOCKETS | _SIGNALS)
        size = ctypes.c_size_t(len(attributes))
        self._ruleset = _call(_CREATE_RULESET, attributes, size, ctypes.c_uint32(0))
        for each in rules:
            if _add_rule(_ADD_RULE, self._ruleset, _PATH_BENEATH, each, 0) != 0:
                error = ctypes.get_errno()
                os.close(self._ruleset)
                raise OSError(error, os.strerror(error))

    def enter(self) -> None:
        """Hold this thread, and what it starts from now on, to the rules. For good; needs no new privileges first."""
        _call(_RESTRICT_SELF, ctypes.c_int(self._ruleset), ctypes.c_uint32(0))

    def close(self) -> None:
        """Forget the ruleset; who has entered it stays in it."""
        os.close(self._ruleset)
