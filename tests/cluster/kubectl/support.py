"""The plugin as a process of its own, with its output in pipes or on a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import sys
import termios
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.cluster.e2e.operators import PATIENCE

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = (sys.executable, "-m", "scheduledjob.cli.kubectl.plugin")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Done(NamedTuple):
    """How a command ended, and what it wrote; on a terminal all of it is `out`."""

    code: int
    out: str
    err: str

    @property
    def plain(self) -> str:
        """What stands on a terminal, without colours."""
        return COLOUR.sub("", self.out).replace("\r\n", "\n")


class Plugin:
    """Runs the plugin with a kubeconfig whose context has a namespace."""

    def __init__(self, kubeconfig: Path, namespace: str, folder: Path) -> None:
        content: Any = yaml.safe_load(kubeconfig.read_text())
        for context in content["contexts"]:
            context["context"]["namespace"] = namespace
        self.kubeconfig = folder / f"{kubeconfig.stem}-{namespace}.kubeconfig"
        self.kubeconfig.touch(mode=0o600)
        self.kubeconfig.write_text(yaml.safe_dump(content))
        kept = {key: value for key, value in os.environ.items() if not key.startswith("SJOB_") and key != "NO_COLOR"}
        self.environment = kept | {"KUBECONFIG": str(self.kubeconfig), "TERM": "xterm", "COLUMNS": "200"}

    async def __call__(self, *arguments: str | Path, input: str = "", **environment: str) -> Done:
        """With its output in pipes."""
        process = await self.start(*arguments, **environment)
        try:
            async with asyncio.timeout(PATIENCE):
                out, err = await process.communicate(input.encode())
        finally:
            await end(process)
        assert process.returncode is not None
        return Done(process.returncode, out.decode(), err.decode())

    async def start(self, *arguments: str | Path, **environment: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *PROGRAM,
            *map(str, arguments),
            env=self.environment | environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def on_a_terminal(self, *arguments: str | Path, **environment: str) -> Done:
        """With a terminal for all of its streams."""
        leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        process = await asyncio.create_subprocess_exec(
            "setsid",
            "--ctty",
            *PROGRAM,
            *map(str, arguments),
            env=self.environment | environment,
            stdin=follower,
            stdout=follower,
            stderr=follower,
        )
        os.close(follower)
        try:
            async with asyncio.timeout(PATIENCE):
                shown = await asyncio.to_thread(_read_all, leader)
                code = await process.wait()
        finally:
            await end(process)
            os.close(leader)
        return Done(code, shown, "")


def _read_all(descriptor: int) -> str:
    found = b""
    with contextlib.suppress(OSError):  # how a terminal says that nobody has it open any more
        while data := os.read(descriptor, 1 << 16):
            found += data
    return found.decode(errors="replace")


async def end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        await process.wait()
