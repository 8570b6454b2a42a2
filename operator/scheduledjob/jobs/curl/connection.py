"""A connection to an HTTP server: a stream of what the server sends, with as little read ahead as possible."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from .response import LineTooLongError, StreamEndedError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from scheduledjob.jobs.fair_share import Reservation

READ_AHEAD = 16 << 10
"""Bytes that a connection receives before anybody reads them."""

WRITE_AHEAD = 64 << 10
"""Bytes of a request that wait in the process for a server that reads slowly."""


class Connection(asyncio.BufferedProtocol):
    """A connection. ``buffer`` is where the event loop puts what it receives, for a moment."""

    def __init__(self, buffer: bytearray) -> None:
        self._buffer = buffer
        self._received = bytearray()
        self._ended = False
        self._error: Exception | None = None
        self._paused = False
        self._reader: asyncio.Future[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self.when_unusable: Callable[[], None] | None = None
        """Called when the connection ends or receives data; set while it is idle."""
        self.reused = False
        self.answered = False
        """Whether the server has sent anything since the request."""
        self.memory: Reservation | None = None
        """Of the attempt that uses the connection."""
        self.incomplete = False
        """Whether a request was not sent to its end."""

    # ------------------------------------------------------------ called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass
        self._transport.set_write_buffer_limits(WRITE_AHEAD)
        if hasattr(transport, "set_read_buffer_limits"):  # that of TLS
            transport.set_read_buffer_limits(READ_AHEAD)

    def get_buffer(self, sizehint: int) -> bytearray:
        # All connections share the buffer: the event loop calls ``buffer_updated`` before anything else.
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._received += memoryview(self._buffer)[:nbytes]
        self.answered = True
        if len(self._received) >= READ_AHEAD:
            self._pause()
        self._wake()

    def eof_received(self) -> bool:
        self._ended = True
        self._wake()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._error = self._error or exc
        self._writable.set()
        self._wake()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _wake(self) -> None:
        if self.when_unusable is not None:
            self.when_unusable()
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _pause(self) -> None:
        if not self._paused and not self._ended and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._paused and not self._ended and not self._transport.is_closing():
            self._transport.resume_reading()
        self._paused = False

    # ------------------------------------------------------------ called by the executor

    @property
    def usable(self) -> bool:
        """Whether a request can be sent on it."""
        return not (self._ended or self._received or self.incomplete or self._transport.is_closing())

    async def send(self, head: bytes, body: bytes | None) -> None:
        """Send a request. Returns early if the connection ends: the response may have been sent before."""
        self.answered = False
        self._transport.write(head + body if body and len(body) <= WRITE_AHEAD else head)
        if body and len(body) > WRITE_AHEAD:
            view = memoryview(body)
            for start in range(0, len(body), WRITE_AHEAD):
                await self._writable.wait()
                if self._ended or self._transport.is_closing():
                    return
                self._transport.write(view[start : start + WRITE_AHEAD])

    async def _receive(self) -> None:
        self._resume()
        self._reader = asyncio.get_running_loop().create_future()
        try:
            await self._reader
        finally:
            self._reader = None

    async def read_line(self, limit: int) -> bytes:
        """Return the next line without its end. Raises ``StreamEndedError`` and ``LineTooLongError``."""
        searched, reserved = 0, False
        while (end := self._received.find(b"\n", searched)) < 0:
            searched = len(self._received)
            if searched > limit:
                raise LineTooLongError
            if self._ended:
                raise StreamEndedError(searched) from self._error
            if searched > READ_AHEAD and not reserved and self.memory is not None:
                await self.memory.change(limit)
                reserved = True
            else:
                await self._receive()
        if end > limit:
            raise LineTooLongError
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line.removesuffix(b"\r")

    async def read(self, limit: int) -> bytes:
        """Return between 1 and ``limit`` bytes; nothing at the end. Raises ``StreamEndedError`` if it broke off."""
        while not self._received:
            if self._ended:
                if self._error is not None:
                    raise StreamEndedError from self._error
                return b""
            await self._receive()
        data = bytes(self._received[:limit])
        del self._received[:limit]
        return data

    async def start_tls(self, context: ssl.SSLContext, server_name: str) -> None:
        """Speak TLS from now on. Raises ``OSError`` if the handshake fails."""
        self._resume()
        transport = await asyncio.get_running_loop().start_tls(
            self._transport, self, context, server_hostname=server_name
        )
        assert transport is not None
        self.connection_made(transport)

    def rest(self) -> None:
        """Read on while nobody waits for data, to notice when the server closes the connection."""
        self._resume()

    def close(self) -> None:
        """Close the connection at once."""
        self._transport.abort()
