"""Completion in the shells that people use: Tab is pressed in a real bash, zsh and fish, each on a terminal.

Each shell is set up as its users do it, by the script that kubectl itself writes for it, and nothing else of this
machine: no file of the user's own is read.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import shutil
import struct
import termios
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cluster.e2e.operators import PATIENCE
from tests.cluster.kubectl.support import end
from tests.cluster.kubectl.test_completion import Kubectl, kubectl
from tests.support.absent import do_without

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.cluster

__all__ = ["kubectl"]

SHELLS = ("bash", "zsh", "fish")
BASH_COMPLETION = Path("/usr/share/bash-completion/bash_completion")
_ESCAPES = re.compile(
    r"\x1b(?:\[[0-9;?<>=]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][A-Z0-9]|[=>78MDEHc])|[\x07\x00]"
)


class Terminal:
    """What a shell shows, and a keyboard."""

    def __init__(self, leader: int) -> None:
        self._leader = leader
        self._shown = ""
        self._more = asyncio.Event()
        asyncio.get_running_loop().add_reader(leader, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._leader, 1 << 16)
        except OSError:  # how a terminal says that nobody has it open any more
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._leader)
        self._shown += data.decode(errors="replace")
        self._more.set()

    @property
    def shown(self) -> str:
        return _ESCAPES.sub("", self._shown)

    def type(self, keys: str) -> None:
        """Press these, and forget what was shown before."""
        self._shown = ""
        os.write(self._leader, keys.encode())

    async def shows(self, pattern: str) -> str:
        """What is shown once it has this pattern in it."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not re.search(pattern, self.shown):
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            raise AssertionError(f"{pattern!r} is never shown; so far: {self.shown!r}") from None
        return self.shown

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._leader)
        os.close(self._leader)


@asynccontextmanager
async def terminal_of(words: list[str], environment: dict[str, str]) -> AsyncIterator[Terminal]:
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
    process = await asyncio.create_subprocess_exec(
        "setsid", "--ctty", "--wait", *words, env=environment, stdin=follower, stdout=follower, stderr=follower
    )
    os.close(follower)
    terminal = Terminal(leader)
    try:
        yield terminal
    finally:
        terminal.close()  # a shell ends when its terminal does
        await end(process)


def needed(shell: str) -> str:
    """The shell's program, or the test is not run."""
    program = shutil.which(shell)
    if program is None or (shell == "bash" and not BASH_COMPLETION.exists()):
        do_without("shells that complete", f"there is no {shell} here, or no bash-completion")
    return program


async def set_up(shell: str, kubectl: Kubectl, folder: Path) -> list[str]:
    """What starts this shell with kubectl's completion, and a prompt that is only its own."""
    program = needed(shell)
    script = folder / f"completion.{shell}"
    script.write_text((await kubectl("completion", shell)).stdout)
    if shell == "bash":
        start = folder / "bashrc"
        start.write_text(f"source {BASH_COMPLETION}\nsource {script}\nPS1='ready> '\n")
        return [program, "--noprofile", "--rcfile", str(start), "-i"]
    if shell == "zsh":
        lines = f"autoload -Uz compinit\ncompinit -u -d {folder}/dump\nsource {script}\nPS1='ready> '\n"
        (folder / ".zshrc").write_text(lines)
        return [program, "-o", "no_global_rcs", "-i"]
    setting = "function fish_prompt; echo -n 'ready> '; end; set -g fish_autosuggestion_enabled 0; set -g fish_greeting"
    return [program, "--no-config", "--init-command", f"{setting}; source {script}", "-i"]


@pytest.mark.parametrize("shell", SHELLS)
async def test_tab_completes(shell: str, kubectl: Kubectl, namespace: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "kubectl").symlink_to(kubectl.program)
    words = await set_up(shell, kubectl, home)
    environment = kubectl.environment | {"HOME": str(home), "ZDOTDIR": str(home), "XDG_DATA_HOME": str(home)}
    async with terminal_of(words, environment) as terminal:
        await terminal.shows("ready> ")
        # The only one that fits is written out, a command as well as what the cluster has.
        terminal.type("kubectl scheduledjob desc\t")
        await terminal.shows("describe ")
        terminal.type("ni\t")
        await terminal.shows("nightly ")
        terminal.type(f"-n {namespace[:-2]}\t")
        await terminal.shows(f"{namespace} ")
        terminal.type("-o js\t")
        await terminal.shows("json ")
        # What was completed is a command that works.
        terminal.type("\r")
        assert '"name": "nightly"' in await terminal.shows(r'"kind": "ScheduledJob"[^$]*ready> ')
        # Of several all are offered.
        terminal.type("kubectl scheduledjob suspend \t\t")
        shown = await terminal.shows("nightly")
        assert "hourly" in shown
