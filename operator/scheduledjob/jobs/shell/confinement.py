"""Shell jobs beside a process that holds secrets: what they are confined to, and whether this machine can do it.

Jobs run as the user of the process that starts them, and to the kernel that means that they may read its memory, its
environment and its files. Three things stand against it: this process is made unreadable
(``make_unreadable``), Landlock denies a job all files but those named here, and a filter denies it the system calls by
which processes reach each other; ``spawner`` holds jobs to the latter two. What all of it protects and what not is in
``docs/security-inline-shell.md``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import tempfile
from dataclasses import dataclass, field

from .spawner import landlock

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
"""Of /etc by name and not as a whole: an administrator may mount a Secret there."""
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
"""What programs ask about the machine; nothing in it is about a process."""

READABLE = (*_PROGRAMS, *(f"/etc/{name}" for name in _SETTINGS), *_KERNEL)
"""What every confined job may read and execute."""

_WHY = {
    errno.ENOSYS: "this kernel has none (it needs Linux 5.13; sandboxes such as gVisor lack it)",
    errno.EOPNOTSUPP: "it is switched off in this kernel (its command line must have landlock in lsm=)",
    errno.EPERM: "a seccomp profile denies its system calls (RuntimeDefault of current container runtimes allows them)",
}


@dataclass(frozen=True, slots=True)
class LandlockStatus:
    """Whether this kernel has Landlock for us."""

    abi: int
    """What it can, from 1; 0: there is no Landlock, or it is not for us."""
    reason: str = ""
    """Why there is none, for people; empty when there is."""

    @property
    def available(self) -> bool:
        """Whether there is any."""
        return self.abi > 0

    @property
    def holds_signals_back(self) -> bool:
        """Whether jobs can't send signals to this process or to each other (Linux 6.12)."""
        return self.abi >= landlock.SCOPES_SINCE


def landlock_status() -> LandlockStatus:
    """Ask the kernel."""
    if sys.platform != "linux":
        return LandlockStatus(0, f"Landlock is not available: it is a part of Linux, and this is {sys.platform}")
    try:
        return LandlockStatus(landlock.abi())
    except OSError as error:
        why = _WHY.get(error.errno or 0, error.strerror or str(error))
        return LandlockStatus(0, f"Landlock is not available: {why}")


def make_unreadable() -> None:
    """Keep other processes of the same user out of this one's memory, environment and open files. Raises ``OSError``.

    To be called before anything secret is read, for a process that starts confined jobs. It also keeps core dumps from
    being written. What is on the command line can still be read by everybody.
    """
    system = ctypes.CDLL(None, use_errno=True)
    if system.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """How jobs are confined."""

    scratches: str = field(default_factory=tempfile.gettempdir)
    """An absolute path of a folder in which each run gets an empty one of its own, its HOME, TMPDIR and working
    directory, removed after it. The folder itself should belong to another user, as an ``emptyDir`` does: what belongs
    to the jobs' own user, any of them may lock for all by changing its mode."""
    readable: tuple[str, ...] = ()
    """Absolute paths that jobs may read and execute besides ``READABLE``: folders with all below them, or files."""
    accept_unconfined: bool = False
    """Where there is no Landlock, run jobs without it: they can read every file that this process can."""

    def __post_init__(self) -> None:
        for path in (self.scratches, *self.readable):
            if not path.startswith("/") or "\0" in path:
                raise ValueError(f"{path!r} is not an absolute path; write it like /var/lib/jobs")
        for path in (*READABLE, *self.readable):
            if _is_in(self.scratches, path):
                raise ValueError(f"scratches: {self.scratches} lies in {path}, which every job may read; take another")

    def refusal(self) -> str:
        """Why no job can be run so on this machine; empty: they can."""
        status = landlock_status()
        if not status.available and not self.accept_unconfined:
            return f"inline shell is off: {status.reason}"
        if not os.path.isdir(self.scratches) or not os.access(self.scratches, os.R_OK | os.W_OK | os.X_OK):
            return f"inline shell is off: {self.scratches} is not a folder that this process may read and write"
        return ""

    def for_helper(self) -> tuple[bytes, tuple[bytes, ...], bool]:
        """The last three fields of the helper's ``Settings``."""
        readable = tuple(os.fsencode(path) for path in (*READABLE, *self.readable))
        return os.fsencode(self.scratches), readable, landlock_status().available


def _is_in(inner: str, outer: str) -> bool:
    inner, outer = os.path.realpath(inner), os.path.realpath(outer)
    return os.path.commonpath((inner, outer)) == outer
