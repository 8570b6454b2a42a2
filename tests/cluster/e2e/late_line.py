"""A line to the store on which what was sent can stay under way for long, and arrive after all."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class LateLine:
    """A TCP relay inside ``async with``; ``dsn`` is that of the store, by way of it."""

    def __init__(self, dsn: str) -> None:
        self._far = urlsplit(dsn)
        self._server: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._relays: set[asyncio.Task[None]] = set()
        self.dsn = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.dsn = self._far._replace(netloc=f"{self._far.username}:{self._far.password}@127.0.0.1:{port}").geturl()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for relay in self._relays:
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)

    def hold(self) -> None:
        """What is sent to the store is under way from now on."""
        self._flowing.clear()

    def deliver(self) -> None:
        """It arrives, whether whoever sent it still waits for an answer or not."""
        self._flowing.set()

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relay = asyncio.create_task(self._relay(reader, writer))
        self._relays.add(relay)
        relay.add_done_callback(self._relays.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self._far.hostname, self._far.port)
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(_pump(reader, far_writer, self._flowing.wait))
                pumps.create_task(_pump(far_reader, writer, None))
        finally:
            for end in (writer, far_writer):
                end.transport.abort()
                with contextlib.suppress(OSError):
                    await end.wait_closed()


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, may: Callable[[], Awaitable[object]] | None
) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            if may is not None:
                await may()
            writer.write(data)
            await writer.drain()
        writer.write_eof()
