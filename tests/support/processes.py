"""Server processes that the tests and benchmarks start, and how each is made sure to end.

A test run can be killed at any moment, and a database server that outlives it eats the machine. So every server
starts in a session of its own (Ctrl-C at the terminal reaches the tests, not the server) with a guard beside it: a
shell that reads a pipe whose other end only this process holds. When this process goes, however it goes, the pipe
closes and the guard ends the server and removes its directory.

Postgres and PgBouncer refuse to run as root, as which CI runs: then they run as an unprivileged user, to whom their
directory is given. Nothing here imports pytest: the benchmarks use it too.
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

# $1 process group, $2 directory. Stopped processes (SIGSTOP) must go on before they can end.
_GUARD = """
read -r _
kill -s TERM -- "-$1"; kill -s CONT -- "-$1"
for _ in 1 2 3 4 5 6 7 8; do kill -0 -- "-$1" || break; sleep 1; done
kill -s KILL -- "-$1"
rm -rf -- "$2"
"""


class ServerUnavailableError(Exception):
    """A real server that a test needs cannot be had on this machine; the message says how to get it."""


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
    """Whom a server runs as, in the words of `subprocess`: None is whoever runs this process."""

    user: int | None = None
    group: int | None = None
    groups: Sequence[int] | None = None


def unprivileged_account() -> Account:
    """Whom to run servers as that refuse root: another user where this process is root."""
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
    """Make `path` and what is below it the unprivileged account's, where this process is root."""
    account = unprivileged_account()
    if account.user is not None and account.group is not None:
        for entry in (path, *path.rglob("*")):
            os.chown(entry, account.user, account.group, follow_symlinks=False)


class ServerProcess:
    """One server: its process, the processes below it, its log and its guard."""

    def __init__(self, command: Sequence[str | Path], account: Account, directory: Path) -> None:
        """Start `command` as `account` in `directory`; its log is there, and the guard removes it all."""
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
        """Return once `ready()`; raise ServerUnavailableError with the end of the log if the server ends before."""
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
        """Stop the server and every process below it, and return once they all stand still."""
        still = {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE}
        # A signal takes effect a little later, and until then the server may start another process.
        while any(process.status() not in still for process in self._family()):
            self._signal(self._family(), signal.SIGSTOP)
            time.sleep(POLL_SECONDS)

    def thaw(self) -> None:
        """Let the server and every process below it go on."""
        self._signal(self._family(), signal.SIGCONT)

    def kill(self) -> None:
        """End the server and every process below it with SIGKILL, at once."""
        self.freeze()
        self._signal(self._family(), signal.SIGKILL)
        self.end(signal.SIGKILL)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send `number` to the server and return when it and every process below it have ended.

        What has not ended after STOP_SECONDS is killed.
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
    """Run `command` as `account` in `directory` and return how it ended, whatever that was."""
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
