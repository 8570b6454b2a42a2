"""Opens sockets: to the first address of a name that answers ("happy eyeballs", RFC 8305)."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiohttp.abc import ResolveResult

_NEXT_ADDRESS_DELAY = 0.25
"""Seconds without an answer after which the next address of a name is tried as well."""

_KERNEL_BUFFER = 64 << 10
"""Bytes that the kernel receives before the process reads them. TLS reads as much at once, and keeps it in memory."""


async def dial(found: Sequence[ResolveResult], check: Callable[[str], None]) -> socket.socket:
    """Return a socket that is connected to the first address that answers. Raises the error of the first address."""
    if len(found) == 1:
        return await _connected(found[0], check)
    waiting = _alternating(found)
    attempts: set[asyncio.Task[socket.socket]] = set()
    errors: list[OSError] = []
    opened: socket.socket | None = None
    try:
        while opened is None and (waiting or attempts):
            if waiting:
                attempts.add(asyncio.ensure_future(_connected(waiting.pop(0), check)))
            done, attempts = await asyncio.wait(
                attempts,
                timeout=_NEXT_ADDRESS_DELAY if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for attempt in done:
                error = attempt.exception()
                if error is None:
                    if opened is None:
                        opened = attempt.result()
                    else:
                        attempt.result().close()
                elif isinstance(error, OSError):
                    errors.append(error)
                else:
                    raise error
        if opened is None:
            raise errors[0]
        return opened
    finally:
        for attempt in attempts:
            attempt.add_done_callback(_close_socket)
            attempt.cancel()


def _close_socket(attempt: asyncio.Task[socket.socket]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


async def _connected(address: ResolveResult, check: Callable[[str], None]) -> socket.socket:
    check(address["host"])
    opened = socket.socket(address["family"], socket.SOCK_STREAM, address["proto"])
    try:
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _KERNEL_BUFFER)
        host, _, scope = address["host"].partition("%")
        numeric: tuple[str, int] | tuple[str, int, int, int] = (host, address["port"])
        if scope:
            numeric = (host, address["port"], 0, int(scope) if scope.isdigit() else socket.if_nametoindex(scope))
        await asyncio.get_running_loop().sock_connect(opened, numeric)
    except BaseException:
        opened.close()
        raise
    return opened


def _alternating(found: Sequence[ResolveResult]) -> list[ResolveResult]:
    """Return the addresses with IPv6 and IPv4 in turn, beginning with the family of the first one."""
    first = [address for address in found if address["family"] == found[0]["family"]]
    others = [address for address in found if address["family"] != found[0]["family"]]
    ordered: list[ResolveResult] = []
    while first or others:
        ordered += first[:1] + others[:1]
        del first[:1], others[:1]
    return ordered
