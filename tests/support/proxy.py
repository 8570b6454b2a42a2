"""A TCP proxy between a program and a server: a slow link, one that drops answers, or one that receives nothing."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass
class Proxy:
    """Settings that a test may change while connections are open."""

    url: str = ""
    """The server's URL through the proxy."""
    rate: float = float("inf")
    """Bytes a second from the program to the server, for each connection."""
    drop_answers: bool = False
    """What the server sends is thrown away, and its connections stay open."""
    drop_answers_after: bytes = b""
    """Drop answers from the first time on that the program sends this; empty: never."""
    receives: asyncio.Event = field(default_factory=asyncio.Event)
    """Set; while a test clears it, nothing that the server sends is received."""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(16384):
            if self.drop_answers_after and self.drop_answers_after in data:
                self.drop_answers_after, self.drop_answers = b"", True
            writer.write(data)
            await writer.drain()
            await asyncio.sleep(len(data) / self.rate)
        writer.close()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await self.receives.wait() and (data := await reader.read(65536)):
            if not self.drop_answers:
                writer.write(data)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def proxy_of(url: str) -> AsyncIterator[Proxy]:
    """Run a proxy to the server of this URL."""
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    host, port = parts.hostname, parts.port
    proxy = Proxy()
    proxy.receives.set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        proxy._tasks.add(task)
        try:
            server_reader, server_writer = await asyncio.open_connection(host, port)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(proxy._up(reader, server_writer))
                tasks.create_task(proxy._down(server_reader, writer))
        except* (OSError, asyncio.CancelledError):
            writer.close()
        finally:
            proxy._tasks.discard(task)

    server = await asyncio.start_server(handle, "127.0.0.1")
    own = server.sockets[0].getsockname()[1]
    proxy.url = url.replace(f":{port}/", f":{own}/")
    try:
        yield proxy
    finally:
        server.close()
        for task in proxy._tasks:
            task.cancel()
