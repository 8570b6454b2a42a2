"""Connections to the server: how they are opened, shared and dropped, and what their failures mean.

Every statement of this store must be an index scan or a nested loop of index scans, whatever the table's statistics
say: a queue is empty now and full a second later, and a plan that suits an empty table would stay cached. So
the startup packet of a connection turns off all other plans, and has the server plan each statement once.

There may be a pooler (PgBouncer) in front of the server that gives each transaction another server connection. Then no
session state lasts: no such settings, no cached statements, no LISTEN. Such a pooler refuses the startup packet, or
reports another process id than the server's. Nothing else in this store depends on session state.

A client may stop inside a transaction (a suspended process, a lost network), and its locks stay. So the server ends
what stands still, whatever became of its client: a session that is idle in a transaction after ``IDLE_LIMIT``, a wait
for a lock after ``LOCK_LIMIT``, a statement after the store's time limit. No transaction of this store holds a row for
longer than a fraction of a lease that way. Behind such a pooler, ``Pool.transaction`` sets these limits for its own
transaction, and single statements have only those that the role has (``ALTER ROLE ... SET statement_timeout``).
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar

import asyncpg

from scheduledjob.engine.store import StoreError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping

    from asyncpg import Connection as _Connection
    from asyncpg import Record

    from .address import Address

    Connection: TypeAlias = _Connection[Record]

_P = ParamSpec("_P")
_T = TypeVar("_T")

_MAX_RETRIES = 3
_MAX_WAITS = 10
"""How often a call that waited too long for a lock is repeated. The server has ended stalled clients by then."""

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

LOCK_LIMIT = 0.5
"""Seconds that a statement waits for a lock at most."""
IDLE_LIMIT = 2.0
"""The longest time in seconds that a transaction waits for the next statement of its client."""
SILENCE_LIMIT = 5.0
"""Seconds after which the server drops a connection whose client does not receive what it sends: a statement timeout
does not end that wait."""
CHECK_INTERVAL = 1.0
"""Seconds between two checks of the server whether the client of a running statement is still connected."""
CLOSE_LIMIT = 1.0
"""Seconds that closing a connection may take, with the cancellation of its statement."""

_NEWER = {
    "client_connection_check_interval": f"{CHECK_INTERVAL * 1000:.0f}",  # since Postgres 14, on most systems
    "tcp_user_timeout": f"{SILENCE_LIMIT * 1000:.0f}",  # since Postgres 12
}
"""Settings that some servers do not know. They work without."""

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

    def __init__(self, address: Address, statement_limit: float) -> None:
        """``statement_limit``: the seconds after which the server cancels a statement."""
        self.address = address
        self._limits = {
            "statement_timeout": f"{statement_limit * 1000:.0f}",
            "lock_timeout": f"{LOCK_LIMIT * 1000:.0f}",
            "idle_in_transaction_session_timeout": f"{IDLE_LIMIT * 1000:.0f}",
        }
        self._newer = _NEWER
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

    def begin(self, limits: Mapping[str, float] | None = None) -> str:
        """Return the statements that begin a transaction with the store's limits, or others (in seconds)."""
        given = {name: f"{limit * 1000:.0f}" for name, limit in (limits or {}).items()}
        given = (self._limits if self.pooled else {}) | given
        return ";".join(["BEGIN", *(f"SET LOCAL {name} = {milliseconds}" for name, milliseconds in given.items())])

    async def _connect(self, *, pooled: bool) -> Connection:
        settings = {} if pooled else _SETTINGS | self._limits | self._newer
        try:
            return await asyncpg.connect(
                self.address.dsn,
                timeout=self.address.connect_timeout,
                statement_cache_size=0 if pooled else 100,
                max_cached_statement_lifetime=0,
                server_settings={"application_name": self.address.application_name, **settings},
            )
        except (asyncpg.UndefinedObjectError, asyncpg.InvalidParameterValueError) as error:
            if pooled or not any(name in str(error) for name in self._newer):
                raise
            self._newer = {}
            return await self._connect(pooled=pooled)
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


def retry_rollbacks(
    *, waits: int | None = None
) -> Callable[[Callable[_P, Coroutine[Any, Any, _T]]], Callable[_P, Coroutine[Any, Any, _T]]]:
    """Repeat a call whose transaction the server rolled back to end a deadlock, or up to ``waits`` waits for a lock.

    Without ``waits``, until clients of this store that stand still are gone.

    Clients lock rows in order of slug and owners in order of key, so they can deadlock. The lock of a client that
    stands still is gone when the server has ended its session.
    """

    def decorate(call: Callable[_P, Coroutine[Any, Any, _T]]) -> Callable[_P, Coroutine[Any, Any, _T]]:
        @wraps(call)
        async def with_retries(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            left = {
                asyncpg.TransactionRollbackError: _MAX_RETRIES,
                asyncpg.LockNotAvailableError: _MAX_WAITS if waits is None else waits,
            }
            while True:
                try:
                    return await call(*args, **kwargs)
                except StoreUnavailable as error:
                    reason = next((kind for kind in left if isinstance(error.__cause__, kind)), None)
                    if reason is None or not left[reason]:
                        raise
                    left[reason] -= 1

        return with_retries

    return decorate


def waited_in_vain(error: StoreError) -> bool:
    """Return whether the server cancelled a statement because it waited too long for a lock."""
    return isinstance(error.__cause__, asyncpg.LockNotAvailableError)


class _Ended(asyncpg.TransactionRollbackError):
    """The server ended the session within a transaction. Nothing was committed, so the transaction may be repeated."""


class Pool:
    """A few connections for the replica's event loop.

    asyncpg's own pool resets the session at each release, which costs a round trip and is useless for sessions without
    state. It also waits for the server to confirm that a statement is cancelled, even if the server does not answer.
    This pool does not use a connection again whose statement did not complete, and has the server cancel the statement
    in the background.
    """

    def __init__(self, server: PostgresServer, size: int, timeout: float) -> None:
        self._server = server
        self._timeout = timeout
        self._slots = asyncio.Semaphore(size)
        self._idle: list[Connection] = []
        self._used: set[Connection] = set()
        self._closing: set[asyncio.Task[None]] = set()
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
                    self._abandon(connection)
                    raise
                else:
                    self._release(connection)
                finally:
                    self._used.discard(connection)

    @asynccontextmanager
    async def transaction(
        self, doing: str, time_limit: float | None = None, limits: Mapping[str, float] | None = None
    ) -> AsyncIterator[Connection]:
        """Lend a connection in a transaction, which the server ends if it stands still.

        ``limits`` are other limits of the server than the store's, in seconds.
        """
        async with self.connection(doing, time_limit) as connection:
            await connection.execute(self._server.begin(limits))
            try:
                yield connection
                if connection.is_closed():
                    raise asyncpg.InterfaceError("connection is closed")
            except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, StoreError) as error:
                if not connection.is_closed() and not isinstance(error, asyncpg.InternalClientError):
                    await connection.execute("ROLLBACK")
                    raise
                raise _Ended(f"the server ended the transaction: {error}") from error
            try:
                await connection.execute("COMMIT")
            except asyncpg.InternalClientError as error:  # it was not sent, because the server's farewell is unread
                raise _Ended(f"the server ended the transaction: {error}") from error

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

    def _abandon(self, connection: Connection) -> None:
        """Cancel the statement of a connection, and close it, without waiting for either."""
        if self._closed:
            connection.terminate()
            return
        task = asyncio.create_task(_close(connection), name="scheduledjob-close-connection")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close idle connections properly, and terminate those in use."""
        self._closed = True
        idle, self._idle = self._idle, []
        for connection in self._used:
            connection.terminate()
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        for connection in idle:
            await _close(connection)


async def _close(connection: Connection) -> None:
    """Close a connection. asyncpg sends the request to cancel its statement first."""
    try:
        await connection.close(timeout=CLOSE_LIMIT)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection.terminate()
