"""Connections to the server: how they are opened, shared and dropped, and what their failures mean.

Every statement of this store must be an index scan or a nested loop of index scans, whatever the table's statistics
say: a queue is empty now and full a second later, and a plan that suits an empty table would stay cached. So
the startup packet of a connection turns off all other plans, and has the server plan each statement once.

There may be a pooler (PgBouncer) in front of the server that gives each transaction another server connection. Then no
session state lasts: no such settings, no cached statements, no LISTEN. Such a pooler refuses the startup packet, or
reports another process id than the server's. Nothing else in this store depends on session state.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar

import asyncpg

from scheduledjob.engine.store import StoreError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

    from asyncpg import Connection as _Connection
    from asyncpg import Record

    from .address import Address

    Connection: TypeAlias = _Connection[Record]

_P = ParamSpec("_P")
_T = TypeVar("_T")

_MAX_RETRIES = 3

_SETTINGS = {
    **dict.fromkeys(
        (
            "enable_seqscan",
            "enable_bitmapscan",
            "enable_hashjoin",
            "enable_mergejoin",
            "enable_material",
            "enable_sort",
            "jit",
        ),
        "off",
    ),
    "plan_cache_mode": "force_generic_plan",
    # Claims rely on this, and somebody may have changed the database's default.
    "default_transaction_isolation": "read committed",
}

_UNAVAILABLE = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.PostgresSystemError,
    asyncpg.TransactionRollbackError,
    asyncpg.LockNotAvailableError,
    asyncpg.ReadOnlySQLTransactionError,  # a standby, until the failover is complete
    asyncpg.InvalidTransactionStateError,
    asyncpg.InternalClientError,
)


class PostgresServer:
    """How to reach one database."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.pooled: bool | None = None
        """Whether there is a pooler as described above; None: not known yet."""

    async def open(self) -> Connection:
        """Open a connection. Raises asyncpg's errors; use it within ``translate_errors``."""
        if self.pooled is None:
            try:
                connection = await self._connect(pooled=False)
            except asyncpg.PostgresError as error:
                if "startup parameter" not in str(error):
                    raise
                self.pooled = True
            else:
                try:
                    self.pooled = await connection.fetchval("SELECT pg_backend_pid()") != connection.get_server_pid()
                except BaseException:
                    connection.terminate()
                    raise
                if not self.pooled:
                    return connection
                connection.terminate()
        return await self._connect(pooled=self.pooled)

    async def _connect(self, *, pooled: bool) -> Connection:
        try:
            return await asyncpg.connect(
                self.address.dsn,
                timeout=self.address.connect_timeout,
                statement_cache_size=0 if pooled else 100,
                max_cached_statement_lifetime=0,
                server_settings={"application_name": self.address.application_name, **({} if pooled else _SETTINGS)},
            )
        except (asyncpg.PostgresError, *_UNAVAILABLE):
            raise
        except Exception as error:
            # A connection attempt runs resolvers and TLS, and reads certificates. Whatever fails in them, the store
            # can't be reached now, and the next attempt may succeed.
            raise OSError(f"{type(error).__name__}: {error}") from error

    @contextmanager
    def translate_errors(self, doing: str) -> Iterator[None]:
        """Raise a connection's errors as the store's errors, which name the server and what was being done."""
        try:
            yield
        except (StoreError, asyncio.CancelledError):
            raise
        except _UNAVAILABLE as error:
            if isinstance(error, TimeoutError):
                reason = "no answer in time"
            else:
                reason = str(error).strip() or type(error).__name__
            raise StoreUnavailable(f"Postgres at {self.address.shown} is unavailable ({doing}): {reason}") from error
        except asyncpg.PostgresError as error:
            raise StoreError(f"Postgres at {self.address.shown} refused ({doing}): {error}{_advice(error)}") from error


def _advice(error: asyncpg.PostgresError) -> str:
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
        return "; check the user and password in the store's URL"
    if isinstance(error, asyncpg.InvalidCatalogNameError):
        return "; create the database, or name another one in the store's URL"
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return (
            "; the role needs CREATE on the database for the first start, or a schema called scheduledjob that it owns"
        )
    if isinstance(error, (asyncpg.UndefinedTableError, asyncpg.UndefinedFunctionError, asyncpg.UndefinedColumnError)):
        return "; run scheduledjob migrate"
    return ""


def retry_deadlocks(call: Callable[_P, Coroutine[Any, Any, _T]]) -> Callable[_P, Coroutine[Any, Any, _T]]:
    """Repeat a call whose transaction the server rolled back to end a deadlock.

    Clients lock rows in order of slug and owners in order of key, so they can deadlock.
    """

    @wraps(call)
    async def with_retries(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        for _ in range(_MAX_RETRIES):
            try:
                return await call(*args, **kwargs)
            except StoreUnavailable as error:
                if not isinstance(error.__cause__, asyncpg.TransactionRollbackError):
                    raise
        return await call(*args, **kwargs)

    return with_retries


class Pool:
    """A few connections for the replica's event loop.

    asyncpg's own pool resets the session at each release, which costs a round trip and is useless for sessions without
    state. It also waits for the server to confirm that a statement is cancelled, even if the server does not answer.
    This pool drops a connection whose statement did not complete.
    """

    def __init__(self, server: PostgresServer, size: int, timeout: float) -> None:
        self._server = server
        self._timeout = timeout
        self._slots = asyncio.Semaphore(size)
        self._idle: list[Connection] = []
        self._used: set[Connection] = set()
        self._closed = False

    @asynccontextmanager
    async def connection(self, doing: str, time_limit: float | None = None) -> AsyncIterator[Connection]:
        """Lend a connection for a few statements that together take ``time_limit`` seconds at most."""
        with self._server.translate_errors(doing):
            async with asyncio.timeout(time_limit or self._timeout), self._slots:
                connection = await self._take()
                try:
                    yield connection
                except asyncpg.PostgresError:
                    self._release(connection)
                    raise
                except StoreError:
                    self._release(connection)
                    raise
                except BaseException:
                    connection.terminate()
                    raise
                else:
                    self._release(connection)
                finally:
                    self._used.discard(connection)

    async def _take(self) -> Connection:
        if self._closed:
            raise asyncpg.InterfaceError("the store is closed")
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                break
        else:
            connection = await self._server.open()
        self._used.add(connection)
        return connection

    def _release(self, connection: Connection) -> None:
        if self._closed or connection.is_closed() or connection.is_in_transaction():
            connection.terminate()
        else:
            self._idle.append(connection)

    async def close(self) -> None:
        """Close idle connections properly, and terminate those in use."""
        self._closed = True
        idle, self._idle = self._idle, []
        for connection in self._used:
            connection.terminate()
        for connection in idle:
            try:
                await connection.close(timeout=1.0)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                connection.terminate()
