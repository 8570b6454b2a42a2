"""Name resolution for HTTP jobs, in threads of its own.

``getaddrinfo`` blocks, for half a minute if a name server does not answer, and can't be cancelled. In the event loop's
default threads, a few jobs with such names would block everything else that needs a thread, and the replica could not
exit before the last lookup ended. So each lookup has a daemon thread. The threads are shared fairly between namespaces,
and a lookup that nobody waits for any more counts until its thread ends: otherwise one namespace with slow name servers
would keep everybody's names from being looked up.

A resolver in Python or C (c-ares) would need no threads, but does not follow the system's configuration in every
detail: ``nsswitch.conf``, search domains, ``/etc/hosts``.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from contextlib import suppress
from typing import NamedTuple, Protocol

from aiohttp.abc import ResolveResult

from scheduledjob.jobs.fair_share import FairShare

from .request_errors import NameLookupError, RequestError

_AT_ONCE = 128
"""Maximum number of concurrent lookups; more wait."""

_REMEMBERED_SECONDS = 10.0
_REMEMBERED_NAMES = 4096

_KNOWN_BY_NUMBER = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


class Resolver(Protocol):
    """Looks up names."""

    async def resolve(self, host: str, port: int = 0, *, namespace: str = "") -> list[ResolveResult]:
        """Return the addresses of ``host`` in the order of preference. Raises ``OSError`` if it has none."""

    def waits_for(self, namespace: str) -> str:
        """Return what lookups of a namespace wait for; empty if there is room for another one."""


class ThreadResolver:
    """The system's resolver."""

    def __init__(self, threads: FairShare | None = None) -> None:
        self._threads = threads or FairShare(_AT_ONCE, _words)

    def waits_for(self, namespace: str) -> str:
        """Return what lookups of a namespace wait for; empty if there is room for another one."""
        return self._threads.words(namespace)

    async def resolve(self, host: str, port: int = 0, *, namespace: str = "") -> list[ResolveResult]:
        """Return the addresses of ``host`` in the system's order of preference. Raises ``OSError`` if it has none."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[ResolveResult]] = loop.create_future()

        def settle(result: list[ResolveResult] | OSError) -> None:
            self._threads.release(namespace)
            if found.done():
                return
            if isinstance(result, list):
                found.set_result(result)
            else:
                found.set_exception(result)

        def look_up() -> None:
            result: list[ResolveResult] | OSError
            try:
                result = _look_up(host, port)
            except OSError as error:
                result = error
            except UnicodeError:
                result = OSError("it is not a host name: a label in it is empty or longer than 63 characters")
            with suppress(RuntimeError):  # the loop was closed meanwhile, so nothing waits
                loop.call_soon_threadsafe(settle, result)

        await self._threads.acquire(namespace)
        try:
            threading.Thread(target=look_up, name=f"resolve {host}", daemon=True).start()
        except RuntimeError:  # the process can't have another thread
            self._threads.release(namespace)
            raise OSError("no thread is available for the lookup") from None
        return await found


class _Known(NamedTuple):
    until: float
    found: list[ResolveResult]


class _Lookup:
    """A lookup that is under way, and how many wait for it."""

    def __init__(self, task: asyncio.Task[list[ResolveResult]]) -> None:
        self.task = task
        self.waiting = 0


class NameCache:
    """Remembers addresses for some seconds, and makes one lookup for concurrent requests of the same name.

    Namespaces share nothing here, so that none waits for a lookup of another.
    """

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._known: dict[tuple[str, str, int], _Known] = {}
        self._lookups: dict[tuple[str, str, int], _Lookup] = {}

    async def addresses(self, namespace: str, host: str, port: int) -> list[ResolveResult]:
        """Return the addresses of a host, which may be a name or numeric.

        Raises ``NameLookupError``, and ``RequestError`` for a number that only some programs take for an address.
        """
        if ":" in host or host.replace(".", "").isdigit():
            return [_numeric(host, port)]
        key = (namespace, host, port)
        known = self._known.get(key)
        if known is not None and known.until > time.monotonic():
            return known.found
        lookup = self._lookups.get(key)
        if lookup is None:
            lookup = _Lookup(asyncio.ensure_future(self._resolver.resolve(host, port, namespace=namespace)))
            self._lookups[key] = lookup
        lookup.waiting += 1
        try:
            found = await asyncio.shield(lookup.task)
        except OSError as error:
            raise NameLookupError(error) from None
        except asyncio.CancelledError as error:
            if words := self._resolver.waits_for(namespace):
                error.args = (words,)
            raise
        finally:
            lookup.waiting -= 1
            if not lookup.waiting:
                self._lookups.pop(key, None)
                lookup.task.cancel()
        self._remember(key, found)
        return found

    def _remember(self, key: tuple[str, str, int], found: list[ResolveResult]) -> None:
        self._known.pop(key, None)
        while len(self._known) >= _REMEMBERED_NAMES:
            del self._known[next(iter(self._known))]
        self._known[key] = _Known(time.monotonic() + _REMEMBERED_SECONDS, found)


def _words(held: int) -> str:
    return f"waiting for the name server: {held} lookups of this namespace are not answered yet"


def _numeric(host: str, port: int) -> ResolveResult:
    parts = host.split(".")
    if ":" not in host and not (
        len(parts) == 4
        and all(part.isascii() and part.isdigit() and len(part) <= 3 and int(part) <= 255 for part in parts)
    ):
        # ``getaddrinfo`` would read 2130706433 and 127.1 as 127.0.0.1.
        raise RequestError(
            f'url: "{host}" is not a canonical IPv4 address: write http://host/path or https://host/path'
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return ResolveResult(hostname=host, host=host, port=port, family=family, proto=0, flags=_KNOWN_BY_NUMBER)


def _look_up(host: str, port: int) -> list[ResolveResult]:
    results: list[ResolveResult] = []
    for found, _, proto, _, address in socket.getaddrinfo(
        host, port, family=socket.AF_UNSPEC, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
    ):
        numeric = str(address[0])
        if found == socket.AF_INET6 and len(address) == 4 and address[3]:
            numeric = f"{numeric.partition('%')[0]}%{address[3]}"  # a link-local address needs its interface
        results.append(
            ResolveResult(
                hostname=host, host=numeric, port=int(address[1]), family=found, proto=proto, flags=_KNOWN_BY_NUMBER
            )
        )
    if not results:
        raise OSError(f'"{host}" has no address')
    return results
