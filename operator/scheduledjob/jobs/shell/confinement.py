"""Confines shell jobs beside a process that holds secrets: what they may read, and whether this machine can do it.

Jobs run as the user of the process that starts them, so the kernel would let them read its memory, its environment and
its files. Three measures prevent this: this process is made unreadable (``make_unreadable``), Landlock denies a job all
files but those listed here, and a filter denies it the system calls with which processes reach each other. ``spawner``
applies the latter two. ``docs/security-inline-shell.md`` says what is protected and what is not.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import sys
import tempfile
from dataclasses import dataclass, field

from .spawner import landlock, seccomp

_PR_SET_DUMPABLE = 4

_PROGRAMS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_SETTINGS = (
    "alternatives",
    "bash.bashrc",
    "ca-certificates",
    "ca-certificates.conf",
    "crypto-policies",
    "debian_version",
    "gai.conf",
    "group",
    "host.conf",
    "hostname",
    "hosts",
    "inputrc",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.conf",
    "localtime",
    "mime.types",
    "nsswitch.conf",
    "os-release",
    "passwd",
    "pki/ca-trust",
    "pki/tls/cert.pem",
    "pki/tls/certs",
    "pki/tls/openssl.cnf",
    "profile",
    "profile.d",
    "protocols",
    "resolv.conf",
    "services",
    "shells",
    "ssl/cert.pem",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
    "timezone",
)
"""Files of /etc. Not the whole folder, because an administrator may mount a Secret there."""
_KERNEL = (
    "/proc/cpuinfo",
    "/proc/filesystems",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys",
    "/proc/uptime",
    "/proc/version",
    "/sys/devices/system/cpu",
    "/sys/kernel/mm/transparent_hugepage",
)
"""What programs read about the machine; it says nothing about processes."""

READABLE = (*_PROGRAMS, *(f"/etc/{name}" for name in _SETTINGS), *_KERNEL)
"""Files and folders that every confined job may read and execute."""

_WHY = {
    errno.ENOSYS: "this kernel has none (it needs Linux 5.13; sandboxes such as gVisor lack it)",
    errno.EOPNOTSUPP: "it is switched off in this kernel (its command line must have landlock in lsm=)",
    errno.EPERM: "a seccomp profile denies its system calls (RuntimeDefault of current container runtimes allows them)",
}


@dataclass(frozen=True, slots=True)
class LandlockStatus:
    """Whether this process can use Landlock."""

    abi: int
    """The version of its interface, from 1; 0: Landlock is missing or not allowed."""
    reason: str = ""
    """Why Landlock can't be used, for people; empty if it can."""

    @property
    def available(self) -> bool:
        """Whether Landlock can be used."""
        return self.abi > 0

    @property
    def holds_signals_back(self) -> bool:
        """Whether jobs can't send signals to this process or to each other (Linux 6.12)."""
        return self.abi >= landlock.SCOPES_SINCE


def landlock_status() -> LandlockStatus:
    """Return what the kernel reports."""
    if sys.platform != "linux":
        return LandlockStatus(0, f"Landlock is not available: it is a part of Linux, and this is {sys.platform}")
    try:
        return LandlockStatus(landlock.abi())
    except OSError as error:
        why = _WHY.get(error.errno or 0, error.strerror or str(error))
        return LandlockStatus(0, f"Landlock is not available: {why}")


def make_unreadable() -> None:
    """Deny other processes of the same user this one's memory, environment and open files. Raises ``OSError``.

    A process that starts confined jobs calls this before it reads anything secret. It also prevents core dumps. The
    command line can still be read by everybody.
    """
    system = ctypes.CDLL(None, use_errno=True)
    if system.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """How jobs are confined."""

    scratches: str = field(default_factory=tempfile.gettempdir)
    """Absolute path of the folder in which each run gets an empty folder of its own: its HOME, TMPDIR and working
    directory, which is removed after the run. The folder itself should belong to another user, as an ``emptyDir`` does:
    any job could lock out all others by changing the mode of a folder that belongs to its user."""
    readable: tuple[str, ...] = ()
    """Absolute paths that jobs may read and execute besides ``READABLE``: files, or folders with all that is below."""
    accept_unconfined: bool = False
    """If Landlock can't be used, run jobs without it: they can read every file that this process can."""

    def __post_init__(self) -> None:
        for path in (self.scratches, *self.readable):
            if not path.startswith("/") or "\0" in path:
                raise ValueError(f"{path!r} is not an absolute path; write it like /var/lib/jobs")
        for path in (*READABLE, *self.readable):
            if _is_in(self.scratches, path):
                raise ValueError(f"scratches: {self.scratches} lies in {path}, which every job may read; take another")

    def refusal(self) -> str:
        """Return why this machine can't confine jobs like this; empty if it can."""
        status = landlock_status()
        if seccomp.program(platform.machine()) is None and not self.accept_unconfined:
            return f"inline shell is off: there is no filter of system calls for {platform.machine()}"
        if not status.available and not self.accept_unconfined:
            return f"inline shell is off: {status.reason}"
        if resource.getrlimit(resource.RLIMIT_RTTIME)[1] != resource.RLIM_INFINITY:
            return "inline shell is off: RLIMIT_RTTIME, which marks the processes of jobs, has a hard limit; remove it"
        if not os.path.isdir(self.scratches) or not os.access(self.scratches, os.R_OK | os.W_OK | os.X_OK):
            return f"inline shell is off: {self.scratches} is not a folder that this process may read and write"
        return ""

    def for_helper(self) -> tuple[bytes, tuple[bytes, ...], bool]:
        """Return the last three fields of the helper's ``Settings``."""
        readable = tuple(os.fsencode(path) for path in (*READABLE, *self.readable))
        return os.fsencode(self.scratches), readable, landlock_status().available


def _is_in(inner: str, outer: str) -> bool:
    inner, outer = os.path.realpath(inner), os.path.realpath(outer)
    return os.path.commonpath((inner, outer)) == outer
