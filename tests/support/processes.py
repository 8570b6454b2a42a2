"""Server processes of tests and benchmarks, which always end with the test run.

A test run can be killed at any moment, and its database servers must not keep running. So every server has its own
session (Ctrl-C at the terminal reaches the tests, not the server) and a guard: a shell that reads a pipe whose other
end only this process has. When this process ends for any reason, the pipe closes, and the guard ends the server and
removes its directory.

CI runs as root, but Postgres and PgBouncer refuse to. They then run as an unprivileged user, who owns their directory.
This module does not import pytest, because the benchmarks use it too.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

START_SECONDS = 60.0
STOP_SECONDS = 30.0
POLL_SECONDS = 0.02
NEUTRAL_LOCALE = {"LC_ALL": "C", "TZ": "UTC"}

# $1 process group, $2 directory. Processes suspended with SIGSTOP must continue before they can end.
_GUARD = """
read -r _
kill -s TERM -- "-$1"; kill -s CONT -- "-$1"
for _ in 1 2 3 4 5 6 7 8; do kill -0 -- "-$1" || break; sleep 1; done
kill -s KILL -- "-$1"
rm -rf -- "$2"
"""


class ServerUnavailableError(Exception):
    """A server that a test needs is not available on this machine. The message says how to get it."""


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def accepts_connections(port: int) -> bool:
    """Whether something on the loopback address listens on `port`."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass(frozen=True)
class Account:
    """The user that a server runs as, as arguments of `subprocess`; None is the user of this process."""

    user: int | None = None
    group: int | None = None
    groups: Sequence[int] | None = None


def unprivileged_account() -> Account:
    """Return the account for servers that refuse to run as root: another user if this process is root."""
    if os.geteuid() != 0:
        return Account()
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid, ())
    raise ServerUnavailableError("root cannot run a server that refuses root: add a user, `useradd --system postgres`")


def private_directory(prefix: str) -> Path:
    """A new directory that only the unprivileged account can read."""
    # Root's TMPDIR may lie below a directory that the unprivileged account cannot enter.
    directory = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp" if os.geteuid() == 0 else None))
    give(directory)
    return directory


def give(path: Path) -> None:
    """Give `path` and everything below it to the unprivileged account, if this process is root."""
    account = unprivileged_account()
    if account.user is not None and account.group is not None:
        for entry in (path, *path.rglob("*")):
            os.chown(entry, account.user, account.group, follow_symlinks=False)


class ServerProcess:
    """One server: its process, the processes below it, its log and its guard."""

    def __init__(self, command: Sequence[str | Path], account: Account, directory: Path) -> None:
        """Start `command` as `account` in `directory`, which also gets its log. The guard removes the directory."""
        self.log = directory / "server.log"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=directory,
                env={**os.environ, **NEUTRAL_LOCALE},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                user=account.user,
                group=account.group,
                extra_groups=account.groups,
            )
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "guard", str(self._process.pid), str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        pid: int = self._process.pid
        return pid

    def running(self) -> bool:
        return self._process.poll() is None

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait for `ready()`. Raises ServerUnavailableError with the end of the log if the server ends before that."""
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if not self.running():
                self.end()
                raise ServerUnavailableError(
                    f"the server ended while it started; its log ends with:\n{self.log_tail()}"
                )
            if time.monotonic() > deadline:
                self.kill()
                raise ServerUnavailableError(
                    f"the server was not ready within {START_SECONDS:g} s; its log ends with:\n{self.log_tail()}"
                )
            time.sleep(POLL_SECONDS)

    def log_tail(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def freeze(self) -> None:
        """Suspend the server and its child processes, and wait until all are suspended."""
        still = {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE}
        # A signal takes effect with a delay, and until then the server may start another process.
        while any(process.status() not in still for process in self._family()):
            self._signal(self._family(), signal.SIGSTOP)
            time.sleep(POLL_SECONDS)

    def thaw(self) -> None:
        """Resume the server and its child processes."""
        self._signal(self._family(), signal.SIGCONT)

    def kill(self) -> None:
        """Kill the server and its child processes with SIGKILL."""
        self.freeze()
        self._signal(self._family(), signal.SIGKILL)
        self.end(signal.SIGKILL)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send the signal `number` to the server, and wait until it and its child processes have ended.

        Processes that have not ended after STOP_SECONDS are killed.
        """
        family = self._family()
        if self.running():
            os.killpg(self.pid, number)
        _, stubborn = psutil.wait_procs(family, timeout=STOP_SECONDS)
        self._signal(stubborn, signal.SIGKILL)
        self._process.wait()
        self._guard.kill()
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self._guard.wait()

    def _family(self) -> list[psutil.Process]:
        if not self.running():
            return []
        server = psutil.Process(self.pid)
        return [server, *server.children(recursive=True)]

    @staticmethod
    def _signal(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
        for process in processes:
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue


def run_to_end(command: Sequence[str | Path], account: Account, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run `command` as `account` in `directory`, and return its result, whatever the exit code."""
    return subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, **NEUTRAL_LOCALE},
        capture_output=True,
        text=True,
        check=False,
        user=account.user,
        group=account.group,
        extra_groups=account.groups,
    )


def remove(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
