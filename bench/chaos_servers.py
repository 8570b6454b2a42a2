"""What the chaos run breaks: links to the store that can be cut, and two Postgres servers, one of which can take over.

The servers replicate synchronously, so that a commit that was answered survives the loss of the primary. If this
process is root, each has its data on a small file system of its own, which a fault can fill.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg

from tests.support.postgres import PostgresServer
from tests.support.processes import ServerUnavailableError, give, run_to_end

if TYPE_CHECKING:
    from pathlib import Path

DISK = "600m"
"""The size of a server's file system."""


STANDBYS = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"


class Link:
    """A TCP proxy that is the address of the store for one program. Each direction can be slowed down or cut."""

    def __init__(self) -> None:
        self.port = 0
        self.target = 0
        """The port of the server that new connections are for."""
        self.speaks = asyncio.Event()
        """While it is not set, nothing gets through, and connections stay open."""
        self.speaks.set()
        self.rate = float("inf")
        """Bytes a second, for each connection, in each direction."""
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1")
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Break every connection."""
        for connection in self._connections:
            connection.cancel()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        writers = [writer]
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
            writers.append(back)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._copy(reader, back))
                both.create_task(self._copy(there, writer))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            for open_writer in writers:
                open_writer.transport.abort()

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(16_384):
            await self.speaks.wait()
            sink.write(data)
            await sink.drain()
            if self.rate != float("inf"):
                await asyncio.sleep(len(data) / self.rate)
        raise ConnectionResetError  # this end has closed, so the other direction ends too


class Server(PostgresServer):
    """A Postgres server, or with ``of`` the standby of another one."""

    def __init__(self, of: Server | None = None) -> None:
        super().__init__(durable=False, settings={"max_connections": "100", "max_wal_size": "64MB"})
        self._of = of
        self.mounted = os.geteuid() == 0
        if self.mounted:
            command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(self._directory)]
            self.mounted = subprocess.run(command, check=False, capture_output=True).returncode == 0
            give(self._directory)
            self._directory.chmod(0o700)
        if of is not None:
            self._password = of._password
            self.dsn = f"postgresql://postgres:{self._password}@127.0.0.1:{self.port}/postgres"

    @property
    def filler(self) -> Path:
        return self._directory / "filler"

    def _initialise(self) -> None:
        if self._of is None:
            super()._initialise()
            return
        command: list[str | Path] = [self.binaries / "pg_basebackup", "-D", self.data, "-d", self._of.dsn, "-R"]
        copied = run_to_end([*command, "-X", "stream", "-c", "fast", "-N"], self._account, self._directory)
        if copied.returncode != 0:
            raise ServerUnavailableError(f"pg_basebackup failed:\n{copied.stderr}")

    def fill_disk(self) -> None:
        with self.filler.open("wb") as file, suppress(OSError):
            while True:
                file.write(bytes(1 << 20))

    def free_disk(self) -> None:
        self.filler.unlink(missing_ok=True)

    def close(self) -> None:
        super().close()
        if self.mounted:
            subprocess.run(["umount", "-l", str(self._directory)], check=False, capture_output=True)
            with suppress(OSError):
                self._directory.rmdir()

    async def execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.dsn, timeout=10)
        try:
            await connection.execute(statement, timeout=10)
        finally:
            await connection.close(timeout=2)

    async def wait_for_standby(self) -> None:
        """Wait until a standby receives everything, and make commits wait for it from now on."""
        connection = await asyncpg.connect(self.dsn, timeout=10)
        try:
            while not await connection.fetchval(STANDBYS):  # noqa: ASYNC110  # the server sends no event
                await asyncio.sleep(0.2)
            await connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            await connection.execute("SELECT pg_reload_conf()")
        finally:
            await connection.close(timeout=2)

    async def promote(self) -> None:
        """Become the primary, without a standby."""
        await self.execute("ALTER SYSTEM RESET synchronous_standby_names")
        await self.execute("SELECT pg_promote()")
        await self.execute("SELECT pg_reload_conf()")


def port_of(dsn: str) -> int:
    port = urlsplit(dsn).port
    assert port
    return port
