"""Name resolution for HTTP jobs, on threads of its own.

``getaddrinfo`` blocks, for half a minute when a name server is silent. On the event loop's shared threads, a few
jobs with such names would stop everything else that needs a thread, and the replica could not end before the last
lookup did. So each lookup has a daemon thread; caching, and one lookup for all who ask for the same name at the
same time, are the connector's.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress

from aiohttp.abc import AbstractResolver, ResolveResult

_AT_ONCE = 64
"""Lookups at the same time; more wait."""


class ThreadResolver(AbstractResolver):
    """The system's resolver."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(_AT_ONCE)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of ``host`` in the system's order of preference; ``OSError`` if it has none."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[ResolveResult]] = loop.create_future()

        def settle(result: list[ResolveResult] | OSError) -> None:
            if found.done():
                return
            if isinstance(result, list):
                found.set_result(result)
            else:
                found.set_exception(result)

        def look_up() -> None:
            result: list[ResolveResult] | OSError
            try:
                result = _look_up(host, port, family)
            except OSError as error:
                result = error
            except UnicodeError:
                result = OSError("it is no host name: a label in it is empty or longer than 63 characters")
            with suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits any more
                loop.call_soon_threadsafe(settle, result)

        async with self._turn:
            threading.Thread(target=look_up, name=f"resolve {host}", daemon=True).start()
            return await found

    async def close(self) -> None:
        """Nothing to release: a thread ends with its lookup."""


def _look_up(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
    results: list[ResolveResult] = []
    for found, _, proto, _, address in socket.getaddrinfo(
        host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
    ):
        numeric = str(address[0])
        if found == socket.AF_INET6 and len(address) == 4 and address[3]:
            numeric = f"{numeric.partition('%')[0]}%{address[3]}"  # a link-local address means nothing without its link
        results.append(
            ResolveResult(
                hostname=host,
                host=numeric,
                port=int(address[1]),
                family=found,
                proto=proto,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
        )
    if not results:
        raise OSError(f'"{host}" has no address')
    return results
