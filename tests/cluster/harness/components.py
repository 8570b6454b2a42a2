"""One server of a cluster, which a test can kill, pause and start again in the middle of anything.

What blocks here blocks in a thread, so that a test's own event loop, on which an operator may run, goes on meanwhile;
and because nothing here belongs to an event loop, one cluster serves tests that each have their own. That no server
outlives the tests is the work of `tests.support.processes`.
"""

from __future__ import annotations

import asyncio
import random
import socket
from typing import TYPE_CHECKING

from tests.support.processes import Account, ServerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

# Below the ports from which the kernel takes those of outgoing connections: while a server is down for half a minute,
# one of its own clients could else be given its port, and it could not start again.
_PORTS = range(20_000, 32_000)


class Component:
    """A server by the name of its program; its command, its directory and its data stay while it is down."""

    def __init__(self, command: Sequence[str | Path], directory: Path, ready: Callable[[], bool]) -> None:
        """`command` runs in `directory`, which holds its log; `ready` says whether it answers, and may block."""
        self._command = command
        self._directory = directory
        self._ready = ready
        self._process: ServerProcess | None = None
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def name(self) -> str:
        return self._directory.name

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def running(self) -> bool:
        """Whether its process is there; a paused one is."""
        return self._process is not None and self._process.running()

    def spawn(self) -> None:
        """Start the process and wait for nothing."""
        if self.running:
            raise RuntimeError(f"{self.name} runs already")
        self._process = ServerProcess(self._command, Account(), self._directory)

    async def wait_ready(self) -> None:
        """Return once it answers; ServerUnavailableError with the end of its log if it ends or takes too long."""
        await asyncio.to_thread(self._running().wait_until, self._ready)

    async def start(self) -> None:
        """Start it, after `kill` and `terminate` too, and return once it answers."""
        self.spawn()
        await self.wait_ready()

    async def terminate(self) -> None:
        """Stop it with SIGTERM, or with SIGKILL after half a minute, and return when it is gone."""
        process = self._running()
        process.thaw()
        await asyncio.to_thread(process.end)
        self._process = None

    async def restart(self) -> None:
        await self.terminate()
        await self.start()

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would; it is gone on return."""
        self._running().kill()
        self._process = None

    def pause(self) -> None:
        """Stop it with SIGSTOP: connections stay open and nothing answers."""
        self._running().freeze()

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self._running().thaw()

    def log_tail(self, lines: int = 15) -> str:
        log = self._directory / "server.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""

    def _running(self) -> ServerProcess:
        if self._process is None:
            raise RuntimeError(f"{self.name} does not run: start it first")
        return self._process


def lasting_port() -> int:
    """A free TCP port of the loopback address that stays free while the server which uses it is down."""
    for port in random.sample(_PORTS, 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no free port found on 127.0.0.1 from {_PORTS.start} to {_PORTS.stop - 1}")
