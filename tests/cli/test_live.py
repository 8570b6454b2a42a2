"""The live table, on a terminal that the test simulates."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.cli.support import PATIENCE, PROGRAM, job

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r")


class Terminal:
    def __init__(self, descriptor: int, pid: int) -> None:
        self.shown = ""
        """Everything that was written, without control sequences."""
        self._descriptor = descriptor
        self._pid = pid

    def wait_for(self, pattern: str) -> None:
        """Read until this is on the screen."""
        end = time.monotonic() + PATIENCE
        while not re.search(pattern, self.shown):
            assert time.monotonic() < end, self.shown[-4000:]
            assert self._read(), self.shown[-4000:]

    def press(self, keys: bytes) -> None:
        os.write(self._descriptor, keys)

    def end(self) -> int:
        """Read to the end, and return the exit code."""
        while self._read():
            pass
        code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        self._pid = 0
        return code

    def kill(self) -> None:
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)

    def _read(self) -> bool:
        if not select.select([self._descriptor], [], [], PATIENCE)[0]:
            return False
        try:
            data = os.read(self._descriptor, 1 << 16)
        except OSError:  # the terminal was closed
            return False
        self.shown += _CONTROL.sub("", data.decode(errors="replace"))
        return bool(data)


@contextmanager
def on_a_terminal(*arguments: str | Path) -> Iterator[Terminal]:
    # In a separate program, because forking a process with threads, such as pytest, may deadlock.
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
    words = ["setsid", "--ctty", PROGRAM, *map(str, arguments)]
    pid = os.posix_spawnp(
        words[0],
        words,
        {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}} | {"TERM": "xterm"},
        file_actions=[(os.POSIX_SPAWN_DUP2, follower, number) for number in range(3)],
    )
    os.close(follower)
    terminal = Terminal(leader, pid)
    try:
        yield terminal
    finally:
        terminal.kill()
        os.close(leader)


def test_it_shows_past_and_next_runs_until_ctrl_c(tmp_path: Path) -> None:
    shell = """shell:
      command: echo the password is $PASSWORD
      env: [{name: PASSWORD, valueFrom: {secretKeyRef: {name: s, key: password}}}]"""
    (tmp_path / "a.yaml").write_text(
        job("prints")
        + job("yearly", 'cron: "@yearly"')
        + job("masked", what=shell)
        + job("fails", what="shell: {command: echo boom >&2; exit 3}", more="  retry: {maxRetries: 0}\n")
        + job("pod", what="container: {image: busybox}")
        + "---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {password: correct-horse}\n"
    )
    with on_a_terminal("run", "-f", tmp_path) as terminal:
        terminal.wait_for(r"started +job +outcome +took +attempt +late +reason or output")
        terminal.wait_for(r"pod needs a Pod")
        terminal.wait_for(r"prints +Succeeded +\d+ms +1 +\d+ms +this is prints")
        terminal.wait_for(r"fails +Failed +\d+ms +1 +\d+ms +exit code 3: boom")
        terminal.wait_for(r"masked +Succeeded .* the password is \*\*\*")
        terminal.wait_for(r"yearly +\d+d")
        terminal.press(b"\x03")
        assert terminal.end() == 0
        assert re.search(r"stopped: \d+ succeeded, \d+ failed|stopped: \d+ failed, \d+ succeeded", terminal.shown)
        assert "correct-horse" not in terminal.shown
        assert "Traceback" not in terminal.shown


def test_it_shows_running_jobs_and_a_second_ctrl_c_exits_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(job("sleeps", what="shell: {command: sleep 1000}"))
    with on_a_terminal("run", "-f", tmp_path) as terminal:
        terminal.wait_for(r"sleeps +running for")
        terminal.press(b"\x03")
        terminal.wait_for(r"1 still running; Ctrl-C again exits at once")
        terminal.press(b"\x03")
        assert terminal.end() == 130


def test_a_retry_is_shown(tmp_path: Path) -> None:
    more = "  retry: {maxRetries: 1, fixed: {intervals: [1h]}}\n"
    (tmp_path / "a.yaml").write_text(job("fails", what="shell: {command: exit 3}", more=more))
    with on_a_terminal("run", "-f", tmp_path) as terminal:
        terminal.wait_for(r"fails +attempt 2 in \d+m")
        terminal.press(b"\x03")
        assert terminal.end() == 0


def test_other_formats_work_on_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(job("prints"))
    with on_a_terminal("run", "-f", tmp_path, "-o", "json") as terminal:
        terminal.wait_for(r'\{"name":"prints","namespace":"default",')
        terminal.press(b"\x03")
        assert terminal.end() == 0
