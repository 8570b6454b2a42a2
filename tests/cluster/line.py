"""A line to the API server that a test can cut, hold dead and mend, while everybody else still reaches the server."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import yaml

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from tests.cluster.harness import Cluster


class Line:
    """A TCP relay inside ``async with``; `kubeconfig` is the administrator's, by way of it."""

    kubeconfig: Path

    def __init__(self, cluster: Cluster, directory: Path, kubeconfig: Path | None = None) -> None:
        self._content: Any = yaml.safe_load((kubeconfig or cluster.kubeconfig).read_text())
        self._address = urlsplit(self._content["clusters"][0]["cluster"]["server"])
        self._directory = directory
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._open = True
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.accepted = 0
        self.refused = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self._content["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{port}"
        self.kubeconfig = self._directory / "line.kubeconfig"
        self.kubeconfig.write_text(yaml.safe_dump(self._content))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.mend()
        self._hang_up()
        await self._server.wait_closed()

    def cut(self) -> None:
        """Break every connection, and refuse new ones."""
        self._open = False
        self._hang_up()

    def hold(self) -> None:
        """Let nothing through, without a word to either side, as a dead router does."""
        self._flowing.clear()

    def mend(self) -> None:
        """From now on connections work; those that were held are gone."""
        if not self._flowing.is_set():
            self._hang_up()
        self._open = True
        self._flowing.set()

    def _hang_up(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._open:
            self.refused += 1
            writer.transport.abort()
            return
        self.accepted += 1
        try:
            far_reader, far_writer = await asyncio.open_connection(self._address.hostname, self._address.port)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, far_writer}
        self._writers |= ends
        try:
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
        finally:
            self._writers -= ends
            for each in ends:
                each.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
