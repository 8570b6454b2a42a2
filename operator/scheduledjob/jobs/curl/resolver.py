"""Name resolution for HTTP jobs, in threads of its own.

``getaddrinfo`` blocks, for half a minute if a name server does not answer. In the event loop's default threads, a few
jobs with such names would block everything else that needs a thread, and the replica could not exit before the last
lookup ended. So each lookup has a daemon thread. The connector of aiohttp caches results, and makes one lookup for
concurrent requests of the same name.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress

from aiohttp.abc import AbstractResolver, ResolveResult

_AT_ONCE = 64
"""Maximum number of concurrent lookups; more wait."""


class ThreadResolver(AbstractResolver):
    """The system's resolver."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(_AT_ONCE)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of ``host`` in the system's order of preference. Raises ``OSError`` if it has none."""
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
                result = OSError("it is not a host name: a label in it is empty or longer than 63 characters")
            with suppress(RuntimeError):  # the loop was closed meanwhile, so nothing waits
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
            numeric = f"{numeric.partition('%')[0]}%{address[3]}"  # a link-local address needs its interface
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
